//! From addresses to names: what the kernel side sends as ids becomes stacks of functions, files and lines.
//!
//! [`Symbolizer`] is the one entrance. It knows nothing of the ABI: whoever decodes records calls it with plain values.

mod code_object;
mod eval_loop;
mod image;
mod kernel;
#[cfg(all(test, target_arch = "x86_64"))]
mod live;
mod merge;
mod modules;
mod names;
mod native;
mod python;
mod stacks;
mod unwind;

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::event::{CodeClass, Frame, FrameKind, Stack, StackStatus};
use crate::target::memory::Memory;
use crate::target::python::layout::{FrameEntry, Layout};

use kernel::KernelSymbols;
use merge::{CFrame, Reach, Walked};
use modules::{Images, Modules};
use names::Names;
use native::NativeSymbols;
use python::CodeCache;
use stacks::Stacks;
use unwind::ProcessUnwinder;

pub use python::{CodeKey, GONE, RecordString, ResolvedFrame, SymbolRecord};
pub use unwind::NativeStack;

/// Name of the frame that stands for callers beyond the walker's limit.
pub const CALLERS_LEFT_OUT: &str = "[callers left out]";

/// Top byte of a Python frame's word: `FRAME_SHIM` and `FRAME_ENTRY` of bpf/pylow.h; below it the address.
const MARK_SHIM: u64 = 1;
const MARK_ENTRY: u64 = 2;
const MARK_SHIFT: u32 = 56;

/// Names everything a stack can hold, for any number of processes. Not `Send`: it lives in the thread that decodes.
#[derive(Default)]
pub struct Symbolizer {
    processes: HashMap<u32, Process>,
    codes: CodeCache,
    kernel: KernelSymbols,
    resolver: Resolver,
    stacks: Stacks,
    /// Counts the processes ever added: stacks of different ones are never confused.
    added: u64,
    /// Reused key of a stack.
    words: Vec<u64>,
    unwound: UnwindCounts,
}

/// How many native stacks were unwound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindCounts {
    /// Native stacks.
    pub stacks: u64,
    /// Of them: to the outermost frame.
    pub complete: u64,
}

/// One followed process.
struct Process {
    serial: u64,
    memory: Memory,
    layout: Option<Arc<Layout>>,
    modules: Modules,
    unwinder: ProcessUnwinder,
}

/// What native frames need and processes share.
#[derive(Default)]
struct Resolver {
    names: Names,
    images: Images,
    native: NativeSymbols,
    cache: unwind::Cache,
}

impl Symbolizer {
    /// Knows no process yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Follows a process, or takes over what became known of its interpreter. A process that became another program is
    /// to be forgotten first.
    pub fn add_process(&mut self, tgid: u32, layout: Option<Arc<Layout>>) {
        self.added += 1;
        let serial = self.added;
        let process = self.processes.entry(tgid).or_insert_with(|| Process {
            serial,
            memory: Memory::of(tgid),
            layout: None,
            modules: Modules::of(tgid),
            unwinder: ProcessUnwinder::default(),
        });
        process.serial = serial;
        process.layout = layout;
    }

    /// Reads the files of a process that unwinding will need, so that its first stack does not wait for them, and a
    /// process that exits soon can be named at all.
    pub fn prepare_native(&mut self, tgid: u32) {
        if let Some(process) = self.processes.get_mut(&tgid) {
            process.modules.refresh_for(u64::MAX, &mut self.resolver.images, &mut self.resolver.names);
        }
    }

    /// Reads the names of the kernel, so that the first kernel frame does not wait for them: it takes 40 ms and more.
    pub fn prepare_kernel(&mut self) {
        // Trouble is told by `kernel_problem`.
        let _ = self.kernel.table();
    }

    /// Drops everything of a process that ended or became another program.
    pub fn forget(&mut self, tgid: u32) {
        self.processes.remove(&tgid);
        self.codes.forget(tgid);
        self.resolver.native.forget(tgid);
    }

    /// Takes in a symbol record.
    pub fn symbol_record(&mut self, record: &SymbolRecord<'_>) {
        let process = self.processes.get(&record.key.tgid);
        let process = process.and_then(|process| Some((process.layout.as_deref()?, &process.memory)));
        self.codes.record(&mut self.resolver.names, record, process);
    }

    /// Code objects known since the last call: to be entered in the kernel's `known` map.
    pub fn take_new(&mut self) -> Vec<CodeKey> {
        self.codes.take_added()
    }

    /// Code objects no longer known: to be deleted from the kernel's `known` map.
    pub fn take_removed(&mut self) -> Vec<CodeKey> {
        self.codes.take_removed()
    }

    /// The frame of one code object, e.g. of a frame found by `inspect`; `position` is f_lasti as the walker sends it.
    pub fn python_frame(&mut self, tgid: u32, code: u64, hash: u32, position: u32) -> ResolvedFrame {
        match self.processes.get(&tgid) {
            Some(Process { layout: Some(layout), memory, .. }) => {
                self.codes.resolve(&mut self.resolver.names, layout, memory, code, hash, position)
            }
            _ => ResolvedFrame::Gone,
        }
    }

    /// One stack, leaf first: kernel frames, then Python frames, with native frames around them where given. Equal
    /// stacks are the same `Arc`. `python` are (word, position) of the walker's frame records; `kernel` addresses.
    /// Adds `CODE_FAULT` to the status when a code object was gone.
    pub fn stack(
        &mut self,
        tgid: u32,
        python: &[(u64, u64)],
        kernel: &[u64],
        native: Option<&NativeStack<'_>>,
        status: StackStatus,
    ) -> Arc<Stack> {
        if native.is_none() {
            let serial = self.processes.get(&tgid).map_or(0, |process| process.serial);
            self.words.clear();
            self.words.extend([serial, u64::from(status.0), kernel.len() as u64]);
            self.words.extend(kernel);
            self.words.extend(python.iter().flat_map(|&(word, position)| [word, position]));
            if let Some(stack) = self.stacks.known(&self.words) {
                return stack;
            }
        }
        let (mut walked, any_gone) = self.walked(tgid, python);
        if status.has(StackStatus::TRUNCATED) {
            walked.push(Walked::Frame { frame: self.outer_frames(), entry: false });
        }
        let mut frames = Vec::with_capacity(kernel.len() + walked.len());
        let kernel = kernel.iter().map(|&address| self.kernel.frame(&mut self.resolver.names, address));
        frames.extend(kernel.skip_while(|frame| kernel::is_tracing(&frame.function)));
        match native {
            Some(native) => frames.extend(self.merged(tgid, walked, native, status.has(StackStatus::ROOT)).0),
            None => frames.extend(walked.into_iter().filter_map(Walked::into_frame)),
        }
        let status = if any_gone { StackStatus(status.0 | StackStatus::CODE_FAULT.0) } else { status };
        let stack = self.stacks.intern(Stack { frames, status });
        // A symbol record may still come for what is gone now.
        if native.is_none() && !any_gone {
            self.stacks.remember(&self.words, &stack);
        }
        stack
    }

    /// Puts native frames around Python frames that were read otherwise, e.g. by `inspect`, and keeps whatever hangs on
    /// these. Both are leaf first and of the same moment; `python_complete` says that the outermost Python frame is among
    /// them. Also returns whether the native stack was unwound to its outermost frame.
    pub fn merge_native<T: From<Frame>>(
        &mut self,
        tgid: u32,
        native: &NativeStack<'_>,
        python: Vec<(T, FrameEntry)>,
        python_complete: bool,
    ) -> (Vec<T>, bool) {
        let mut walked = Vec::with_capacity(python.len());
        for (frame, entry) in python {
            walked.push(Walked::Frame { frame, entry: entry == FrameEntry::Flag });
            if let FrameEntry::Shim(address) = entry {
                walked.push(Walked::Shim(address));
            }
        }
        self.merged(tgid, walked, native, python_complete)
    }

    /// Stands for the callers that were not walked.
    fn outer_frames(&mut self) -> Frame {
        Frame {
            kind: FrameKind::Python,
            function: self.resolver.names.intern(CALLERS_LEFT_OUT),
            file: None,
            line: None,
        }
    }

    /// What kind of code a sample interrupted; for native code also the base name of the file it is in.
    pub fn class_of(&mut self, tgid: u32, ip: u64, status: StackStatus) -> (CodeClass, Option<Arc<str>>) {
        if status.has(StackStatus::GC) {
            return (CodeClass::GarbageCollector, None);
        }
        if status.has(StackStatus::IN_KERNEL) {
            return (CodeClass::Kernel, None);
        }
        let layout = self.processes.get(&tgid).and_then(|process| process.layout.as_deref());
        if layout.is_some_and(|layout| in_interpreter(layout, ip)) {
            return (CodeClass::Interpreter, None);
        }
        (CodeClass::Native, self.module_of(tgid, ip))
    }

    /// Base name of the file an instruction of a process belongs to, `[vdso]`, or `[anon]`.
    pub fn module_of(&mut self, tgid: u32, ip: u64) -> Option<Arc<str>> {
        let process = self.processes.get_mut(&tgid)?;
        process.modules.refresh_for(ip, &mut self.resolver.images, &mut self.resolver.names);
        process.modules.find(ip).map(|module| Arc::clone(&module.name))
    }

    /// Why kernel frames have no names (`[kernel]`), if that is so.
    pub fn kernel_problem(&self) -> Option<&Error> {
        self.kernel.problem()
    }

    /// How many native stacks were unwound so far, and how many completely.
    pub fn unwound(&self) -> UnwindCounts {
        self.unwound
    }

    fn walked(&mut self, tgid: u32, python: &[(u64, u64)]) -> (Vec<Walked<Frame>>, bool) {
        let process = self.processes.get(&tgid);
        let process = process.and_then(|process| Some((process.layout.as_deref()?, &process.memory)));
        let names = &mut self.resolver.names;
        let mut walked = Vec::with_capacity(python.len());
        let mut any_gone = false;
        for &(word, position) in python {
            let (mark, address) = (word >> MARK_SHIFT, word & ((1 << MARK_SHIFT) - 1));
            if mark == MARK_SHIM {
                walked.push(Walked::Shim(address));
                continue;
            }
            let (hash, position) = ((position >> 32) as u32, position as u32);
            let resolved = process.map_or(ResolvedFrame::Gone, |(layout, memory)| {
                self.codes.resolve(names, layout, memory, address, hash, position)
            });
            let frame = match resolved {
                ResolvedFrame::Known(frame) => frame,
                ResolvedFrame::Trampoline => continue,
                ResolvedFrame::Gone => {
                    any_gone = true;
                    Frame { kind: FrameKind::Python, function: names.intern(GONE), file: None, line: None }
                }
            };
            walked.push(Walked::Frame { frame, entry: mark == MARK_ENTRY });
        }
        (walked, any_gone)
    }

    /// Merges, and says whether the native stack was unwound to its outermost frame.
    fn merged<T: From<Frame>>(
        &mut self,
        tgid: u32,
        walked: Vec<Walked<T>>,
        native: &NativeStack<'_>,
        python_complete: bool,
    ) -> (Vec<T>, bool) {
        let Some(process) = self.processes.get_mut(&tgid) else {
            return (walked.into_iter().filter_map(Walked::into_frame).collect(), false);
        };
        let (c_frames, complete) = process.c_frames(&mut self.resolver, native);
        self.unwound.stacks += 1;
        self.unwound.complete += u64::from(complete);
        let frames = match &process.layout {
            Some(layout) => {
                let reach = Reach { native: complete, python: python_complete };
                merge::merge(layout.merge_rule(), walked, c_frames, reach)
            }
            None => c_frames.into_iter().map(|c_frame| c_frame.frame).collect(),
        };
        (frames, complete)
    }
}

impl Process {
    /// The named C stack, and whether it is complete.
    fn c_frames<T: From<Frame>>(
        &mut self,
        resolver: &mut Resolver,
        native: &NativeStack<'_>,
    ) -> (Vec<CFrame<T>>, bool) {
        let Resolver { names, images, native: symbols, cache } = resolver;
        let unwound = self.unwinder.unwind(native, &mut self.modules, images, names, cache);
        let tgid = self.memory.tgid();
        let named = |frame: unwind::NativeFrame| {
            let module = self.modules.find(frame.address);
            let interpreter = module.is_some_and(|module| {
                self.layout.as_deref().is_some_and(|layout| in_interpreter(layout, frame.address))
                    && module.in_evaluation(frame.address)
            });
            let (low, high) = (frame.low, frame.high);
            CFrame { frame: symbols.frame(names, tgid, module, frame.address).into(), low, high, interpreter }
        };
        (unwound.frames.into_iter().map(named).collect(), unwound.complete)
    }
}

fn in_interpreter(layout: &Layout, address: u64) -> bool {
    (layout.image_text.0..layout.image_text.1).contains(&address)
}
