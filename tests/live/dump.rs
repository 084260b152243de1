//! `dump` against threads of which it is known where they are.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Failed;
use serde_json::Value;

use crate::interpreter::Interpreter;
use crate::pylow::{Pylow, run};
use crate::target::{Target, until};
use crate::{Outcome, Suite};

/// What each blocked thread shows of the program, leaf first.
const CHAINS: [(&str, &[&str]); 4] = [
    ("MainThread", &["wait_for_word", "ready", "key", "through_c", "main", "<module>"]),
    ("sleeper", &["sleep", "key", "through_c"]),
    ("locker", &["take", "<lambda>", "key", "through_c"]),
    ("receiver", &["receive", "<lambda>", "key", "through_c"]),
];
/// Dumps while a thread watches whether the program is ever stopped.
const DUMPS: usize = 50;

pub(crate) fn add_to(suite: &mut Suite) {
    suite.on("dump_native", |_| true, native);
    suite.on_both_ends("dump_states", |_| true, states);
    suite.on_both_ends("dump_stops_nothing", |_| true, stops_nothing);
    suite.once("dump_native_without_btf", without_btf);
}

/// One frame of a dump.
#[derive(Debug)]
struct Frame {
    kind: String,
    /// Last part of the name.
    function: String,
    file: String,
    line: Option<u64>,
    locals: Value,
}

/// One thread of a dump.
#[derive(Debug)]
struct Thread {
    name: String,
    state: String,
    holds_gil: bool,
    frames: Vec<Frame>,
    remark: String,
}

impl Thread {
    fn of_kind(&self, kind: &str) -> Vec<&Frame> {
        self.frames.iter().filter(|frame| frame.kind == kind).collect()
    }

    fn python(&self) -> Vec<(&str, &str, Option<u64>)> {
        self.of_kind("python").iter().map(|it| (it.function.as_str(), it.file.as_str(), it.line)).collect()
    }

    fn index(&self, function: &str) -> Result<usize, Failed> {
        let index = self.frames.iter().position(|frame| frame.kind == "python" && frame.function == function);
        index.ok_or_else(|| format!("no {function}: {self:#?}").into())
    }
}

fn dump(target: &Target, flags: &[&str]) -> Result<Vec<Thread>, Failed> {
    let pid = target.pid.to_string();
    let finished = run(&[&["dump", &pid, "--format", "json"], flags].concat())?;
    let report: Value = serde_json::from_str(finished.stdout.trim())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let frame = |value: &Value| Frame {
        kind: text(&value["kind"]),
        function: match (value["kind"].as_str(), value["function"].as_str()) {
            // Qualified names exist from 3.11 on.
            (Some("python"), Some(name)) => name.rsplit('.').next().unwrap_or(name).to_owned(),
            (_, name) => name.unwrap_or_default().to_owned(),
        },
        file: text(&value["file"]),
        line: value["line"].as_u64(),
        locals: value["locals"].clone(),
    };
    let thread = |value: &Value| Thread {
        name: text(&value["name"]),
        state: text(&value["state"]),
        holds_gil: value["holds_gil"] == true,
        frames: value["frames"].as_array().into_iter().flatten().map(frame).collect(),
        remark: text(&value["remark"]),
    };
    let threads = report["threads"].as_array().ok_or_else(|| format!("no threads\n{finished}"))?;
    Ok(threads.iter().map(thread).collect())
}

fn named<'a>(threads: &'a [Thread], name: &str) -> Result<&'a Thread, Failed> {
    threads.iter().find(|thread| thread.name == name).ok_or_else(|| format!("no {name}: {threads:#?}").into())
}

/// A dump of which every thread waits where it will stay.
fn settled(target: &Target) -> Result<Vec<Thread>, Failed> {
    until("all threads wait", || {
        let threads = dump(target, &[]).ok()?;
        let waits = |name: &str, in_it: &[&str]| {
            let thread = threads.iter().find(|thread| thread.name == name);
            thread.is_some_and(|thread| in_it.iter().any(|word| thread.state.contains(word)))
        };
        let settled = waits("MainThread", &["in read"])
            && waits("sleeper", &["sleeping in"])
            && waits("locker", &["(lock)"])
            && waits("receiver", &["in recvfrom (unix socket"]);
        settled.then_some(threads)
    })
}

fn native(interpreter: &Interpreter) -> Outcome {
    let target = Target::start(interpreter, "blocked.py", &[])?;
    let plain = settled(&target)?;
    let threads = dump(&target, &["--native"])?;
    for (name, chain) in CHAINS {
        expect_merged(named(&threads, name)?, chain, named(&plain, name)?)?;
    }
    // The innermost function may be a local one of a stripped library; the one that calls it is exported.
    let sleeper = named(&threads, "sleeper")?;
    let inner: Vec<_> = sleeper.of_kind("native").iter().take(3).map(|frame| frame.function.as_str()).collect();
    if !inner.iter().any(|function| function.contains("nanosleep") || function.contains("select")) {
        return Err(format!("the sleeper's inner native frames are {inner:?}").into());
    }
    let root = named(&threads, "MainThread")?.frames.last().ok_or("no frames")?;
    if interpreter.name.ends_with("-pyenv") && root.function != "_start" {
        return Err(format!("the main thread's root is {root:#?}").into());
    }
    let with_locals = dump(&target, &["--native", "--locals"])?;
    for (name, _) in CHAINS {
        expect_locals(named(&with_locals, name)?, named(&threads, name)?)?;
    }
    Ok(())
}

/// Kernel, C library, Python, C, Python, C: in this order, and the Python frames are those of a plain dump.
fn expect_merged(thread: &Thread, chain: &[&str], plain: &Thread) -> Outcome {
    let wrong = |what: &str| -> Outcome { Err(format!("{what}: {thread:#?}").into()) };
    if !thread.remark.is_empty() {
        return wrong("not whole");
    }
    let names: Vec<_> = thread.python().iter().map(|(function, ..)| *function).collect();
    if !names.starts_with(chain) {
        return wrong("not the program's functions");
    }
    if thread.python() != plain.python() {
        return wrong(&format!("not the Python frames of a plain dump, {plain:#?}"));
    }
    let kinds: Vec<_> = thread.frames.iter().map(|frame| frame.kind.as_str()).collect();
    let kernel = kinds.iter().take_while(|kind| **kind == "kernel").count();
    if kernel == 0 || kinds[kernel..].contains(&"kernel") {
        return wrong("kernel frames are not the leaf side");
    }
    let leaf = &thread.frames[kernel];
    if leaf.kind != "native" || !(leaf.file.contains("libc") || leaf.file.contains("libpthread")) {
        return wrong("no C library below the kernel");
    }
    if kernel > thread.index(chain[0])? {
        return wrong("the C library is not inside the Python frames");
    }
    if !kinds[thread.index("key")?..thread.index("through_c")?].contains(&"native") {
        return wrong("no sorted() between Python and Python");
    }
    // What runs Python frames is replaced by them.
    if thread.frames.iter().any(|frame| frame.function == "_PyEval_EvalFrameDefault") {
        return wrong("an evaluation frame is left");
    }
    match kinds.last() {
        Some(&"native") => Ok(()),
        _ => wrong("no C code at the root"),
    }
}

fn expect_locals(with: &Thread, without: &Thread) -> Outcome {
    let key = &with.frames[with.index("key")?];
    let kept =
        key.locals.as_array().into_iter().flatten().any(|local| local["name"] == "item" && local["value"] == "1");
    if !kept || with.python() != without.python() || with.frames.len() != without.frames.len() {
        return Err(format!("--locals changes frames or loses locals: {with:#?}").into());
    }
    match with.frames.iter().find(|frame| frame.kind != "python" && !frame.locals.is_null()) {
        Some(frame) => Err(format!("locals of no Python frame: {frame:#?}").into()),
        None => Ok(()),
    }
}

/// Who burns holds the GIL and nobody else; who waits says for what, also while another burns.
fn states(interpreter: &Interpreter) -> Outcome {
    let target = Target::start(interpreter, "blocked.py", &["burn"])?;
    settled(&target)?;
    let threads = until("the burner holds the GIL", || {
        let threads = dump(&target, &[]).ok()?;
        named(&threads, "burner").is_ok_and(|burner| burner.holds_gil).then_some(threads)
    })?;
    let burner = named(&threads, "burner")?;
    if burner.state != "running" || burner.python().first().map(|it| it.0) != Some("burn") {
        return Err(format!("the burner: {burner:#?}").into());
    }
    if threads.iter().filter(|thread| thread.holds_gil).count() != 1 {
        return Err(format!("not one holder: {threads:#?}").into());
    }
    let native = dump(&target, &["--native"])?;
    let burner = named(&native, "burner")?;
    if !burner.remark.contains("without stopping it") || burner.frames.iter().any(|frame| frame.kind != "python") {
        return Err(format!("native frames of a running thread: {burner:#?}").into());
    }
    let sleeper = named(&native, "sleeper")?;
    expect_merged(sleeper, CHAINS[1].1, named(&threads, "sleeper")?)
}

/// No thread is stopped or traced at any look while the program is dumped again and again.
fn stops_nothing(interpreter: &Interpreter) -> Outcome {
    let target = Target::start(interpreter, "blocked.py", &["burn"])?;
    settled(&target)?;
    let (pid, over) = (target.pid, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                looks += 1;
                if let Some(stopped) = stopped_thread(pid) {
                    return Err(stopped);
                }
            }
            Ok(looks)
        });
        let dumped = (0..DUMPS).try_for_each(|_| dump(&target, &["--native", "--locals"]).map(drop));
        over.store(true, Ordering::Relaxed);
        let looks: usize = watch.join().map_err(|_| "the watch panicked")??;
        dumped?;
        if looks < DUMPS {
            return Err(format!("only {looks} looks in {DUMPS} dumps").into());
        }
        Ok(())
    })
}

/// Native frames need BPF, and a dump that can't have them says why; a plain one needs nothing of it.
fn without_btf(interpreter: &Interpreter) -> Outcome {
    let target = Target::start(interpreter, "blocked.py", &[])?;
    let pid = target.pid.to_string();
    let finished = Pylow::start(&["dump", &pid, "--native", "--btf", "/nonexistent"])?.finish()?;
    finished.expect_code(4)?;
    finished.expect_stderr(&["error: ", "(BTF)", "hint: "])?;
    run(&["dump", &pid, "--btf", "/nonexistent"]).map(drop)
}

/// What /proc says of a thread that is stopped or traced.
fn stopped_thread(pid: u32) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let statuses = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.into_iter().find(|status| {
        let field = |name| status.lines().find_map(|line: &str| line.strip_prefix(name)).unwrap_or_default().trim();
        matches!(field("State:").chars().next(), Some('T' | 't')) || field("TracerPid:") != "0"
    })
}
