//! The binary under test, as a user runs it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use libtest_mimic::Failed;

use crate::target::{Lines, PATIENCE, send_signal};

/// A pylow that runs; killed when dropped.
pub(crate) struct Pylow {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    said: Vec<String>,
    command: String,
}

/// What a pylow has left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
}

impl Pylow {
    /// Starts `pylow ARGUMENTS`.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, Failed> {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_pylow")).args(arguments))
    }

    /// Starts a command that runs pylow.
    pub(crate) fn launch(command: &mut Command) -> Result<Self, Failed> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = Lines::of(child.stdout.take().ok_or("no stdout")?);
        let stderr = Lines::of(child.stderr.take().ok_or("no stderr")?);
        Ok(Self { child, stdout, stderr, said: Vec::new(), command: format!("{command:?}") })
    }

    /// Waits until it observes.
    pub(crate) fn attached(&mut self) -> Result<(), Failed> {
        loop {
            match self.stdout.next(PATIENCE) {
                Ok(line) => self.said.push(line),
                Err(why) => {
                    let stderr = self.stderr.rest(PATIENCE).unwrap_or_default().join("\n");
                    let said = self.said.join("\n");
                    return Err(format!("{}: not attached: {why}\n{said}\n{stderr}", self.command).into());
                }
            }
            if self.said.last().is_some_and(|line| line.starts_with("✓ Attached")) {
                return Ok(());
            }
        }
    }

    /// Ends it as a user does, by Ctrl-C.
    pub(crate) fn interrupt(self) -> Result<Finished, Failed> {
        send_signal(self.child.id(), libc::SIGINT);
        self.finish()
    }

    /// Waits until it ends by itself.
    pub(crate) fn finish(mut self) -> Result<Finished, Failed> {
        let told = |why| format!("{}: {why}", self.command);
        self.said.extend(self.stdout.rest(PATIENCE).map_err(told)?);
        let stderr = self.stderr.rest(PATIENCE).map_err(told)?.join("\n");
        let code = self.child.wait()?.code();
        let stdout = std::mem::take(&mut self.said).join("\n");
        Ok(Finished { code, stdout, stderr, command: self.command.clone() })
    }
}

impl Drop for Pylow {
    fn drop(&mut self) {
        // Fails only where it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Fails unless it ended with `code`.
    pub(crate) fn expect_code(&self, code: i32) -> Result<(), Failed> {
        if self.code == Some(code) {
            return Ok(());
        }
        Err(format!("exit code {:?}, expected {code}\n{self}", self.code).into())
    }

    /// Fails unless standard error holds each of `words`.
    pub(crate) fn expect_stderr(&self, words: &[&str]) -> Result<(), Failed> {
        match words.iter().find(|word| !self.stderr.contains(**word)) {
            Some(word) => Err(format!("`{word}` not in standard error\n{self}").into()),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.stdout, self.stderr)
    }
}

/// Runs `pylow ARGUMENTS` to its end; it must succeed.
pub(crate) fn run(arguments: &[&str]) -> Result<Finished, Failed> {
    let finished = Pylow::start(arguments)?.finish()?;
    finished.expect_code(0)?;
    Ok(finished)
}

/// How long `action` took.
pub(crate) fn timed<T>(action: impl FnOnce() -> Result<T, Failed>) -> Result<(T, std::time::Duration), Failed> {
    let start = Instant::now();
    action().map(|value| (value, start.elapsed()))
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
