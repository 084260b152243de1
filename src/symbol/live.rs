//! Tests on running interpreters: names, lines and merged stacks against what the interpreter itself says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::target::{Target, process};

/// A running interpreter.
struct Python {
    child: Child,
    stdout: BufReader<ChildStdout>,
    program: String,
}

impl Python {
    fn start(program: &str, environment: &[(&str, String)], script: &str) -> Self {
        let mut command = Command::new(program);
        command.args(["-S", "-c", script]).envs(environment.iter().cloned());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, program: program.to_owned() }
    }

    fn tgid(&self) -> u32 {
        self.child.id()
    }

    /// Lines up to `.`.
    fn said(&mut self) -> Vec<String> {
        let lines = self.stdout.by_ref().lines().map(|line| line.unwrap());
        lines.take_while(|line| line != ".").collect()
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `script` on every interpreter of this machine.
fn on_every_interpreter(script: &str, test: impl Fn(Python)) {
    let mut tried = 0;
    for version in ["3.6.15", "3.7.16", "3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"] {
        let minor = version.rsplit_once('.').unwrap().0;
        let program = format!("/root/.pyenv/versions/{version}/bin/python{minor}");
        if Path::new(&program).exists() {
            test(Python::start(&program, &[], script));
            tried += 1;
        }
    }
    for (home, minor) in [("py39", "3.9"), ("py313", "3.13"), ("py314", "3.14"), ("py315", "3.15")] {
        let home = format!("/opt/pylow-interp/{home}/usr");
        let program = format!("{home}/bin/python{minor}");
        if Path::new(&program).exists() {
            let libraries = if minor == "3.9" { format!("{home}/lib/x86_64-linux-gnu") } else { String::new() };
            test(Python::start(&program, &[("PYTHONHOME", home), ("LD_LIBRARY_PATH", libraries)], script));
            tried += 1;
        }
    }
    if Path::new("/usr/bin/python3.11").exists() {
        test(Python::start("/usr/bin/python3.11", &[], script));
        tried += 1;
    }
    assert!(tried > 0, "no interpreter on this machine");
}

fn layout_of(python: &Python) -> Arc<Layout> {
    Target::open(python.tgid()).unwrap().layout.unwrap()
}

/// Prints, of several functions, the address of the code object and what a frame of it shows at every instruction.
const FUNCTIONS: &str = r#"
import dis, sys
def plain(x):
    y = x
    return (y +
            1)
class Shop:
    def order(self):
        return [i for i in (1, 2)
                if self]
def steps():
    while True:
        try:
            yield 1
        finally:
            pass
space = {}
def make(name, file, body):
    exec(compile('def ' + name + '():\n' + body, file, 'exec'), space)
    return space[name]
functions = [plain, Shop.order, steps, lambda: 0,
    make('caf\u00e9', '/tmp/caf\u00e9.py', ' return 1\n'),
    make('\u043b\u044f', '/tmp/\u0444\u0430\u0439\u043b.py', ' return 1\n'),
    make('emoji', '/tmp/\U0001f440.py', ' return 1\n'),
    make('n' * 300, '/' + 'long/' * 100 + 'f.py', ' return 1\n'),
    make('big', 'big.py', ' x = 1\n' * 2000 + '\n' * 300 + ' return x\n')]
def positions(code):
    if hasattr(code, 'co_lines'):
        unit = 1 if sys.version_info >= (3, 11) else 2
        for start, end, line in code.co_lines():
            for offset in range(start, end, 2):
                yield offset // unit, line or 0
    else:
        line = code.co_firstlineno
        starts = dict(dis.findlinestarts(code))
        for offset in range(0, len(code.co_code), 2):
            line = starts.get(offset, line)
            yield offset, line
say = lambda text: sys.stdout.buffer.write((text + '\n').encode())
for function in functions:
    code = function.__code__
    lines = ','.join('%d:%d' % at for at in positions(code))
    say('\t'.join([str(id(code)), getattr(code, 'co_qualname', code.co_name), code.co_filename, lines]))
del function, code
say('.')
sys.stdout.flush()
sys.stdin.readline()
del functions
space.clear()
reuse = [compile('def other%d(): pass' % i, 'other.py', 'exec') for i in range(3000)]
say('.')
sys.stdout.flush()
sys.stdin.readline()
"#;

#[test]
fn names_and_lines_are_the_interpreters_own() {
    on_every_interpreter(FUNCTIONS, |mut python| {
        let said = python.said();
        let (layout, memory) = (layout_of(&python), Memory::of(python.tgid()));
        let mut symbolizer = Symbolizer::new();
        symbolizer.add_process(python.tgid(), Some(Arc::clone(&layout)));
        let mut codes = Vec::new();
        for line in &said {
            let [code, name, file, lines] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            let code: u64 = code.parse().unwrap();
            let hash = code_object::identity_hash(&layout.offsets, &memory, code).unwrap();
            codes.push((code, hash, name.to_owned()));
            for at in lines.split(',') {
                let (position, line) = at.split_once(':').unwrap();
                let (position, line): (u32, u32) = (position.parse().unwrap(), line.parse().unwrap());
                let frame = match symbolizer.python_frame(python.tgid(), code, hash, position) {
                    ResolvedFrame::Known(frame) => frame,
                    other => panic!("{}: {name} is {other:?}", python.program),
                };
                assert_eq!((&*frame.function, frame.file.as_deref()), (name, Some(file)), "{}", python.program);
                assert_eq!(frame.line.unwrap_or(0), line, "{}: {name} at {position}", python.program);
            }
        }
        assert_eq!(symbolizer.take_new().len(), said.len());
        python.go_on();
        python.said();
        // Code objects freed meanwhile: a symbolizer that never saw them must not find other names there.
        let mut late = Symbolizer::new();
        late.add_process(python.tgid(), Some(Arc::clone(&layout)));
        let mut gone = 0;
        for (code, hash, name) in codes {
            match late.python_frame(python.tgid(), code, hash, 0) {
                ResolvedFrame::Known(frame) => assert_eq!(*frame.function, *name, "{}", python.program),
                ResolvedFrame::Gone => gone += 1,
                ResolvedFrame::Trampoline => panic!("{}: {name} is a trampoline", python.program),
            }
        }
        assert!(gone >= 4, "{}: only {gone} code objects were freed", python.program);
    });
}

/// Sleeps at the bottom of a stack that goes through C three times.
const SLEEPER: &str = r#"
import sys, time
def leaf():
    sys.stdout.write('.\n')
    sys.stdout.flush()
    time.sleep(1000)
def key(x):
    leaf()
def through_c():
    sorted([1], key=key)
def steps():
    yield through_c()
class Middle:
    def __init__(self):
        list(steps())
def main():
    Middle()
main()
"#;

/// The walker of bpf/lib/python.bpf.h for a process with one thread.
fn walk(layout: &Layout, memory: &Memory) -> Vec<(u64, u64)> {
    let at = |address: u64, offset: u16| memory.u64(address + u64::from(offset)).unwrap();
    let offsets = &layout.offsets;
    let thread = at(memory.u64(layout.interpreters_head).unwrap(), offsets.interpreter_threads);
    let mut frame = at(thread, offsets.thread_frame);
    if let Some(offset) = offsets.cframe_frame {
        frame = at(frame, offset);
    }
    let mut frames = Vec::new();
    while frame != 0 {
        let owner = if offsets.frame_owner == 0 { 0 } else { at(frame, offsets.frame_owner) as u8 };
        if offsets.shim_owner.is_some_and(|shim| u16::from(owner) >= shim) {
            frames.push((MARK_SHIM << MARK_SHIFT | frame, 0));
        } else {
            let code = at(frame, offsets.frame_code) & !u64::from(offsets.code_tag_mask);
            let mut position = at(frame, offsets.frame_lasti);
            if offsets.lasti_is_pointer {
                position = position.wrapping_sub(code + u64::from(offsets.code_bytecode));
            }
            let mark = if offsets.entry_flag && owner != 0 { MARK_ENTRY } else { 0 };
            let hash = code_object::identity_hash(offsets, memory, code).unwrap();
            frames.push((mark << MARK_SHIFT | code, u64::from(hash) << 32 | position & 0xffff_ffff));
        }
        frame = at(frame, offsets.frame_previous);
    }
    frames
}

/// Waits until the main thread sleeps in a system call.
fn wait_until_asleep(python: &Python) {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(format!("/proc/{}/syscall", python.tgid())).unwrap();
        let number = text.split_whitespace().next().unwrap();
        if ["23", "230", "270"].contains(&number) {
            return; // select, clock_nanosleep, pselect6
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{} does not sleep: {text}", python.program);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Registers of a child of ours: the product never does this.
fn registers(tgid: u32) -> libc::user_regs_struct {
    let pid = tgid as libc::pid_t;
    let none = std::ptr::null_mut::<libc::c_void>();
    let mut status = 0;
    // SAFETY: user_regs_struct is plain integers, valid as zeroes.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers given are to live locals of the types the requests ask for; `pid` is our child.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, none, none), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none), 0);
        assert_eq!(libc::waitpid(pid, &mut status, libc::__WALL), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, pid, none, &mut registers), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, none, none), 0);
    }
    registers
}

#[test]
fn native_and_python_frames_are_one_stack() {
    on_every_interpreter(SLEEPER, |mut python| {
        python.said();
        wait_until_asleep(&python);
        let registers = registers(python.tgid());
        let (ip, sp, bp) = (registers.rip, registers.rsp, registers.rbp);
        let (layout, memory) = (layout_of(&python), Memory::of(python.tgid()));
        let mappings = process::mappings(python.tgid()).unwrap();
        let top = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&sp)).unwrap().end;
        let bytes = memory.bytes(sp, 16384.min(top - sp) as usize).unwrap();
        let mut symbolizer = Symbolizer::new();
        symbolizer.add_process(python.tgid(), Some(Arc::clone(&layout)));
        let native = NativeStack { ip, sp, bp, lr: 0, bytes: &bytes };
        let walked = walk(&layout, &memory);
        let stack = symbolizer.stack(python.tgid(), &walked, &[], Some(&native), StackStatus::ROOT);
        let shown: Vec<String> = stack.frames.iter().map(|at| format!("{:?} {}", at.kind, at.function)).collect();
        let shown = format!("{} {shown:#?}", python.program);

        assert_eq!(symbolizer.unwound(), UnwindCounts { stacks: 1, complete: 1 }, "{shown}");
        let names: Vec<&str> =
            stack.frames.iter().filter(|at| at.kind == FrameKind::Python).map(|at| &*at.function).collect();
        let init = if names.contains(&"Middle.__init__") { "Middle.__init__" } else { "__init__" };
        assert_eq!(names, ["leaf", "key", "through_c", "steps", init, "main", "<module>"], "{shown}");
        assert!(!shown.contains("Native _PyEval_EvalFrameDefault"), "{shown}");
        let kind_after = |name: &str| {
            let index = stack.frames.iter().position(|at| *at.function == *name).unwrap();
            stack.frames[index + 1].kind
        };
        // sorted(), list() and, up to 3.11, type.__call__ stand between; main() calls nothing between it and <module>
        // where Python calls do not nest C calls.
        assert_eq!(kind_after("key"), FrameKind::Native, "{shown}");
        assert_eq!(kind_after("steps"), FrameKind::Native, "{shown}");
        assert_eq!(kind_after("<module>"), FrameKind::Native, "{shown}");
        assert_eq!(stack.frames[0].kind, FrameKind::Native, "{shown}");
        assert_eq!(stack.frames.last().unwrap().kind, FrameKind::Native, "{shown}");
        if shown.contains(".pyenv") {
            assert_eq!(&*stack.frames.last().unwrap().function, "_start", "{shown}");
            assert!(stack.frames.iter().any(|at| &*at.function == "main"), "{shown}");
        }
        // The same sample again is the same stack.
        assert!(Arc::ptr_eq(&stack, &symbolizer.stack(python.tgid(), &walked, &[], Some(&native), StackStatus::ROOT)));
        // In a system call of the C library: native, of the file that holds it.
        let (class, module) = symbolizer.class_of(python.tgid(), ip, StackStatus::ROOT);
        assert_eq!(class, CodeClass::Native);
        assert!(module.is_some_and(|module| module.starts_with("libc")), "{shown}");
    });
}

/// A record's strings, as the walker fills them in.
fn recorded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

#[test]
fn what_a_record_cut_is_read_from_the_process() {
    on_every_interpreter(FUNCTIONS, |mut python| {
        let said = python.said();
        let (layout, memory) = (layout_of(&python), Memory::of(python.tgid()));
        let mut symbolizer = Symbolizer::new();
        symbolizer.add_process(python.tgid(), Some(Arc::clone(&layout)));
        let line = said.iter().find(|line| line.contains("nnnn")).unwrap();
        let [code, name, file, _] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let code: u64 = code.parse().unwrap();
        let hash = code_object::identity_hash(&layout.offsets, &memory, code).unwrap();
        let ascii = 1 << 2 | 1 << 5 | 1 << 6;
        // The second record is of an object that is not there any more.
        for (hash, name_shown) in [(hash, name.to_owned()), (hash ^ 1, format!("{}…", &name[..127]))] {
            let key = CodeKey { tgid: python.tgid(), code, hash };
            symbolizer.symbol_record(&SymbolRecord {
                key,
                first_line: 1,
                name: RecordString { state: ascii, length: name.len() as u64, bytes: &recorded::<128>(name) },
                file: RecordString { state: ascii, length: file.len() as u64, bytes: &recorded::<256>(file) },
                lines: &[0; 512],
                lines_length: 600,
            });
            let ResolvedFrame::Known(frame) = symbolizer.python_frame(python.tgid(), code, hash, 0) else {
                panic!("{}: a recorded frame is unknown", python.program);
            };
            assert_eq!(*frame.function, *name_shown, "{}", python.program);
            assert_eq!(frame.line.is_some(), name_shown == name, "{}: a cut line table", python.program);
            assert_eq!(symbolizer.take_new(), [key]);
        }
    });
}

/// The two fast ways to a stack: as a whole by its words, and frame by frame from what is known.
#[test]
fn a_known_stack_of_ten_frames() {
    let program = "/usr/bin/python3.11";
    if !Path::new(program).exists() {
        return;
    }
    let mut python = Python::start(program, &[], SLEEPER);
    python.said();
    wait_until_asleep(&python);
    let (layout, memory) = (layout_of(&python), Memory::of(python.tgid()));
    let mut symbolizer = Symbolizer::new();
    symbolizer.add_process(python.tgid(), Some(Arc::clone(&layout)));
    let mut walked = walk(&layout, &memory);
    walked.extend_from_within(..3);
    assert_eq!(walked.len(), 10);
    let first = symbolizer.stack(python.tgid(), &walked, &[], None, StackStatus::ROOT);
    for _ in 0..1000 {
        let again = symbolizer.stack(python.tgid(), &walked, &[], None, StackStatus::ROOT);
        assert!(Arc::ptr_eq(&first, &again));
        let (frames, any_gone) = symbolizer.walked(python.tgid(), &walked);
        assert!(!any_gone && frames.into_iter().filter_map(Walked::into_frame).eq(first.frames.iter().cloned()));
    }
    // Nothing of it is known of a process that took over the pid.
    symbolizer.forget(python.tgid());
    symbolizer.add_process(python.tgid(), None);
    let other = symbolizer.stack(python.tgid(), &walked, &[], None, StackStatus::ROOT);
    assert!(other.frames.iter().all(|frame| &*frame.function == GONE));
    assert!(other.status.has(StackStatus::CODE_FAULT));
    assert_eq!(symbolizer.take_removed().len(), 7);
}

/// Code without a file (perf maps of 3.12+), in a deleted file, and loaded after the first stack has names too.
#[test]
fn native_names_where_files_are_not_enough() {
    let program = "/root/.pyenv/versions/3.12.1/bin/python3.12";
    if !Path::new(program).exists() {
        return;
    }
    let script = r#"
import ctypes, os, shutil, sys, tempfile, time
sys.activate_stack_trampoline('perf')
def traced():
    return 1
traced()
with open('/proc/self/maps') as maps:
    library = next((line.split()[-1] for line in maps if 'libm.so' in line), None)
vdso = int(next(line for line in open('/proc/self/maps') if '[vdso]' in line).split('-')[0], 16)
print(vdso)
print(next(line.split()[0] for line in open('/tmp/perf-%d.map' % os.getpid()) if 'traced' in line))
print('.', flush=True)
sys.stdin.readline()
copy = tempfile.mktemp('.so')
shutil.copy(library, copy)
loaded = ctypes.CDLL(copy)
os.unlink(copy)
os.unlink('/tmp/perf-%d.map' % os.getpid())
print(ctypes.cast(loaded.cos, ctypes.c_void_p).value)
print('.', flush=True)
sys.stdin.readline()
"#;
    let mut python = Python::start(program, &[], script);
    let said = python.said();
    let tgid = python.tgid();
    let mut symbolizer = Symbolizer::new();
    symbolizer.add_process(tgid, Some(layout_of(&python)));
    let leaf = |symbolizer: &mut Symbolizer, ip: u64| {
        let native = NativeStack { ip, sp: 0, bp: 0, lr: 0, bytes: &[] };
        let stack = symbolizer.stack(tgid, &[], &[], Some(&native), StackStatus::ROOT);
        stack.frames[0].function.to_string()
    };
    let traced = leaf(&mut symbolizer, u64::from_str_radix(&said[1], 16).unwrap());
    assert!(traced.starts_with("py::traced:"), "{traced}");
    python.go_on();
    std::thread::sleep(Duration::from_millis(120)); // Mappings are not read more often than every 100 ms.
    let cos: u64 = python.said()[0].parse().unwrap();
    // cos() is an indirect function: what dlsym() found is one of its implementations, local symbols of libm.
    let name = leaf(&mut symbolizer, cos + 1);
    assert!(name.contains("cos") || name.contains(".so+0x"), "{name}");
    let (class, module) = symbolizer.class_of(tgid, cos, StackStatus::ROOT);
    assert_eq!(class, CodeClass::Native);
    assert!(module.is_some_and(|module| module.starts_with("tmp") && module.ends_with(".so")));
    let vdso: u64 = said[0].parse().unwrap();
    assert_eq!(symbolizer.module_of(tgid, vdso).as_deref(), Some("[vdso]"));
    assert_eq!(symbolizer.module_of(tgid, 0x10), None);
}
