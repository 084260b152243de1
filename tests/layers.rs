//! The architecture's invariants, each a test: who may import whom, and who may name what. ARCHITECTURE.md says why.
//!
//! Works on the text of `src/` with comments, literals and unit tests blanked out, so it needs no compiler plugin.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is told by a panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules, one layer a row: a module imports only from rows below its own, never from its own row.
const LAYERS: &[&str] = &[
    "main",
    "cli",
    "command",
    "session",
    "render export store otlp probe",
    "aggregate protocol",
    "report",
    "inspect symbol",
    "target",
    "event",
    "error units",
];

/// Modules that compute and nothing else: same input, same output, and no way to fail but on write. They import only
/// each other, and errors and units.
const PURE: &[&str] = &["render", "aggregate", "protocol", "report", "event", "error", "units"];

/// What a pure module must not name, one list a row: files and processes, time and threads, foreign code.
const IMPURE: &[&str] = &["std::fs std::env std::net std::process std::os", "std::thread Instant SystemTime", "libc::"];

/// Names that only some files may say: crates behind one door, and what must not happen just anywhere.
const DOORS: &[(&str, &[&str])] = &[
    ("libbpf_rs libbpf_sys plain:: abi::", &["src/probe"]),
    ("blazesym framehop", &["src/symbol"]),
    ("inferno", &["src/render/svg"]),
    ("rusqlite", &["src/store"]),
    ("clap clap_complete clap_mangen", &["src/cli", "src/command"]),
    ("println! eprintln! print! eprint! process::exit", &["src/cli", "src/main.rs"]),
    ("unsafe", &["src/probe", "src/target", "src/symbol/image.rs", "src/cli/progress.rs"]),
];

/// Places that may compare CPython versions.
const VERSIONS: &[&str] = &["src/target/python"];

#[test]
fn imports_point_downward() {
    fail_on(sources().iter().flat_map(wrong_imports).collect());
}

#[test]
fn every_module_has_a_layer() {
    let missing = sources()
        .iter()
        .filter(|source| source.module() != "lib" && layer(source.module()).is_none())
        .map(|source| format!("{}: module `{}` has no layer", source.path, source.module()))
        .collect();
    fail_on(missing);
}

#[test]
fn names_stay_behind_their_doors() {
    fail_on(sources().iter().flat_map(wrong_names).collect());
}

#[test]
fn pure_modules_are_pure() {
    fail_on(sources().iter().flat_map(impurities).collect());
}

#[test]
fn only_the_interpreters_module_compares_versions() {
    fail_on(sources().iter().flat_map(version_comparisons).collect());
}

#[test]
fn only_the_walker_compares_versions() {
    let mut sources = files(Path::new("bpf"));
    sources.retain(|path| !path.ends_with("lib/python.bpf.h"));
    let compares = |path: &PathBuf| Source::read(path).lines_with(&["python.version", "py->version"], "is compared");
    fail_on(sources.iter().flat_map(compares).collect());
}

#[test]
fn commands_do_not_import_commands() {
    fail_on(sources().iter().flat_map(imports_between_commands).collect());
}

/// The rules themselves: each catches the violation it is there for.
#[test]
fn violations_are_caught() {
    let caught = |path: &str, text: &str, rule: fn(&Source) -> Vec<String>| {
        let found = rule(&Source::new(path, text));
        assert!(!found.is_empty(), "not caught in {path}: {text}");
    };
    caught("src/event/mod.rs", "use crate::target::Target;", wrong_imports);
    caught("src/render/text.rs", "use crate::{report::Report, probe};", wrong_imports);
    caught("src/render/text.rs", "fn f() { crate::export::folded() }", wrong_imports);
    caught("src/symbol/native.rs", "use super::super::inspect::locks;", wrong_imports);
    caught("src/aggregate/hist.rs", "pub(crate) use crate::{event, symbol::{self, Frame}};", wrong_imports);
    caught("src/target/elf.rs", "use blazesym::symbolize;", wrong_names);
    caught("src/session.rs", "fn f() { println!(\"hello\") }", wrong_names);
    caught("src/report/mod.rs", "let x = unsafe { *p };", wrong_names);
    caught("src/command/flame.rs", "std::process::exit(1)", wrong_names);
    caught("src/aggregate/hist.rs", "let now = Instant::now();", impurities);
    caught("src/symbol/python.rs", "if layout.version_hex >= 0x030d0000 {", version_comparisons);
    caught("src/command/python/pycpu.rs", "use crate::command::kernel::flame;", imports_between_commands);
    caught("src/command/python/pycpu.rs", "use super::dump;", imports_between_commands);

    let passes = |path: &str, text: &str, rule: fn(&Source) -> Vec<String>| {
        assert_eq!(rule(&Source::new(path, text)), Vec::<String>::new(), "{path}: {text}");
    };
    passes("src/event/mod.rs", "// use crate::probe::Plan;\nuse crate::units::Bytes;", wrong_imports);
    passes("src/event/mod.rs", "/* println!() */ let s = \"println!(unsafe)\";", wrong_names);
    passes("src/probe/ring.rs", "use crate::{Error, Result, symbol::Symbolizer};", wrong_imports);
    passes("src/aggregate/hist.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}", impurities);
    passes("src/target/python/layout.rs", "if version_hex >= 0x030d0000 {", version_comparisons);
    passes("src/command/python/pycpu.rs", "use crate::command::args::LiveArgs;", imports_between_commands);
}

fn wrong_imports(source: &Source) -> Vec<String> {
    let from = source.module();
    let wrong = |(line, to): (usize, String)| {
        let downward = layer(&to) > layer(from) && (PURE.contains(&to.as_str()) || !PURE.contains(&from));
        let fine = to == from || downward || layer(&to).is_none();
        (!fine).then(|| format!("{}:{line}: `{from}` may not import `{to}`", source.path))
    };
    source.imports().into_iter().filter_map(wrong).collect()
}

fn wrong_names(source: &Source) -> Vec<String> {
    let door = |(names, places): &(&str, &[&str])| match source.is_in(places) {
        true => Vec::new(),
        false => source.lines_with(&split(names), &format!("only for {}", places.join(", "))),
    };
    DOORS.iter().flat_map(door).collect()
}

fn impurities(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.module()) {
        return Vec::new();
    }
    IMPURE.iter().flat_map(|names| source.lines_with(&split(names), "in a pure module")).collect()
}

fn version_comparisons(source: &Source) -> Vec<String> {
    if source.is_in(VERSIONS) {
        return Vec::new();
    }
    let mut found = source.lines_with(&["0x030"], "a CPython version");
    for operator in ["<", ">", "==", "!="] {
        for name in ["version_hex", "minor_hex()", "minor_hex", "minor"] {
            found.extend(source.lines_with(&[&format!("{name} {operator}")], "compares a CPython version"));
        }
    }
    found
}

/// A command may use what stands directly in `command` (args, the traits), not another command.
fn imports_between_commands(source: &Source) -> Vec<String> {
    let inside = source.path.strip_prefix("src/command/");
    let Some(inside) = inside.filter(|file| file.contains('/') && !file.ends_with("mod.rs")) else { return Vec::new() };
    let group = inside.split('/').next().unwrap_or_default();
    let mut found = source.lines_with(&["super::"], "a command reaches only upward through `crate::`");
    for other in ["trace", "kernel", "python", "triage", "playbook", group] {
        found.extend(source.lines_with(&[&format!("crate::command::{other}")], "imports another command"));
    }
    found
}

/// Row of the module; none for what is not a module (`crate::Error`).
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| split(row).contains(&module))
}

fn split(names: &str) -> Vec<&str> {
    names.split_whitespace().collect()
}

fn fail_on(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n  {}\n", violations.join("\n  "));
}

/// One source file: its path from the package's root and its code with comments, literals and unit tests blanked.
struct Source {
    path: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let tests = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
        Self { path: path.to_owned(), code: code[..tests].to_owned() }
    }

    fn read(path: &Path) -> Self {
        Self::new(&path.display().to_string(), &fs::read_to_string(path).unwrap())
    }

    /// `probe` for `src/probe/ring.rs` as for `src/probe.rs`.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split(['/', '.']).next().unwrap_or_default()
    }

    /// Steps from the file's module to the crate's root.
    fn depth(&self) -> usize {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inside.split('/').count()
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// Top-level modules named by `crate::`, `pylow::` or enough `super::`, with their lines.
    fn imports(&self) -> Vec<(usize, String)> {
        let root = "super::".repeat(self.depth());
        let prefixes = ["crate::", "pylow::", &root];
        let mut found = Vec::new();
        for (number, prefix) in prefixes.iter().flat_map(|prefix| self.positions(prefix).map(move |at| (at, *prefix))) {
            let line = self.code[..number].lines().count().max(1);
            let path = &self.code[number + prefix.len()..];
            found.extend(first_segments(path).into_iter().map(|name| (line, name)));
        }
        found
    }

    /// Where `word` starts a path: not in the middle of a longer name or path.
    fn positions<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code.match_indices(word).map(|(at, _)| at).filter(|at| !self.code[..*at].ends_with(in_name_or_path))
    }

    fn lines_with(&self, words: &[&str], why: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in self.code.lines().enumerate() {
            for word in words.iter().filter(|word| names(line, word)) {
                found.push(format!("{}:{}: `{word}` {why}", self.path, number + 1));
            }
        }
        found
    }
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn in_name_or_path(c: char) -> bool {
    in_name(c) || c == ':'
}

/// The line holds `word`, and not as a part of a longer name.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].ends_with(in_name) && word.starts_with(in_name);
        let after = line[at + word.len()..].starts_with(in_name) && word.ends_with(in_name) && !word.starts_with("0x");
        !before && !after
    })
}

/// `["report", "probe"]` of `{report::Report, probe};`, `["event"]` of `event::Stack`.
fn first_segments(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![path.chars().take_while(|c| in_name(*c)).collect()];
    };
    let (mut depth, mut starts, mut name, mut found) = (0, true, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(std::mem::take(&mut name));
                starts = true;
            }
            c if depth == 0 && starts && in_name(c) => name.push(c),
            c if depth == 0 && !c.is_whitespace() => starts = false,
            _ => {}
        }
    }
    found.push(name);
    found
}

/// Rust or C with comments and string literals replaced by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if rest.starts_with("r\"") && !code.ends_with(in_name) => 2 + until(&rest[2..], "\""),
            'r' if rest.starts_with("r#\"") => 3 + until(&rest[3..], "\"#"),
            '\'' if rest.starts_with("'\"'") => 3,
            '\'' if rest.starts_with("'\\") => 2 + until(&rest[2..], "'"),
            _ => 0,
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

fn until(text: &str, end: &str) -> usize {
    text.find(end).map_or(text.len(), |at| at + end.len())
}

/// Bytes of the literal at the start of `text`, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = true; // the opening quote ends nothing
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' if !escaped => escaped = true,
            _ => escaped = false,
        }
    }
    text.len()
}

/// All of `src/` but the files that are modules for tests only.
fn sources() -> Vec<Source> {
    let mut found = files(Path::new("src"));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(!found.is_empty(), "run from the package's root");
    let for_tests: Vec<PathBuf> = found.iter().flat_map(|path| test_modules(path)).collect();
    found.retain(|path| !for_tests.contains(path));
    found.iter().map(|path| Source::read(path)).collect()
}

/// Files behind `#[cfg(test)] mod name;` in the file `path`, more attributes or not.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(path).unwrap();
    let directory = if path.ends_with("mod.rs") { path.with_file_name("") } else { path.with_extension("") };
    // `#[cfg(test)]` and `#[cfg(all(test, …))]`
    let conditions =
        text.split("#[cfg(").skip(1).filter(|rest| rest.starts_with("test)") || rest.starts_with("all(test,"));
    let declared = conditions.filter_map(|rest| {
        let declaration = rest.lines().skip(1).find(|line| !line.starts_with("#["))?;
        declaration.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(|name| directory.join(format!("{name}.rs"))).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
