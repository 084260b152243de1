//! Golden tests: the real program on recorded events, compared byte by byte. No root, kernel or Python needed.
//!
//! Each folder of `tests/golden` is a case:
//!
//! | file | holds |
//! |---|---|
//! | `cmd` | the words after `pylow`, `pygil 4821 --replay events.jsonl`; run in a copy of the folder |
//! | `events.jsonl` | what `--record` wrote in a real run |
//! | `stdout` | what must be printed |
//! | `stderr` | likewise; nothing without the file |
//! | `exit` | the exit code; 0 without the file |
//! | `files/` | files that must be written, by name |
//!
//! `BLESS=1 cargo test --test golden` writes what the program does now. One more test fails when a command has no case.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// Commands that look at a process as it is now and have no events to replay.
const CANNOT_REPLAY: [&str; 2] = ["doctor", "dump"];

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let arguments = Arguments::from_args();
    let cases = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))?;
    let mut trials: Vec<Trial> = Vec::new();
    for case in &cases {
        let case = case.clone();
        trials.push(Trial::test(case.name.clone(), move || case.run().map_err(Failed::from)));
    }
    trials
        .push(Trial::test("every_command_has_a_case", move || every_command_has_a_case(&cases).map_err(Failed::from)));
    libtest_mimic::run(&arguments, trials).exit()
}

fn every_command_has_a_case(cases: &[Case]) -> Outcome {
    let listed = pylow(&["generate", "commands"]).output()?;
    let commands: BTreeSet<String> = String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect();
    if commands.is_empty() {
        return Err("`pylow generate commands` names no command".into());
    }
    let covered: BTreeSet<String> = cases.iter().filter_map(|case| case.words.first().cloned()).collect();
    let excused: BTreeSet<String> = CANNOT_REPLAY.map(str::to_owned).into();
    let missing: Vec<_> = commands.iter().filter(|it| !covered.contains(*it) && !excused.contains(*it)).collect();
    if !missing.is_empty() {
        return Err(format!("no case in tests/golden for: {missing:?}").into());
    }
    let stale: Vec<_> = excused.iter().filter(|it| !commands.contains(*it)).collect();
    if !stale.is_empty() {
        return Err(format!("CANNOT_REPLAY names what is no command: {stale:?}").into());
    }
    Ok(())
}

#[derive(Clone)]
struct Case {
    name: String,
    folder: PathBuf,
    words: Vec<String>,
}

fn cases(root: &Path) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(root)? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cmd = fs::read_to_string(folder.join("cmd")).map_err(|err| format!("tests/golden/{name}/cmd: {err}"))?;
        let words = cmd.split_whitespace().map(str::to_owned).collect();
        cases.push(Case { name, folder, words });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

impl Case {
    fn run(&self) -> Outcome {
        let directory = tempfile::tempdir()?;
        for name in files_of(&self.folder)? {
            fs::copy(self.folder.join(&name), directory.path().join(&name))?;
        }
        let output = pylow(&self.words).current_dir(directory.path()).output()?;
        if std::env::var_os("BLESS").is_some() {
            return self.bless(&output, directory.path());
        }
        let mut wrong = String::new();
        self.compare("stdout", &output.stdout, &mut wrong)?;
        self.compare("stderr", &output.stderr, &mut wrong)?;
        self.compare("exit", exit_text(&output).as_bytes(), &mut wrong)?;
        for name in self.expected_files()? {
            let written =
                fs::read(directory.path().join(&name)).map_err(|err| format!("{name} was not written: {err}"))?;
            self.compare(&format!("files/{name}"), &written, &mut wrong)?;
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("pylow {}\n{wrong}BLESS=1 accepts what it does now", self.words.join(" ")).into())
    }

    /// Adds to `wrong` how `actual` differs from the file, which may be absent when there is nothing to hold.
    fn compare(&self, name: &str, actual: &[u8], wrong: &mut String) -> Outcome {
        let expected = match fs::read(self.folder.join(name)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        if expected != actual {
            let (expected, actual) = (String::from_utf8_lossy(&expected), String::from_utf8_lossy(actual));
            wrong.push_str(&format!("{name} differs:\n{}", difference(&expected, &actual)));
        }
        Ok(())
    }

    fn bless(&self, output: &Output, directory: &Path) -> Outcome {
        self.write("stdout", &output.stdout)?;
        self.write("stderr", &output.stderr)?;
        self.write("exit", exit_text(output).as_bytes())?;
        for name in self.expected_files()? {
            self.write(&format!("files/{name}"), &fs::read(directory.join(&name))?)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.folder.join(name);
        match content.is_empty() {
            true if path.exists() => fs::remove_file(path),
            true => Ok(()),
            false => fs::write(path, content),
        }
    }

    fn expected_files(&self) -> io::Result<Vec<String>> {
        let folder = self.folder.join("files");
        if folder.is_dir() { files_of(&folder) } else { Ok(Vec::new()) }
    }
}

fn files_of(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The program, away from the caller's terminal and settings.
fn pylow<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pylow"));
    command.args(words).stdin(Stdio::null()).env("TERM", "dumb").env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
    command.env_remove("COLUMNS").env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env_remove("RUST_BACKTRACE");
    command
}

/// Nothing for success, so that most cases need no `exit` file.
fn exit_text(output: &Output) -> String {
    match output.status.code() {
        Some(0) => String::new(),
        Some(code) => format!("{code}\n"),
        None => format!("{}\n", output.status),
    }
}

/// The lines from the first to the last difference, `-` expected and `+` actual, after one line they share.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.split('\n').collect(), actual.split('\n').collect());
    let same = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let rest = expected.len().min(actual.len()) - same;
    let tail = expected.iter().rev().zip(actual.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    if let Some(before) = same.checked_sub(1) {
        text.push_str(&format!("  line {}:  {}\n", same, expected[before]));
    }
    for line in &expected[same..expected.len() - tail] {
        text.push_str(&format!("- {line}\n"));
    }
    for line in &actual[same..actual.len() - tail] {
        text.push_str(&format!("+ {line}\n"));
    }
    text
}
