//! Discovery on real processes: every CPython found on this machine, and the ways a process can be hard to look into.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{descendants, threads};
use super::python::layout::{Layout, Tls};
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
    let below =
        |root: &str| fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
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

pub(super) const SLEEPING: &str = "import time; print('ready', flush=True); time.sleep(60)";

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
        let child =
            interpreter.command().args(["-c", "import time; time.sleep(60)"]).stdin(Stdio::null()).spawn().unwrap();
        let running = Running(child);
        let early = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}")).layout.unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let late = Target::open(running.pid()).unwrap().layout.unwrap();
        assert_eq!(*early, *late, "{interpreter:?}");
    }
}

/// Path of its libpython, if it is a shared one.
fn shared_library(interpreter: &Interpreter) -> Option<PathBuf> {
    let names = "import sysconfig as s; print(s.get_config_var('LIBDIR')); print(s.get_config_var('INSTSONAME'))";
    let output = interpreter.output(names);
    let (directory, name) = output.trim().split_once('\n')?;
    let linked = Command::new("ldd").arg(&interpreter.path).output().unwrap().stdout;
    String::from_utf8_lossy(&linked).contains("libpython").then(|| Path::new(directory).join(name))
}

/// Loads libpython (argument 1) under a name of its own, waits (argument 2, ms), then runs Python code (argument 3).
const EMBEDDER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    void *python = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
    if (!python) return 1;
    puts("mapped"); fflush(stdout);
    usleep(1000 * atoi(argv[2]));
    ((void (*)(int))dlsym(python, "Py_InitializeEx"))(0);
    return ((int (*)(const char *))dlsym(python, "PyRun_SimpleString"))(argv[3]);
}
"#;

#[test]
fn a_program_that_embeds_python_and_starts_it_late() {
    let directory = tempfile::tempdir().unwrap();
    let (source, program) = (directory.path().join("host.c"), directory.path().join("shopd"));
    fs::write(&source, EMBEDDER).unwrap();
    let compiled = Command::new("cc").arg(&source).arg("-o").arg(&program).arg("-ldl").status();
    if !compiled.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED a_program_that_embeds_python_and_starts_it_late: needs a C compiler");
        return;
    }
    for interpreter in interpreters() {
        let Some(library) = shared_library(&interpreter) else { continue };
        let prefix = interpreter.output("import sys; print(sys.base_prefix)");
        let start = |milliseconds: &str| {
            let mut command = Command::new(&program);
            command.arg(&library).args([milliseconds, "import time; time.sleep(60)"]).env("PYTHONHOME", prefix.trim());
            started(&mut command).0
        };
        let running = start("300");
        let target = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}"));
        let layout = target.layout.as_ref().unwrap();
        eprintln!("{interpreter:?}: {} {}", layout.version, layout.evidence);
        assert_eq!(target.process.executable, "shopd");
        assert!(layout.evidence.contains("walked 1 thread "), "{}", layout.evidence);

        let never = start("60000");
        let (kind, text) = failure(Target::open_within(never.pid(), Duration::from_millis(100)));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(text.contains("has not come up\n  it has no interpreter yet, after 0.1 s"), "{text}");
        assert!(Target::follow(never.pid()).unwrap().layout.is_none());
    }
}

/// Distributions strip; what is found must not depend on the symbol table.
#[test]
fn a_stripped_library() {
    let directory = tempfile::tempdir().unwrap();
    for interpreter in interpreters() {
        let Some(library) = shared_library(&interpreter) else { continue };
        let copy = directory.path().join(library.file_name().unwrap());
        let stripped = Command::new("strip").arg("-o").arg(&copy).arg(&library).status();
        if !stripped.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED a_stripped_library: needs strip");
            return;
        }
        let mut command = interpreter.command();
        let (running, version) = started(command.args(["-c", FOUR_THREADS]).env("LD_LIBRARY_PATH", directory.path()));
        let layout = Target::open(running.pid()).unwrap_or_else(|err| panic!("{interpreter:?}: {err}")).layout.unwrap();
        let (whole, _) = interpreter.start(FOUR_THREADS);
        let expected = Target::open(whole.pid()).unwrap().layout.unwrap();
        assert_eq!(layout.image_path, copy.to_string_lossy(), "the stripped copy runs");
        assert_eq!(layout.version, version);
        let places = |layout: &Layout| {
            let from_bias = |address: u64| address.checked_sub(layout.image_bias);
            let addresses = [layout.current_thread_state, layout.tss_key, layout.interpreters_head, layout.gil];
            (addresses.map(from_bias), from_bias(layout.gc_collecting), layout.tls, layout.slot_offset, layout.offsets)
        };
        assert_eq!(places(&layout), places(&expected), "{interpreter:?}");
        assert!(!layout.gils.is_empty());
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
    let thread = threads(running.pid()).unwrap().into_iter().find(|tid| *tid != running.pid()).unwrap();
    let (kind, text) = failure(Target::open(thread));
    assert_eq!(kind, ErrorKind::Usage);
    assert!(text.contains(&format!("thread of process {}", running.pid())), "{text}");

    // kthreadd, where it can be seen.
    if is_root() && super::process::status(2).is_ok_and(|status| status.name == "kthreadd") {
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
    let child = descendants(running.pid()).unwrap();
    let both = [vec![running.pid()], child.clone()].concat();
    assert_eq!(both.len(), 2);
    assert_eq!(select::by_port(port.parse().unwrap()).unwrap(), both);
    assert_eq!(select::by_name("pylow_select_test").unwrap(), both);
    let scan = Instant::now();
    assert!(select::python_processes().unwrap().found.iter().any(|process| process.tgid == running.pid()));
    eprintln!("scan of all processes: {:?}", scan.elapsed());
    let forked = Target::open(running.pid()).unwrap().forked(child[0]).unwrap();
    assert_eq!(
        Target::open(child[0]).unwrap().layout.unwrap().interpreters_head,
        forked.layout.unwrap().interpreters_head
    );
    // SAFETY: kill(2) on the child of our own child.
    unsafe { libc::kill(child[0] as i32, libc::SIGKILL) };

    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let err = select::by_port(own.local_addr().unwrap().port()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    drop(own);
    assert_eq!(select::by_port(1).unwrap_err().kind(), ErrorKind::TargetGone);
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Polls until `done` says so, at most ten seconds.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Address on which a thread waits in futex(2).
fn futex_address(tgid: u32, tid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{tgid}/task/{tid}/syscall")).ok()?;
    let mut fields = text.split(' ');
    let number: i64 = fields.next()?.parse().ok()?;
    let address = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    (number == libc::SYS_futex).then_some(address)
}

/// Lock word and holder, as the BPF side reads them for the main interpreter.
fn gil_state(target: &Target, layout: &Layout) -> (u32, u64) {
    let memory = target.memory();
    let mut interpreter = memory.u64(layout.interpreters_head).unwrap();
    while let Ok(next @ 1..) = memory.u64(interpreter + u64::from(layout.offsets.interpreter_next)) {
        interpreter = next;
    }
    let gil = match layout.offsets.interpreter_gil {
        0 => layout.gil,
        offset => memory.u64(interpreter + u64::from(offset)).unwrap(),
    };
    let locked = memory.u32(gil + u64::from(layout.offsets.gil_locked)).unwrap();
    (locked, memory.u64(gil + u64::from(layout.offsets.gil_holder)).unwrap())
}

#[test]
fn a_wait_for_the_gil_lies_in_its_range() {
    // sum() of ints runs in C and never gives the GIL up; the other thread wants it after its sleep.
    let source = "
import threading, time
def want():
    while True: time.sleep(0.01)
threading.Thread(target=want, daemon=True).start()
print('ready', flush=True)
sum(range(10 ** 12))
";
    for interpreter in interpreters() {
        let (running, _) = interpreter.start(source);
        let target = Target::open(running.pid()).unwrap();
        let layout = target.layout.as_ref().unwrap();
        let in_gil = |address: u64| layout.gils.iter().any(|(start, end)| (*start..*end).contains(&address));
        wait_until(&format!("{interpreter:?} no GIL wait"), || {
            let tids = threads(running.pid()).unwrap();
            tids.into_iter()
                .filter(|tid| *tid != running.pid())
                .any(|tid| futex_address(running.pid(), tid).is_some_and(in_gil))
        });
        let (locked, holder) = gil_state(&target, layout);
        let id = target.memory().u64(holder + u64::from(layout.offsets.thread_id)).unwrap();
        assert!(locked != 0 && id != 0, "{interpreter:?}");
    }
}

/// A lock and a condition are futexes too, and none of the GIL's.
#[test]
fn other_waits_lie_outside() {
    let source = "
import threading
lock = threading.Lock(); lock.acquire()
threading.Thread(target=lock.acquire, daemon=True).start()
print('ready', flush=True)
threading.Event().wait()
";
    for interpreter in interpreters() {
        let (running, _) = interpreter.start(source);
        let layout = Target::open(running.pid()).unwrap().layout.unwrap();
        let mut found = Vec::new();
        wait_until("two futex waits", || {
            let tids = threads(running.pid()).unwrap();
            found = tids.into_iter().filter_map(|tid| futex_address(running.pid(), tid)).collect();
            found.len() == 2
        });
        let in_gil = |address: &u64| layout.gils.iter().any(|(start, end)| (*start..*end).contains(address));
        assert!(!found.iter().any(in_gil), "{interpreter:?} {found:x?} {:x?}", layout.gils);
    }
}

#[test]
fn the_collector_is_seen_at_work() {
    let source = "
import gc, time
def phase(name, info):
    if name == 'start': print('collecting', flush=True); time.sleep(60)
print('ready', flush=True)
input()
gc.callbacks.append(phase)
gc.collect()
";
    for interpreter in interpreters() {
        let mut command = interpreter.command();
        let mut child = command.args(["-c", source]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        let running = Running(child);
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let target = Target::open(running.pid()).unwrap();
        let layout = target.layout.as_ref().unwrap();
        let memory = target.memory();
        let flag = match layout.offsets.interpreter_gc_collecting {
            0 => layout.gc_collecting,
            offset => memory.u64(layout.interpreters_head).unwrap() + u64::from(offset),
        };
        assert_eq!(memory.u32(flag).unwrap(), 0, "{interpreter:?}");
        std::io::Write::write_all(&mut &stdin, b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "collecting");
        assert_eq!(memory.u32(flag).unwrap(), 1, "{interpreter:?}");
    }
}

#[test]
fn sub_interpreters_are_walked() {
    let source = "
import sys
try: import _interpreters as interpreters
except ImportError:
    try: import _xxsubinterpreters as interpreters
    except ImportError: interpreters = None
import threading, time
if interpreters is None: print('none', flush=True); sys.exit()
inner = interpreters.create()
run = getattr(interpreters, 'run_string', None) or interpreters.exec
threading.Thread(target=run, args=(inner, 'print(1, flush=True); import time; time.sleep(60)'), daemon=True).start()
time.sleep(60)
";
    for interpreter in interpreters() {
        let (running, line) = interpreter.start(source);
        if line == "none" {
            eprintln!("SKIPPED {interpreter:?}: no module for sub-interpreters");
            continue;
        }
        let layout = Target::open(running.pid()).unwrap().layout.unwrap();
        eprintln!("{interpreter:?}: {}, GILs {:x?}", layout.evidence, layout.gils);
        assert!(layout.evidence.contains("of 2 interpreters"), "{interpreter:?} {}", layout.evidence);
        // From 3.12 on each has its own.
        assert_eq!(layout.gils.len(), if layout.offsets.interpreter_gil == 0 { 1 } else { 2 }, "{interpreter:?}");
    }
}

#[test]
fn a_container() {
    if !is_root() {
        eprintln!("SKIPPED a_container: needs root to make namespaces");
        return;
    }
    let source =
        FOUR_THREADS.replace("sys.version_info[:3]", "(os.getpid(), 0, 0)").replace("import sys", "import os, sys");
    for interpreter in interpreters().into_iter().filter(|interpreter| interpreter.path.starts_with("/usr")) {
        let prefix = interpreter.output("import sys; print(sys.base_prefix)");
        let script = "mount -t tmpfs none /mnt && cp \"$0\" /mnt/shopd && exec /mnt/shopd -c \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--propagation", "private", "sh", "-c", script]);
        command.arg(fs::canonicalize(&interpreter.path).unwrap()).arg(&source).env("PYTHONHOME", prefix.trim());
        let (running, own_pid) = started(&mut command);
        assert_eq!(own_pid, "1.0.0", "it is the first process of its namespace");
        let inside = descendants(running.pid()).unwrap();
        let target = Target::open(inside[0]).unwrap();
        let layout = target.layout.as_ref().unwrap();
        assert_eq!(target.process.executable, "shopd");
        assert_eq!(layout.image_path, "/mnt/shopd");
        assert!(!Path::new("/mnt/shopd").exists());
        assert_eq!(super::process::status(inside[0]).unwrap().namespace_pids, [inside[0], 1]);
    }
}

#[test]
fn a_process_of_another_user() {
    if is_root() {
        eprintln!("SKIPPED a_process_of_another_user: root may look into every process");
        return;
    }
    let (kind, text) = failure(Target::open(1));
    assert_eq!(kind, ErrorKind::NotPermitted);
    assert!(
        text.contains("not permitted to look into process 1") && text.contains("hint: run pylow as root"),
        "{text}"
    );
}
