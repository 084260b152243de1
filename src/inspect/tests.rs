//! The whole of `inspect` on live interpreters: programs that know the truth, read while they run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, reason = "tests")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::reader::Reader;
use super::{PythonFrame, SnapshotOptions, ThreadSnapshot, frames, snapshot, value};
use crate::target::Target;
use crate::target::memory::Memory;
use crate::target::python::objects::ObjectLayout;

/// Every CPython that can be found: name, executable, environment.
fn interpreters() -> Vec<(String, String, Vec<(&'static str, String)>)> {
    let mut found = Vec::new();
    for minor in 6..=15 {
        let versions = std::fs::read_dir("/root/.pyenv/versions").into_iter().flatten().flatten();
        for version in versions {
            let exe = version.path().join(format!("bin/python3.{minor}"));
            if exe.is_file() {
                found.push((version.file_name().to_string_lossy().into_owned(), exe.display().to_string(), vec![]));
            }
        }
        let system = format!("/usr/bin/python3.{minor}");
        if Path::new(&system).is_file() {
            found.push((format!("system 3.{minor}"), system, vec![]));
        }
        let home = format!("/opt/pylow-interp/py3{minor}/usr");
        let exe = format!("{home}/bin/python3.{minor}");
        if Path::new(&exe).is_file() {
            let libraries = format!("{home}/lib/x86_64-linux-gnu");
            found.push((format!("other 3.{minor}"), exe, vec![("PYTHONHOME", home), ("LD_LIBRARY_PATH", libraries)]));
        }
    }
    assert!(!found.is_empty(), "no interpreter");
    found
}

/// A running program, killed at the end.
struct Program {
    child: Child,
    /// The program ends when this is closed.
    _stdin: ChildStdin,
    target: Target,
}

impl Program {
    /// Runs `script` until it prints `ready`.
    fn start((_, exe, env): &(String, String, Vec<(&'static str, String)>), script: &str) -> Self {
        let mut command = Command::new(exe);
        command.args(["-c", script]).envs(env.iter().map(|(name, value)| (*name, value.as_str())));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{exe}");
        let target = Target::open(child.id()).unwrap_or_else(|err| panic!("{exe}: {err}"));
        Self { child, _stdin: stdin, target }
    }

    fn look(&self, locals: bool) -> Vec<ThreadSnapshot> {
        snapshot(&self.target, SnapshotOptions { locals }).unwrap()
    }

    /// Looks until `accept` is content with it, at most ten seconds.
    fn look_until(&self, what: &str, accept: impl Fn(&[ThreadSnapshot]) -> bool) -> Vec<ThreadSnapshot> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let threads = self.look(false);
            if accept(&threads) {
                return threads;
            }
            assert!(Instant::now() < deadline, "{what}: {threads:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn functions(thread: &ThreadSnapshot) -> Vec<&str> {
    // Qualified names exist from 3.11 on: the last part is common to all.
    thread.frames.iter().map(|python| python.frame.function.rsplit('.').next().unwrap()).collect()
}

fn named<'a>(threads: &'a [ThreadSnapshot], name: &str) -> &'a ThreadSnapshot {
    threads.iter().find(|thread| thread.name == name).unwrap_or_else(|| {
        panic!("no thread {name}: {:?}", threads.iter().map(|t| (t.tid, &t.name, &t.remark)).collect::<Vec<_>>())
    })
}

const VALUES: &str = r#"
import sys, collections, enum
class Plain:
    def __init__(self):
        self.a = 1; self.b = 'two'; self.c = [1, 2]
    def method(self): pass
class Many:
    def __init__(self):
        self.a = 1; self.b_token = 'abc'; self.c = 3.5; self.d = 4
class Slotted:
    __slots__ = ('x', 'y')
class Words(str): pass
class Color(enum.IntEnum): RED = 3
Point = collections.namedtuple('Point', 'x y')
def some_function(): pass
def outer(first):
    captured = 'in a cell'
    def inner(argument, *rest, **named):
        zero = 0; negative = -5; big = 2 ** 100; low = -(10 ** 30); huge = 1 << 5000; digit = 2 ** 30
        yes = True; no = False; nothing = None
        pi = 3.14159; small = 1e-07; infinite = float('-inf')
        plain_ascii = 'hello'; latin = 'caf\xe9'; ucs2 = '\u20ac\u4e2d'; ucs4 = '\U0001f600x'; empty = ''
        long_text = 'x' * 300; quoted = "it's"; control = '\x1b[31m\n\t'
        raw = b'\x00\xffabc'; long_raw = b'r' * 100
        numbers = [1, 2, 3, 4, 5]; pair = (1, 'a'); nobody = (); nested = [[1, 2], (3,), {}]
        mapping = {'a': 1, 'b': None}; int_keys = {1: 'x', 2: 'y', 3: 'z', 4: 'w'}
        gaps = {i: i for i in range(100)}
        for i in range(98): del gaps[i]
        some = {7}; frozen = frozenset(['f']); none_left = set()
        plain = Plain(); touched = Plain(); touched.__dict__['d'] = 1; many = Many()
        slotted = Slotted(); slotted.x = 1; slotted.y = 'z'
        words = Words('w\u20ac'); color = Color.RED; point = Point(1, 2)
        ordered = collections.OrderedDict(k='v'); default = collections.defaultdict(int, n=5)
        klass = Plain; function = some_function; anonymous = lambda: captured; builtin = len; bound = plain.method
        module = sys; password = 'hunter2'; config = {'user': 'bob', 'api_key': 'k'}
        if zero: unset = 1
        copy = captured
        def deeper(): return pair
        sys.stdout.write('ready\n'); sys.stdout.flush()
        sys.stdin.read()
        return deeper
    inner(17, 'r', key='v')
    return captured, first
outer([None])
"#;

#[test]
fn values_are_those_of_the_program() {
    let long_text = format!("'{}'...300", "x".repeat(60));
    let long_raw = format!("b'{}'...100", "r".repeat(60));
    let expected = [
        ("argument", "int", "17"),
        ("rest", "tuple", "tuple[1]('r')"),
        ("named", "dict", "dict[1]{'key': 'v'}"),
        ("zero", "int", "0"),
        ("negative", "int", "-5"),
        ("big", "int", "1267650600228229401496703205376"),
        ("low", "int", "-1000000000000000000000000000000"),
        ("huge", "int", "<5001 bits>"),
        ("digit", "int", "1073741824"),
        ("yes", "bool", "True"),
        ("no", "bool", "False"),
        ("nothing", "NoneType", "None"),
        ("pi", "float", "3.14159"),
        ("small", "float", "1e-07"),
        ("infinite", "float", "-inf"),
        ("plain_ascii", "str", "'hello'"),
        ("latin", "str", "'café'"),
        ("ucs2", "str", "'€中'"),
        ("ucs4", "str", "'😀x'"),
        ("empty", "str", "''"),
        ("long_text", "str", &long_text),
        ("quoted", "str", r#""it's""#),
        ("control", "str", r"'\x1b[31m\n\t'"),
        ("raw", "bytes", r"b'\x00\xffabc'"),
        ("long_raw", "bytes", &long_raw),
        ("numbers", "list", "list[5](1, 2, 3, ..)"),
        ("pair", "tuple", "tuple[2](1, 'a')"),
        ("nobody", "tuple", "tuple[0]"),
        ("nested", "list", "list[3](list[2], tuple[1], dict[0])"),
        ("mapping", "dict", "dict[2]{'a': 1, 'b': None}"),
        ("int_keys", "dict", "dict[4]{1: 'x', 2: 'y', 3: 'z', ..}"),
        ("gaps", "dict", "dict[2]{98: 98, 99: 99}"),
        ("some", "set", "set[1]{7}"),
        ("frozen", "frozenset", "frozenset[1]{'f'}"),
        ("none_left", "set", "set[0]"),
        ("plain", "Plain", "<Plain a=1 b='two' c=list[2]>"),
        ("touched", "Plain", "<Plain a=1 b='two' c=list[2] ..>"),
        ("many", "Many", "<Many a=1 b_token=*** c=3.5 ..>"),
        ("slotted", "Slotted", "<Slotted x=1 y='z'>"),
        ("words", "Words", "Words('w€')"),
        ("color", "Color", "Color(3)"),
        ("point", "Point", "Point[2](1, 2)"),
        ("ordered", "OrderedDict", "OrderedDict[1]{'k': 'v'}"),
        ("default", "defaultdict", "defaultdict[1]{'n': 5}"),
        ("klass", "type", "<class Plain>"),
        ("function", "function", "<function some_function>"),
        ("anonymous", "function", "<function <lambda>>"),
        ("builtin", "builtin_function_or_method", "<built-in len>"),
        ("bound", "method", "<method method>"),
        ("module", "module", "<module sys>"),
        ("password", "str", "***"),
        ("config", "dict", "dict[2]{'user': 'bob', 'api_key': ***}"),
        ("copy", "str", "'in a cell'"),
        ("captured", "str", "'in a cell'"),
        ("deeper", "function", "<function deeper>"),
    ];
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, VALUES);
        let threads = program.look_until("blocked in read", |threads| threads[0].state.to_string().contains("read"));
        assert_eq!(threads[0].remark, "", "{}", interpreter.0);
        let threads = program.look(true);
        let main = &threads[0];
        assert!(functions(main).ends_with(&["inner", "outer", "<module>"]), "{}: {main:#?}", interpreter.0);
        let locals = |function: &str| -> HashMap<String, (String, String)> {
            let is_it = |python: &&PythonFrame| python.frame.function.rsplit('.').next() == Some(function);
            let python = main.frames.iter().find(is_it).unwrap();
            let locals = python.locals.as_ref().unwrap().iter();
            locals.map(|l| (l.name.clone(), (l.type_name.clone(), l.value.clone()))).collect()
        };
        let found = locals("inner");
        for (name, type_name, value) in expected {
            let (found_type, found_value) = found.get(name).unwrap_or_else(|| panic!("{}: no {name}", interpreter.0));
            assert_eq!((found_type.as_str(), found_value.as_str()), (type_name, value), "{}: {name}", interpreter.0);
        }
        assert!(!found.contains_key("unset"), "{}", interpreter.0);
        let outer = locals("outer");
        assert_eq!(outer["captured"].1, "'in a cell'", "{}", interpreter.0);
        assert_eq!(outer["first"].1, "list[1](None)", "{}", interpreter.0);
        let line = main.frames.iter().rev().nth(2).unwrap().frame.line;
        let expected = VALUES.lines().position(|line| line.contains("sys.stdin.read()")).unwrap() as u32 + 1;
        assert_eq!(line, Some(expected), "{}", interpreter.0);
    }
}

const STATES: &str = r#"
import os, select, socket, sys, threading, time, zlib
lock = threading.Lock(); lock.acquire()
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen(5)
client = socket.create_connection(server.getsockname()); peer, _ = server.accept()
impatient = socket.create_connection(server.getsockname()); impatient.settimeout(1000)
a, b = socket.socketpair()
r, w = os.pipe()
def wait_for_lock(): lock.acquire()
def sleep(): time.sleep(1000)
def receive(): client.recv(1)
def receive_soon(): impatient.recv(1)
def choose(): select.select([peer], [], [])
def read_pipe(): os.read(r, 1)
def unix(): a.recv(1)
def accept(): kept = server.accept(); server.accept()
def burn():
    data = b'x' * (50 << 20)
    while True: zlib.compress(data, 9)  # without the GIL
for job in (wait_for_lock, sleep, receive, receive_soon, choose, read_pipe, unix, accept, burn):
    threading.Thread(target=job, name='job ' + job.__name__, daemon=True).start()
sys.stdout.write('ready\n'); sys.stdout.flush()
sys.stdin.read()
"#;

#[test]
fn states_say_what_a_thread_waits_for() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, STATES);
        let is = |threads: &[ThreadSnapshot], name: &str, expected: &str| {
            let state = named(threads, name).state.to_string();
            match expected.strip_suffix('*') {
                Some(start) => state.starts_with(start),
                None => state == expected,
            }
        };
        let settled = |threads: &[ThreadSnapshot]| {
            threads.len() == 10
                && is(threads, "job wait_for_lock", "waiting in futex (lock*")
                && is(threads, "job sleep", "sleeping in *")
                && is(threads, "job receive", "waiting in recvfrom (socket 127.0.0.1:*")
                && is(threads, "job receive_soon", "waiting in poll (socket 127.0.0.1:*")
                && (is(threads, "job choose", "waiting in select (socket 127.0.0.1:*")
                    || is(threads, "job choose", "waiting in pselect6 (socket 127.0.0.1:*"))
                && is(threads, "job read_pipe", "waiting in read (pipe:[*")
                && is(threads, "job unix", "waiting in recvfrom (unix socket:[*")
                && is(threads, "job accept", "waiting in accept4 (socket 127.0.0.1:*")
                && is(threads, "job burn", "running")
                && is(threads, "MainThread", "waiting in read (pipe:[*")
        };
        let threads = program.look_until(&interpreter.0, settled);
        for thread in &threads {
            assert_eq!(thread.remark, "", "{}: {thread:#?}", interpreter.0);
            assert!(!thread.holds_gil, "{}: {thread:#?}", interpreter.0);
            if let Some(job) = thread.name.strip_prefix("job ") {
                assert!(functions(thread).contains(&job), "{}: {thread:#?}", interpreter.0);
            }
        }
        let state = named(&threads, "job receive").state.to_string();
        assert!(state.contains(" <- 127.0.0.1:"), "{state}");
        let state = named(&threads, "job accept").state.to_string();
        assert!(state.contains(" listening"), "{state}");
    }
}

const HOLDER: &str = r#"
import sys, threading, time
def hold():
    n = 0
    while True: n += 1
def idle(): time.sleep(1000)
threading.Thread(target=idle, name='idle', daemon=True).start()
threading.Thread(target=lambda: sys.stdin.read(), name='reader', daemon=True).start()
sys.stdout.write('ready\n'); sys.stdout.flush()
hold()
"#;

const FIGHT: &str = r#"
import sys, threading, time
def hold():
    n = 0
    while True: n += 1
for i in range(3): threading.Thread(target=hold, name='fighter', daemon=True).start()
sys.stdout.write('ready\n'); sys.stdout.flush()
hold()
"#;

#[test]
fn the_holder_of_the_gil_is_marked() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, HOLDER);
        program.look_until(&interpreter.0, |threads| {
            named(threads, "idle").state.to_string().starts_with("sleeping") && functions(&threads[0])[0] == "hold"
        });
        for _ in 0..50 {
            let threads = program.look(false);
            let holders: Vec<&str> = threads.iter().filter(|t| t.holds_gil).map(|t| t.name.as_str()).collect();
            assert_eq!(holders, ["MainThread"], "{}", interpreter.0);
            assert_eq!(functions(&threads[0]), ["hold", "<module>"], "{}: {threads:#?}", interpreter.0);
        }
        drop(program);
        let program = Program::start(&interpreter, FIGHT);
        let (mut waits, mut held) = (0, 0);
        for _ in 0..50 {
            let threads = program.look(false);
            let holders = threads.iter().filter(|thread| thread.holds_gil).count();
            assert!(holders <= 1, "{}: {threads:#?}", interpreter.0);
            held += holders;
            let states = threads.iter().map(|thread| thread.state.to_string());
            waits += states.filter(|state| state.contains("GIL)")).count();
        }
        assert!(waits > 50 && held > 25, "{}: {waits} waits, {held} of 50 held", interpreter.0);
    }
}

/// Stays on one CPU, so that the reader can run beside it and not only in its place.
const MUTATOR: &str = r#"
import os, sys, threading
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
class Thing: pass
def pass_on(number, pair): return number, pair
def mutate():
    i = 100000; cleared = {}; grown = []; thing = Thing(); changing = set()
    while True:
        i += 1
        pair = (i, i); text = '%d-%d' % (i, i); items = [i, i, i]; mapping = {'a': i, 'b': i}
        cleared.clear(); cleared['k%d' % i] = i
        grown.append(i)
        if len(grown) > 50: grown = []
        thing.both = (i, i); thing.__dict__.pop('gone', None); thing.gone = i
        changing.add(i)
        if len(changing) > 30: changing.clear()
        pass_on(i, pair)
threading.Thread(target=mutate, name='mutator', daemon=True).start()
sys.stdout.write('ready\n'); sys.stdout.flush()
sys.stdin.read()
"#;

/// The numbers in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Something the mutator's value can't be: made of two moments, or of freed memory.
fn is_wrong(name: &str, type_name: &str, value: &str) -> bool {
    if value.contains('<') && value.contains("unreadable") || value == super::value::MOVING {
        return false;
    }
    let found = numbers(value);
    let same =
        |numbers: &[u64]| numbers.windows(2).all(|two| two[0] == two[1]) && numbers.iter().all(|&n| n >= 100_000);
    match name {
        "i" | "number" => type_name != "int" || found.len() != 1 || !same(&found),
        "pair" => type_name != "tuple" || found.len() != 3 || !same(&found[1..]),
        "text" => type_name != "str" || found.len() != 2 || !same(&found),
        // A list display sets its size before its items, a dict display fills itself: both only before they have a name.
        "items" => type_name != "list" || found.len() != 4 || !same(&found[1..]),
        "mapping" => type_name != "dict" || found.len() != 3 || !same(&found[1..]),
        "cleared" => type_name != "dict" || (found.len() == 3 && !same(&found[1..])) || found.len() > 3,
        "grown" => type_name != "list" || found[1..].iter().any(|&n| n < 100_000),
        "changing" => type_name != "set" || found[1..].iter().any(|&n| n < 100_000),
        "thing" => type_name != "Thing",
        _ => true,
    }
}

#[test]
fn no_torn_value_is_accepted() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, MUTATOR);
        let (mut accepted, mut given_up, mut wrong) = (0, 0, Vec::new());
        for _ in 0..40 {
            let threads = program.look(true);
            // By position: its name may be unreadable while it runs.
            let mutator = threads.iter().skip(1).find(|thread| !thread.frames.is_empty());
            for PythonFrame { frame, locals, .. } in mutator.map_or(&[][..], |thread| &thread.frames) {
                let function = frame.function.rsplit('.').next().unwrap();
                if !["mutate", "pass_on"].contains(&function) {
                    continue;
                }
                for local in locals.iter().flatten() {
                    if local.value.starts_with('<') && local.type_name == "?" {
                        given_up += 1;
                        continue;
                    }
                    accepted += 1;
                    if is_wrong(&local.name, &local.type_name, &local.value) {
                        wrong.push(local.clone());
                    }
                }
            }
        }
        let _ = writeln!(
            std::io::stderr(),
            "{}: {} wrong, {accepted} accepted, {given_up} given up",
            interpreter.0,
            wrong.len()
        );
        assert!(wrong.is_empty(), "{}: {wrong:?}", interpreter.0);
        // How many of each depends on how often the mutator loses its CPU: while it runs beside the reader, all moves.
        assert!(accepted + given_up > 0, "{}", interpreter.0);
    }
}

const NATIVE: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
def down(n):
    if n: return down(n - 1)
    sys.stdout.write('ready\n'); sys.stdout.flush()
    sys.stdin.read()
sys.setrecursionlimit(5000)
down(900)
"#;

#[test]
fn threads_without_python_and_deep_stacks_are_listed() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, NATIVE);
        let threads = program.look_until(&interpreter.0, |threads| {
            threads.len() == 2 && threads[1].state.to_string() == "waiting in pause"
        });
        assert_eq!(threads[1].remark, "no Python state", "{}", interpreter.0);
        assert!(threads[1].frames.is_empty() && !threads[1].holds_gil, "{}", interpreter.0);
        let threads = program.look_until(&interpreter.0, |threads| threads[0].state.to_string().contains("read"));
        assert_eq!((threads[0].frames.len(), threads[0].remark.as_str()), (902, ""), "{}", interpreter.0);
    }
}

const SUB_INTERPRETER: &str = r#"
import sys
code = "import sys, time\ndef inside():\n    time.sleep(1000)\nsys.stdout.write('ready\\n'); sys.stdout.flush()\ninside()"
def outside():
    try: import _interpreters as interpreters
    except ImportError: import _xxsubinterpreters as interpreters
    try: other = interpreters.create('legacy')
    except TypeError: other = interpreters.create()
    try: run = interpreters.exec
    except AttributeError: run = interpreters.run_string
    run(other, code)
try: outside()
except ImportError:
    sys.stdout.write('ready\n'); sys.stdout.flush()
    sys.stdin.read()
"#;

#[test]
fn frames_of_a_sub_interpreter_are_inside_those_of_its_thread() {
    let mut seen = 0;
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, SUB_INTERPRETER);
        let threads = program.look_until(&interpreter.0, |threads| {
            let state = threads[0].state.to_string();
            state.starts_with("sleeping") || state.contains("read")
        });
        if threads[0].state.to_string().contains("read") {
            let _ = writeln!(std::io::stderr(), "SKIPPED {}: has no module for sub-interpreters", interpreter.0);
            continue;
        }
        seen += 1;
        let found = functions(&threads[0]);
        let at = |name: &str| found.iter().position(|function| *function == name);
        assert!(at("inside") == Some(0) && at("outside") > Some(1), "{}: {found:?}", interpreter.0);
    }
    assert!(seen > 0);
}

const FORKED: &str = r#"
import os, sys, threading, time
def idle(): time.sleep(1000)
threading.Thread(target=idle, daemon=True).start()
def child():
    sys.stdout.write('ready\n'); sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)
if os.fork() == 0: child()
os.wait()
"#;

#[test]
fn a_forked_child_has_its_own_threads() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, FORKED);
        let tgid = program.child.id();
        let children = std::fs::read_to_string(format!("/proc/{tgid}/task/{tgid}/children")).unwrap();
        let target = Target::open(children.trim().parse().unwrap()).unwrap();
        let threads = snapshot(&target, SnapshotOptions { locals: true }).unwrap();
        assert_eq!(threads.len(), 1, "{}", interpreter.0);
        assert!(functions(&threads[0]).contains(&"child"), "{}: {threads:#?}", interpreter.0);
    }
}

const CHURN: &str = r#"
import sys, threading
def short(): pass
def churn():
    while True:
        for thread in [threading.Thread(target=short, daemon=True) for _ in range(10)]: thread.start()
        thread.join()
threading.Thread(target=churn, name='churn', daemon=True).start()
sys.stdout.write('ready\n'); sys.stdout.flush()
sys.stdin.read()
"#;

#[test]
fn threads_that_come_and_go_do_not_get_in_the_way() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, CHURN);
        program.look_until(&interpreter.0, |threads| threads[0].state.to_string().contains("read"));
        for _ in 0..50 {
            let threads = program.look(true);
            assert_eq!(functions(&threads[0]), ["<module>"], "{}: {threads:#?}", interpreter.0);
            let outermost = functions(named(&threads, "churn")).last().copied();
            assert!(matches!(outermost, None | Some("_bootstrap")), "{}: {threads:#?}", interpreter.0);
        }
    }
}

const IDLE: &str = r#"
import sys, threading, time
def idle(): time.sleep(1000)
threading.Thread(target=idle, name='idle', daemon=True).start()
sys.stdout.write('ready\n'); sys.stdout.flush()
sys.stdin.read()
"#;

#[test]
fn ids_of_another_pid_namespace_are_translated() {
    for (name, exe, env) in interpreters() {
        let mut command = Command::new("unshare");
        // Their environment is for the interpreter alone: unshare needs its own libraries.
        command.args(["--pid", "--fork", "--kill-child", "env"]);
        command.args(env.iter().map(|(name, value)| format!("{name}={value}"))).args([&exe, "-c", IDLE]);
        let mut outer = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(outer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{name}");
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.id())).unwrap();
        let target = Target::open(children.trim().parse().unwrap()).unwrap();
        let threads = snapshot(&target, SnapshotOptions::default());
        outer.kill().unwrap();
        outer.wait().unwrap();
        let threads = threads.unwrap();
        assert_eq!((threads.len(), threads[0].tid), (2, target.tgid), "{name}: {threads:#?}");
        assert!(functions(named(&threads, "idle")).contains(&"idle"), "{name}: {threads:#?}");
        assert_eq!(functions(&threads[0]), ["<module>"], "{name}: {threads:#?}");
    }
}

/// Numbers without a pattern, the same every time.
fn noise(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn circles_of_frames_end() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, HOLDER);
        let offsets = program.target.layout.as_ref().unwrap().offsets;
        let mut words = vec![0u64; 1024];
        let base = words.as_ptr() as u64;
        let (thread, cframe, one, two) = (0, 0x800, 0x1000, 0x1400);
        let mut put = |at: u64, value: u64| words[at as usize / 8] = value;
        let frame = u64::from(offsets.thread_frame);
        match offsets.cframe_frame {
            Some(offset) => {
                put(thread + frame, base + cframe);
                put(cframe + u64::from(offset), base + one);
            }
            None => put(thread + frame, base + one),
        }
        if offsets.frames_are_objects() {
            put(one, 1);
            put(two, 1);
        }
        put(one + u64::from(offsets.frame_previous), base + two);
        put(two + u64::from(offsets.frame_previous), base + one);
        let mut reader = Reader::new(Memory::of(std::process::id()));
        let walk = frames::walk(&mut reader, &offsets, base);
        assert_eq!((walk.frames.len(), walk.end), (2, frames::WalkEnd::Cycle), "{}", interpreter.0);
    }
}

#[test]
fn garbage_is_never_followed_far() {
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, HOLDER);
        let layout = program.target.layout.as_ref().unwrap();
        let objects = ObjectLayout::of(layout.minor_hex()).unwrap();
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let mut words = vec![0u64; 1 << 15];
        let base = words.as_ptr() as u64;
        for word in &mut words {
            let noise = noise(&mut seed);
            // Mostly pointers into itself; also small numbers, sizes beyond reason, and nothing at all.
            *word = match noise >> 60 {
                0..=9 => base + (noise & 0x3_ffff & !7),
                10..=11 => noise & 0xff,
                12 => u64::MAX - (noise & 0xff),
                13 => 0x6161_6161_0061_6161,
                14 => noise,
                _ => 0,
            };
        }
        let mut reader = Reader::new(Memory::of(std::process::id()));
        for _ in 0..2000 {
            let address =
                if noise(&mut seed) & 7 == 0 { noise(&mut seed) } else { base + (noise(&mut seed) & 0x3_fff8) };
            value::show(&mut reader, layout, objects, false, |_| Ok(Some(address)));
            let walk = frames::walk(&mut reader, &layout.offsets, address & 0xffff_ffff_fff8);
            assert!(walk.frames.len() <= frames::MAX_FRAMES);
            let inner = &walk.frames[..walk.frames.len().min(3)];
            frames::Codes::default().of(&mut reader, layout, objects, inner, true);
        }
    }
}

/// Names and values that hold secrets, and names that are too long to show.
const SECRETS: &str = r#"
import threading, time
def hold():
    url = 'postgres://user_of_the_service:SECRET-of-forty-characters-or-so-xxxxx@host/db'
    urls = ['redis://:SECRET-of-forty-characters-or-so-xxxxx@host']
    pair = (b'authorization', b'SECRET')
    arguments = ['serve', '--password', 'SECRET']
    headers = {b'cookie': b'SECRET', 'other': 'bearer SECRETSECRET'}
    query = b'GET /?access_token=SECRET&x=1'
    plain = 'a: b = c'
    time.sleep(100)
threading.Thread(target=hold, name='N' * 300, daemon=True).start()
space = {'time': time}
print('ready', flush=True)
exec(compile('def ' + 'g' * 10000 + '(): time.sleep(100)\n' + 'g' * 10000 + '()', 'f' * 10000, 'exec'), space)
"#;

#[test]
fn secrets_are_masked_and_long_names_cut() {
    let cut = |letter: &str, length: usize| letter.repeat(length) + "…";
    for interpreter in interpreters() {
        let program = Program::start(&interpreter, SECRETS);
        let threads = program.look_until(&interpreter.0, |threads| {
            threads.len() == 2 && threads.iter().all(|thread| thread.state.to_string().starts_with("sleeping"))
        });
        assert_eq!(threads[1].name, cut("N", 200), "{}", interpreter.0);
        assert_eq!(*threads[0].frames[0].frame.function, cut("g", 4096), "{}", interpreter.0);
        assert_eq!(threads[0].frames[0].frame.file.as_deref(), Some(cut("f", 4096).as_str()), "{}", interpreter.0);
        let threads = program.look(true);
        let locals = threads[1].frames[0].locals.as_ref().unwrap();
        let values: Vec<&str> = locals.iter().map(|local| local.value.as_str()).collect();
        let expected = [
            "'postgres://user_of_the_service:***@host/db'",
            "list[1]('redis://:***@host')",
            "tuple[2](b'authorization', ***)",
            "list[3]('serve', '--password', ***)",
            "dict[2]{b'cookie': ***, 'other': 'bearer ***'}",
            "b'GET /?access_token=***&x=1'",
            "'a: b = c'",
        ];
        assert_eq!(values, expected, "{}", interpreter.0);
    }
}
