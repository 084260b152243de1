//! The CPythons of this machine: the system's, pyenv's, and those of `make interpreters`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest and newest minor of CPython 3 that pylow promises.
const SUPPORTED: std::ops::RangeInclusive<u8> = 6..=15;

/// One CPython that was found and started.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    /// `python3.11-system`, unique.
    pub(crate) name: String,
    /// 11 for 3.11.
    pub(crate) minor: u8,
    /// The program itself, no link.
    pub(crate) program: PathBuf,
    /// PYTHONHOME, where it can't find its standard library alone.
    pub(crate) home: Option<PathBuf>,
}

impl Interpreter {
    /// A command that starts it.
    pub(crate) fn command(&self) -> Command {
        self.command_of(&self.program)
    }

    /// A command that starts a copy of it.
    pub(crate) fn command_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(home) = &self.home {
            command.env("PYTHONHOME", home);
        }
        command
    }

    /// The one the distribution ships: stripped, static.
    pub(crate) fn is_systems(&self) -> bool {
        self.name.ends_with("-system")
    }

    /// All of the interpreter is in its executable: a copy of that one file is a whole interpreter.
    pub(crate) fn is_static(&self) -> bool {
        let linked = Command::new("ldd").arg(&self.program).output();
        linked.is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("libpython"))
    }

    /// Directory of the standard library, and what PYTHONHOME must be for it: `PREFIX/lib/python3.N`, `PREFIX`.
    pub(crate) fn prefix(&self) -> PathBuf {
        let script = "import sys; print(sys.base_prefix)";
        let output = self.command().args(["-c", script]).output().expect("it ran before");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    }
}

/// All interpreters, oldest first; each has run.
pub(crate) fn found() -> Vec<Interpreter> {
    let mut found: Vec<Interpreter> = Vec::new();
    for (origin, program, home) in candidates() {
        let Some(minor) = minor_of(&program) else { continue };
        let Ok(program) = program.canonicalize() else { continue };
        let name = format!("python3.{minor}-{origin}");
        let interpreter = Interpreter { name, minor, program, home };
        let known = found.iter().any(|it| it.program == interpreter.program);
        if !known && SUPPORTED.contains(&minor) && starts(&interpreter) {
            found.push(interpreter);
        }
    }
    found.sort_by_key(|it| (it.minor, it.name.clone()));
    found
}

/// Origin, program, PYTHONHOME.
fn candidates() -> Vec<(&'static str, PathBuf, Option<PathBuf>)> {
    let mut all = Vec::new();
    for program in programs_in(Path::new("/usr/bin")) {
        all.push(("system", program, None));
    }
    let user = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(|| user.join(".pyenv"), PathBuf::from);
    for version in directories_in(&pyenv.join("versions")) {
        for program in programs_in(&version.join("bin")) {
            all.push(("pyenv", program, None));
        }
    }
    let fetched = std::env::var_os("PYLOW_INTERPRETERS").map(PathBuf::from);
    for directory in directories_in(&fetched.unwrap_or_else(|| user.join(".cache/pylow-interpreters"))) {
        for program in programs_in(&directory.join("usr/bin")) {
            all.push(("debian", program, Some(directory.join("usr"))));
        }
    }
    all
}

/// Files named `python3.N`.
fn programs_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut programs: Vec<_> = entries.map(|entry| entry.path()).filter(|path| minor_of(path).is_some()).collect();
    programs.sort();
    programs
}

fn directories_in(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|it| it.path()).collect();
    found.sort();
    found
}

fn minor_of(program: &Path) -> Option<u8> {
    program.file_name()?.to_str()?.strip_prefix("python3.")?.parse().ok()
}

fn starts(interpreter: &Interpreter) -> bool {
    let result = interpreter.command().args(["-c", "import zlib, json"]).output();
    result.is_ok_and(|output| output.status.success())
}
