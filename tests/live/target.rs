//! A running test program and what it tells; killed when dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::interpreter::Interpreter;

/// Longest wait for anything a program or pylow should do at once; generous, since CI machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A program under `tests/live`, started.
pub(crate) struct Target {
    child: Child,
    /// The program's pid as this test sees it: a child's where the child is a launcher.
    pub(crate) pid: u32,
    stdin: Option<ChildStdin>,
    lines: Lines,
    /// What it told so far.
    told: Vec<String>,
}

impl Target {
    /// Starts `program` (`stack_truth.py`) on `interpreter` and waits until it says it is ready.
    pub(crate) fn start(interpreter: &Interpreter, program: &str, arguments: &[&str]) -> Result<Self, Failed> {
        let mut command = interpreter.command();
        command.arg(program_path(program)).args(arguments);
        Self::launch(command)
    }

    /// Starts any command that becomes a test program.
    pub(crate) fn launch(mut command: Command) -> Result<Self, Failed> {
        let child = command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|err| format!("cannot start {command:?}: {err}"))?;
        let lines = Lines::of(child.stdout.take().ok_or("no stdout")?);
        let (pid, stdin) = (child.id(), child.stdin.take());
        let mut target = Self { child, pid, stdin, lines, told: Vec::new() };
        target.wait_for("ready")?;
        Ok(target)
    }

    /// Takes what it tells until a line that starts with `word`.
    pub(crate) fn wait_for(&mut self, word: &str) -> Result<(), Failed> {
        loop {
            let line = self.lines.next(PATIENCE).map_err(|why| format!("waiting for `{word}` of the target: {why}"))?;
            let found = line.split(' ').next() == Some(word);
            self.told.push(line);
            if found {
                return Ok(());
            }
        }
    }

    /// Gives the word it waits for.
    pub(crate) fn go(&mut self) -> Result<(), Failed> {
        let stdin = self.stdin.as_mut().ok_or("stdin is closed")?;
        Ok(stdin.write_all(b"go\n").and_then(|()| stdin.flush())?)
    }

    /// The rest of each told line that starts with `word`.
    pub(crate) fn told<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.told.iter().filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '))
    }

    /// Told pairs of a name and a number: `used heavy 0.7`.
    pub(crate) fn told_numbers(&self, word: &str) -> Vec<(String, f64)> {
        let pair = |rest: &str| rest.split_once(' ').map(|(name, number)| (name.to_owned(), number.parse().unwrap()));
        self.told(word).filter_map(pair).collect()
    }

    /// Sends a signal to it.
    pub(crate) fn signal(&self, signal: i32) {
        send_signal(self.pid, signal);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Fails only where it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `tests/live/NAME`.
pub(crate) fn program_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live").join(name)
}

/// Sends a signal to a process this test has started.
pub(crate) fn send_signal(pid: u32, signal: i32) {
    // SAFETY: kill() takes no pointers.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Polls until `condition` gives something; fails after [`PATIENCE`].
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T, Failed> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not within {} s", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lines of a pipe, with a deadline.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while pipe.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                bytes.clear();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// The next line, or why there is none.
    pub(crate) fn next(&self, patience: Duration) -> Result<String, String> {
        self.0.recv_timeout(patience).map_err(|err| match err {
            RecvTimeoutError::Timeout => format!("nothing for {} s", patience.as_secs()),
            RecvTimeoutError::Disconnected => "its output ended".to_owned(),
        })
    }

    /// All that is still to come, until the pipe closes.
    pub(crate) fn rest(&self, patience: Duration) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            match self.0.recv_timeout(patience) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(lines),
                Err(RecvTimeoutError::Timeout) => return Err(format!("it did not end in {} s", patience.as_secs())),
            }
        }
    }
}
