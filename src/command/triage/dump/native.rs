//! Native frames of threads that are not stopped: registers, stack and Python frames are of one moment when the thread
//! has not run from the first of them to the last.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::event::Frame;
use crate::inspect::{self, PythonFrame, SnapshotOptions, ThreadSnapshot, ThreadState};
use crate::probe::{TaskIterator, TaskRegisters};
use crate::report::{Thread, ThreadFrame};
use crate::symbol::{NativeStack, Symbolizer};
use crate::target::Target;

/// Bytes copied of a stack: beyond the thousand calls of Python's own recursion limit, each of them C calls up to 3.10.
const STACK_BYTES: usize = 1 << 20;
/// Looks at a process some of whose waiting threads ran meanwhile, as those do that wait for the GIL: every 5 ms.
const LOOKS: usize = 4;

/// Native and kernel side of one thread.
enum Below {
    /// It did not run while all of it was read.
    Resting {
        registers: TaskRegisters,
        stack: Vec<u8>,
        /// Or why there are none.
        kernel: Result<Vec<Frame>>,
    },
    /// It was on a CPU, or ready for one.
    Running,
    /// It waited, but not all the time.
    Moved,
    /// It has ended.
    Ended,
}

/// All threads of `target` with native and kernel frames around the Python frames.
pub(super) fn threads(target: &Target, options: SnapshotOptions, btf: Option<&Path>) -> Result<Vec<Thread>> {
    let iterator = TaskIterator::open(target.tgid, btf)?;
    let mut best = look(target, options, &iterator)?;
    for _ in 1..LOOKS {
        if moved(&best) == 0 {
            break;
        }
        let again = look(target, options, &iterator)?;
        if moved(&again) < moved(&best) {
            best = again;
        }
    }
    let mut symbolizer = Symbolizer::new();
    symbolizer.add_process(target.tgid, target.layout.as_ref().map(Arc::clone));
    Ok(best.into_iter().map(|(thread, below)| merge(&mut symbolizer, target.tgid, thread, below)).collect())
}

type Looked = Vec<(ThreadSnapshot, Below)>;

fn look(target: &Target, options: SnapshotOptions, iterator: &TaskIterator) -> Result<Looked> {
    let threads = inspect::snapshot(target, options)?;
    let registers: HashMap<u32, TaskRegisters> = iterator.read()?.into_iter().map(|it| (it.tid, it)).collect();
    let with_below = |thread: ThreadSnapshot| {
        let below = below(target, &thread, registers.get(&thread.tid))?;
        Ok((thread, below))
    };
    threads.into_iter().map(with_below).collect()
}

fn moved(looked: &Looked) -> usize {
    looked.iter().filter(|(_, below)| matches!(below, Below::Moved)).count()
}

fn below(target: &Target, thread: &ThreadSnapshot, registers: Option<&TaskRegisters>) -> Result<Below> {
    match thread.state {
        ThreadState::Running => return Ok(Below::Running),
        ThreadState::Ended => return Ok(Below::Ended),
        _ => {}
    }
    let Some(registers) = registers.filter(|registers| !registers.runnable) else { return Ok(Below::Moved) };
    let stack = target.memory().readable(registers.sp, STACK_BYTES)?;
    let kernel = inspect::kernel_frames(target.tgid, thread.tid);
    let rested = thread.still_holds(target.tgid)?;
    Ok(if rested { Below::Resting { registers: *registers, stack, kernel } } else { Below::Moved })
}

fn merge(symbolizer: &mut Symbolizer, tgid: u32, mut thread: ThreadSnapshot, below: Below) -> Thread {
    let (registers, stack, kernel) = match below {
        Below::Resting { registers, stack, kernel } => (registers, stack, kernel),
        Below::Running => {
            return remarked(thread.into(), "native frames of a running thread can't be read without stopping it");
        }
        Below::Moved => return remarked(thread.into(), "no native frames: it ran while it was read"),
        Below::Ended => return thread.into(),
    };
    let with_entry = |python: PythonFrame| {
        let entry = python.entry;
        (ThreadFrame::from(python), entry)
    };
    let python = std::mem::take(&mut thread.frames).into_iter().map(with_entry).collect();
    let TaskRegisters { ip, sp, bp, lr, .. } = registers;
    let native = NativeStack { ip, sp, bp, lr, bytes: &stack };
    let (merged, native_complete) = symbolizer.merge_native(tgid, &native, python, thread.complete);
    let mut shown = Thread::from(thread);
    match kernel {
        Ok(frames) => shown.frames.extend(frames.into_iter().map(ThreadFrame::from)),
        Err(err) => shown = remarked(shown, &format!("no kernel frames: {}", err.message())),
    }
    shown.frames.extend(merged);
    if native_complete { shown } else { remarked(shown, "the outermost native frames are missing") }
}

fn remarked(mut thread: Thread, text: &str) -> Thread {
    if !thread.remark.is_empty() {
        thread.remark.push_str("; ");
    }
    thread.remark.push_str(text);
    thread
}
