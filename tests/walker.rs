//! The walker (`bpf/lib/python.bpf.h`) compiled for the host and run over the saved memory of interpreters that are
//! dead by then: every frame must be what the program said of itself. Needs a C compiler and no privileges.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is told by a panic")]

// Shared with the live tests, which use all of it.
#[allow(dead_code)]
#[path = "live/interpreter.rs"]
mod interpreter;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use interpreter::Interpreter;
use pylow::probe::{self, RawString, Record, StackRecord};
use pylow::symbol::{CodeKey, RecordString, ResolvedFrame, Symbolizer};
use pylow::target::Target;
use tempfile::TempDir;

/// `STACK_ROOT` of bpf/pylow.h: the walk reached the outermost frame.
const STACK_ROOT: u32 = 1;
/// Piece in which memory is saved: no page is smaller.
const PAGE_BYTES: usize = 4096;
/// Top byte of a frame's word: `FRAME_SHIM`, no Python frame.
const SHIM: u64 = 1;

#[test]
fn main_thread() {
    on_every_interpreter("main");
}

#[test]
fn another_thread() {
    on_every_interpreter("thread");
}

fn on_every_interpreter(thread: &str) {
    let interpreters = interpreter::found();
    assert!(!interpreters.is_empty(), "no CPython on this machine");
    let directory = TempDir::new().unwrap();
    let walker = compile(directory.path());
    for interpreter in interpreters {
        let told = Still::start(&interpreter, thread);
        let (truth, walked) = (told.frames.clone(), walk(told, &walker));
        assert_eq!(walked, truth, "{}, {thread} thread", interpreter.name);
    }
}

/// A program that stands still, and what it said of the thread that told.
struct Still {
    child: Child,
    thread_pointer: u64,
    /// Leaf first: `name\tfile\tline`.
    frames: Vec<String>,
}

impl Still {
    fn start(interpreter: &Interpreter, thread: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/walker/target.py");
        let mut command = interpreter.command();
        command.arg(program).arg(thread).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told: Vec<_> = lines.take_while(|line| line != "still").collect();
        let thread_pointer = told[0].strip_prefix("thread ").unwrap().parse().unwrap();
        let still = Self { child, thread_pointer, frames: told[1..].to_vec() };
        still.wait_until_blocked();
        still
    }

    /// The thread that told is about to read standard input, or does.
    fn wait_until_blocked(&self) {
        let tasks = format!("/proc/{}/task", self.child.id());
        let blocked = || {
            let mut tasks = fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path().join("syscall"));
            // proc(5): number of the system call, then its arguments: read() of descriptor 0.
            let read = format!("{} 0x0 ", libc::SYS_read);
            tasks.any(|call| fs::read_to_string(call).is_ok_and(|call| call.starts_with(&read)))
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !blocked() {
            assert!(std::time::Instant::now() < deadline, "the target does not wait");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Saves the program's memory, ends the program, walks.
fn walk(still: Still, walker: &Path) -> Vec<String> {
    let tgid = still.child.id();
    let thread_pointer = still.thread_pointer.to_string();
    let target = Target::open(tgid).unwrap();
    let directory = TempDir::new().unwrap();
    let (image, process) = (directory.path().join("image"), directory.path().join("process"));
    save_memory(tgid, &image);
    fs::write(&process, probe::process_config(target.layout.as_deref())).unwrap();
    drop(still);

    let mut symbolizer = Symbolizer::new();
    symbolizer.add_process(tgid, target.layout.clone());
    let output = Command::new(walker).arg(&image).arg(&process).args([&tgid.to_string(), &thread_pointer]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut stack = None;
    for record in records(&output.stdout) {
        match probe::decode_record(record).unwrap() {
            Record::Symbol(symbol) => take_in(&mut symbolizer, &symbol),
            Record::Stack(record) => stack = Some(record),
            other => panic!("the walker made {other:?}"),
        }
    }
    frames(&mut symbolizer, &stack.unwrap())
}

fn frames(symbolizer: &mut Symbolizer, stack: &StackRecord) -> Vec<String> {
    assert_eq!(stack.status & STACK_ROOT, STACK_ROOT, "status {:#x}", stack.status);
    let python = stack.python.iter().filter(|(word, _)| word >> 56 != SHIM);
    let resolved = python.map(|(word, position)| {
        let (code, hash) = (word & 0x00ff_ffff_ffff_ffff, (position >> 32) as u32);
        symbolizer.python_frame(stack.at.tgid, code, hash, *position as u32)
    });
    let told = resolved.filter_map(|frame| match frame {
        ResolvedFrame::Known(frame) => {
            Some(format!("{}\t{}\t{}", frame.function, frame.file.as_deref()?, frame.line.unwrap_or(0)))
        }
        ResolvedFrame::Trampoline => None,
        ResolvedFrame::Gone => Some("gone".to_owned()),
    });
    told.collect()
}

fn take_in(symbolizer: &mut Symbolizer, record: &probe::SymbolRecord) {
    fn string(raw: &RawString) -> RecordString<'_> {
        RecordString { state: raw.state, length: raw.length, bytes: &raw.bytes }
    }
    symbolizer.symbol_record(&pylow::symbol::SymbolRecord {
        key: CodeKey { tgid: record.tgid, code: record.code, hash: record.hash },
        first_line: record.first_line,
        name: string(&record.name),
        file: string(&record.file),
        lines: &record.lines,
        lines_length: record.lines_bytes,
    });
}

/// Records of the walker's output: each after its length.
fn records(mut output: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = output.split_first_chunk::<4>()?;
        let (record, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        output = rest;
        Some(record)
    })
}

/// Writes all readable private memory of a child as { address, length, bytes }.
fn save_memory(pid: u32, path: &Path) {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut image = BufWriter::new(File::create(path).unwrap());
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vvar_vclock]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        // Page by page: a guard page inside a mapping (MADV_GUARD_INSTALL, glibc 2.42) can't be read.
        let pages = (start..end).step_by(PAGE_BYTES).map(|address| (address, page(&memory, address)));
        for (address, bytes) in pages.filter_map(|(address, bytes)| Some((address, bytes?))) {
            image.write_all(&address.to_le_bytes()).unwrap();
            image.write_all(&(PAGE_BYTES as u64).to_le_bytes()).unwrap();
            image.write_all(&bytes).unwrap();
        }
    }
}

fn page(memory: &File, address: u64) -> Option<[u8; PAGE_BYTES]> {
    let mut bytes = [0; PAGE_BYTES];
    memory.read_exact_at(&mut bytes, address).ok().map(|()| bytes)
}

/// Compiles the walker into `directory`.
fn compile(directory: &Path) -> PathBuf {
    let program = directory.join("walker");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-I", "bpf", "-I", "tests/walker", "-o"]).arg(&program);
    let output = compiler.arg("tests/walker/walker.c").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap_or_else(|err| panic!("no C compiler ({err}); set CC or install gcc"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
