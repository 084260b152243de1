//! Discovery on real processes: every CPython found on this machine, and the ways a process can be hard to look into.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::python::layout::Tls;
use super::{Target, select};
use crate::error::{ErrorKind, Result};

/// One interpreter with what it needs to run.
#[derive(Clone, Debug)]
pub(super) struct Interpreter {
    path: PathBuf,
    environment: Vec<(&'static str, String)>,
}

/// Kills its process, and waits for it, when dropped.
pub(super) struct Running(Child);

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Interpreter {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// What it prints for `source`.
    pub(super) fn output(&self, source: &str) -> String {
        let output = self.command().args(["-c", source]).output().unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `source` until it prints its first line, which is returned too.
    pub(super) fn start(&self, source: &str) -> (Running, String) {
        started(self.command().args(["-c", source]))
    }
}

fn started(command: &mut Command) -> (Running, String) {
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Running(child), line.trim().to_owned())
}

/// Every CPython 3 of this machine: PATH's, pyenv's, and other distributions' under /opt/pylow-interp.
pub(super) fn interpreters() -> Vec<Interpreter> {
    let versions = |root: &Path| {
        let entries = fs::read_dir(root.join("bin")).into_iter().flatten().flatten();
        let named = entries.filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("python3.").is_some_and(|minor| minor.parse::<u8>().is_ok())
        });
        named.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let below = |root: &str| fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let mut found: Vec<Interpreter> = Vec::new();
    let home = std::env::var("HOME").unwrap_or_default();
    for root in [vec!["/usr".into(), "/usr/local".into()], below(&format!("{home}/.pyenv/versions"))].concat() {
        found.extend(versions(&root).into_iter().map(|path| Interpreter { path, environment: Vec::new() }));
    }
    for root in below("/opt/pylow-interp").into_iter().map(|root| root.join("usr")) {
        let home = ("PYTHONHOME", root.display().to_string());
        let mut environment = vec![home];
        if root.ends_with("py39/usr") {
            environment.push(("LD_LIBRARY_PATH", root.join("lib/x86_64-linux-gnu").display().to_string()));
        }
        found.extend(versions(&root).into_iter().map(|path| Interpreter { path, environment: environment.clone() }));
    }
    assert!(!found.is_empty(), "no CPython on this machine");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

const FOUR_THREADS: &str = "
import sys, threading, time
def wait(): time.sleep(60)
threads = [threading.Thread(target=wait) for _ in range(3)]
for thread in threads: thread.daemon = True; thread.start()
print('%d.%d.%d' % sys.version_info[:3], flush=True)
wait()
";

const BUSY: &str = "
import threading
def f(n): return n if n < 2 else f(n - 1) + f(n - 2)
def work():
    while True: f(12)
for _ in range(3): threading.Thread(target=work, daemon=True).start()
print('ready', flush=True)
work()
";

#[test]
fn every_interpreter_is_verified() {
    for interpreter in interpreters() {
        let (running, version) = interpreter.start(FOUR_THREADS);
        let started = Instant::now();
        let target = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}"));
        let took = started.elapsed();
        let layout = target.layout.as_ref().unwrap();
        eprintln!("{} in {took:?}: {}: {layout:x?}", interpreter.path.display(), layout.evidence);
        assert_eq!(layout.version, version, "{interpreter:?}");
        assert_eq!(target.process.python.as_deref(), Some(version.as_str()));
        assert!(layout.evidence.contains("walked 4 threads"), "{}", layout.evidence);
        assert!(!layout.evidence.contains("not found"), "{}", layout.evidence);
        let minor = layout.minor_hex() & 0xff;
        assert_eq!(layout.current_thread_state != 0, minor <= 11, "{interpreter:?}");
        assert_eq!(layout.tls != Tls::None, minor >= 12, "{interpreter:?}");
        assert_eq!(layout.slot_offset != 0, minor <= 14, "{interpreter:?}");
        assert_eq!(layout.tss_key != 0, minor <= 14, "{interpreter:?}");
        assert!(minor == 6 || !layout.gils.is_empty());
        assert!(target.still_same());
    }
}

#[test]
fn running_threads_are_verified() {
    for interpreter in interpreters() {
        let (running, _) = interpreter.start(BUSY);
        for _ in 0..5 {
            let target = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}"));
            assert!(target.layout.unwrap().evidence.contains("walked 4 threads"));
        }
    }
}

/// Interpreters are opened as soon as exec returned: nothing is mapped yet, then no interpreter, no thread state.
#[test]
fn a_process_just_started() {
    for interpreter in interpreters() {
        let child = interpreter.command().args(["-c", "import time; time.sleep(60)"]).stdin(Stdio::null()).spawn().unwrap();
        let running = Running(child);
        let target = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}"));
        assert!(target.layout.is_some());
    }
}

fn copied(interpreter: &Interpreter, to: &Path) -> (Running, String) {
    fs::copy(fs::canonicalize(&interpreter.path).unwrap(), to).unwrap();
    // The copy finds its standard library and shared library where the original has them.
    let prefix = interpreter.output("import sys; print(sys.base_prefix)");
    let prefix = prefix.trim();
    let mut command = Command::new(to);
    command.envs(interpreter.environment.iter().cloned());
    command.env("PYTHONHOME", prefix).env("LD_LIBRARY_PATH", format!("{prefix}/lib"));
    started(command.args(["-c", FOUR_THREADS]))
}

#[test]
fn a_renamed_and_a_removed_executable() {
    let directory = tempfile::tempdir().unwrap();
    for interpreter in interpreters() {
        if interpreter.path.starts_with("/opt") {
            continue;
        }
        let path = directory.path().join("shopd");
        let (running, version) = copied(&interpreter, &path);
        for removed in [false, true] {
            let target = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}"));
            let layout = target.layout.unwrap();
            assert_eq!((layout.version.as_str(), target.process.executable.as_str()), (version.as_str(), "shopd"));
            if !removed {
                fs::remove_file(&path).unwrap();
                // An upgrade puts another file in its place.
                fs::write(&path, "another file").unwrap();
            } else if layout.image_path == path.to_string_lossy() {
                assert!(layout.evidence.contains("removed or replaced"), "{}", layout.evidence);
            }
        }
        drop(running);
        fs::remove_file(&path).unwrap();
    }
}

fn failure(result: Result<Target>) -> (ErrorKind, String) {
    let err = result.unwrap_err();
    (err.kind(), err.to_string())
}

#[test]
fn not_python_dead_thread_zombie_and_kernel() {
    let (kind, text) = failure(Target::open(u32::MAX / 4));
    assert_eq!(kind, ErrorKind::TargetGone, "{text}");

    let sleep = Running(Command::new("sleep").arg("60").spawn().unwrap());
    let (kind, text) = failure(Target::open_within(sleep.pid(), Duration::ZERO));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains(&format!("PID {} is not a Python process", sleep.pid())), "{text}");
    assert!(text.contains("sleep and nothing named libpython is mapped"), "{text}");
    assert!(Target::follow(sleep.pid()).unwrap().layout.is_none());

    let mut child = Command::new("true").spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !super::process::status(child.id()).unwrap().is_zombie() && Instant::now() < deadline {}
    let (kind, text) = failure(Target::open(child.id()));
    assert_eq!(kind, ErrorKind::TargetGone, "{text}");
    child.wait().unwrap();

    let (running, _) = interpreters()[0].start(FOUR_THREADS);
    let thread = super::process::threads(running.pid()).unwrap().into_iter().find(|tid| *tid != running.pid()).unwrap();
    let (kind, text) = failure(Target::open(thread));
    assert_eq!(kind, ErrorKind::Usage);
    assert!(text.contains(&format!("thread of process {}", running.pid())), "{text}");

    // kthreadd, where it can be seen.
    if super::process::status(2).is_ok_and(|status| status.name == "kthreadd") {
        let (kind, text) = failure(Target::open(2));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(text.contains("thread of the kernel"), "{text}");
    }
}

#[test]
fn still_same_until_it_ends() {
    let (running, _) = interpreters()[0].start(FOUR_THREADS);
    let target = Target::open(running.pid()).unwrap();
    assert!(target.still_same());
    drop(running);
    assert!(!target.still_same());
}

#[test]
fn selected_by_name_and_port() {
    let interpreter = &interpreters()[0];
    let source = "
import os, socket, sys, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(1)
if os.fork() == 0: time.sleep(60)
print(s.getsockname()[1], flush=True)
time.sleep(60)
";
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("pylow_select_test.py");
    fs::write(&script, source).unwrap();
    let (running, port) = started(interpreter.command().arg(&script));
    let child = super::process::descendants(running.pid()).unwrap();
    let both = [vec![running.pid()], child.clone()].concat();
    assert_eq!(both.len(), 2);
    assert_eq!(select::by_port(port.parse().unwrap()).unwrap(), both);
    assert_eq!(select::by_name("pylow_select_test").unwrap(), both);
    assert!(select::python_processes().unwrap().iter().any(|process| process.tgid == running.pid()));
    let forked = Target::open(running.pid()).unwrap().forked(child[0]).unwrap();
    assert_eq!(Target::open(child[0]).unwrap().layout.unwrap().interpreters_head, forked.layout.unwrap().interpreters_head);
    // SAFETY: kill(2) on the child of our own child.
    unsafe { libc::kill(child[0] as i32, libc::SIGKILL) };

    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let err = select::by_port(own.local_addr().unwrap().port()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    drop(own);
    assert_eq!(select::by_port(1).unwrap_err().kind(), ErrorKind::TargetGone);
}
