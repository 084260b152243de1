//! Bytes of the ring to records: lengths and kinds are checked, nothing is resolved. A record that can't be decoded is
//! counted by the caller, never a panic and never silent.

use super::abi::{self, event_header, event_kind};
use crate::error::{Error, Result};
use crate::event::Stamp;

/// What made a stack be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackCause {
    /// On-CPU sample.
    Sample,
    /// The thread goes off the CPU with this task state (TASK_INTERRUPTIBLE 1, TASK_UNINTERRUPTIBLE 2, ...).
    Block {
        /// task_struct.__state
        state: u32,
    },
    /// The thread enters this system call.
    Syscall {
        /// Its number.
        number: u32,
    },
    /// A page fault.
    Fault,
    /// The thread enters the probed function.
    Function,
}

/// A stack as ids and addresses.
#[derive(Clone, Debug)]
pub struct StackRecord {
    /// When and where.
    pub at: Stamp,
    /// Why.
    pub cause: StackCause,
    /// `enum stack_status`
    pub status: u32,
    /// System call the thread is in.
    pub syscall: Option<u32>,
    /// User instruction pointer.
    pub user_ip: u64,
    /// By cause: arguments of the system call, or the faulting address.
    pub args: [u64; 2],
    /// Kernel addresses, leaf first.
    pub kernel: Vec<u64>,
    /// (word, position) of `struct frame_record`, leaf first.
    pub python: Vec<(u64, u64)>,
}

/// Registers and user stack of the stack record that follows.
#[derive(Clone, Debug)]
pub struct NativeRecord {
    /// Equal to its stack record's.
    pub at: Stamp,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer register, whatever it holds.
    pub bp: u64,
    /// Link register (arm64).
    pub lr: u64,
    /// User stack from `sp` upward.
    pub stack: Vec<u8>,
}

/// Names and line table of a code object, as copied in the kernel: maybe cut.
#[derive(Clone, Debug)]
pub struct SymbolRecord {
    /// Process.
    pub tgid: u32,
    /// Address of the code object.
    pub code: u64,
    /// Its identity.
    pub hash: u32,
    /// co_firstlineno
    pub first_line: i32,
    /// co_qualname or co_name.
    pub name: RawString,
    /// co_filename.
    pub file: RawString,
    /// The record's whole line table field.
    pub lines: Vec<u8>,
    /// Its real length.
    pub lines_bytes: u64,
}

/// A str object's characters, not yet decoded.
#[derive(Clone, Debug, Default)]
pub struct RawString {
    /// PyASCIIObject.state
    pub state: u32,
    /// Length in code points.
    pub length: u64,
    /// The record's whole field; up to one byte less than it holds was copied.
    pub bytes: Vec<u8>,
}

/// One record of the ring.
#[derive(Clone, Debug)]
pub enum Record {
    /// A stack.
    Stack(StackRecord),
    /// A thread is back on a CPU.
    Resume {
        /// Of the switch in.
        at: Stamp,
        /// `ktime_ns` of the block.
        blocked_at_ns: u64,
        /// Until it was woken.
        blocked_ns: u64,
        /// Until it ran.
        runqueue_ns: u64,
    },
    /// Belongs to the stack record that follows.
    Native(NativeRecord),
    /// A code object.
    Symbol(SymbolRecord),
    /// A followed process forked.
    Fork {
        /// `tgid`: the parent.
        at: Stamp,
        /// The child.
        child: u32,
    },
    /// A followed process became another program.
    Exec {
        /// When.
        at: Stamp,
    },
    /// A followed process ended.
    Exit {
        /// When.
        at: Stamp,
    },
}

/// Top byte of a frame word that marks a kernel address.
const KERNEL_MARK: u64 = 0xff;

/// One record from its bytes.
pub(super) fn decode(bytes: &[u8]) -> Result<Record> {
    let header: event_header = abi::read(bytes)?;
    let at = Stamp { ktime_ns: header.ktime_ns, tgid: header.tgid, tid: header.tid, cpu: header.cpu };
    Ok(match event_kind(header.kind) {
        event_kind::EVENT_SAMPLE => stack(bytes, at, |_| StackCause::Sample)?,
        event_kind::EVENT_BLOCK => stack(bytes, at, |value| StackCause::Block { state: value as u32 })?,
        event_kind::EVENT_SYSCALL => stack(bytes, at, |value| StackCause::Syscall { number: value as u32 })?,
        event_kind::EVENT_FAULT => stack(bytes, at, |_| StackCause::Fault)?,
        event_kind::EVENT_UPROBE => stack(bytes, at, |_| StackCause::Function)?,
        event_kind::EVENT_RESUME => {
            let raw: abi::resume_event = abi::read(bytes)?;
            let (blocked_at_ns, blocked_ns, runqueue_ns) = (raw.blocked_at_ns, raw.blocked_ns, raw.runqueue_ns);
            Record::Resume { at, blocked_at_ns, blocked_ns, runqueue_ns }
        }
        event_kind::EVENT_NATIVE => {
            let raw: abi::native_event = abi::read(bytes)?;
            let stack = tail(bytes, size_of_val(&raw), raw.stack_bytes as usize)?.to_vec();
            Record::Native(NativeRecord { at, ip: raw.ip, sp: raw.sp, bp: raw.bp, lr: raw.lr, stack })
        }
        event_kind::EVENT_SYMBOL => Record::Symbol(symbol(&abi::read(bytes)?)),
        event_kind::EVENT_FORK => {
            let raw: abi::process_event = abi::read(bytes)?;
            Record::Fork { at, child: raw.other }
        }
        event_kind::EVENT_EXEC => Record::Exec { at },
        event_kind::EVENT_EXIT => Record::Exit { at },
        other => return Err(Error::failed(format!("unknown event kind {}", other.0))),
    })
}

fn tail(bytes: &[u8], start: usize, length: usize) -> Result<&[u8]> {
    start
        .checked_add(length)
        .and_then(|end| bytes.get(start..end))
        .ok_or_else(|| Error::failed(format!("record of {} bytes says it has {start} + {length}", bytes.len())))
}

fn stack(bytes: &[u8], at: Stamp, cause: impl Fn(i32) -> StackCause) -> Result<Record> {
    let raw: abi::stack_event = abi::read(bytes)?;
    let count = usize::from(raw.kernel_frames) + usize::from(raw.python_frames);
    let frames = tail(bytes, size_of_val(&raw), count * size_of::<abi::frame_record>())?;
    let (mut kernel, mut python) = (Vec::new(), Vec::with_capacity(usize::from(raw.python_frames)));
    for chunk in frames.chunks_exact(size_of::<abi::frame_record>()) {
        let frame: abi::frame_record = abi::read(chunk)?;
        if frame.word >> 56 == KERNEL_MARK {
            kernel.push(frame.word);
        } else {
            python.push((frame.word, frame.position));
        }
    }
    let syscall = u32::try_from(raw.syscall).ok();
    let (status, user_ip, args) = (raw.status, raw.user_ip, raw.args);
    Ok(Record::Stack(StackRecord { at, cause: cause(raw.value), status, syscall, user_ip, args, kernel, python }))
}

fn symbol(raw: &abi::symbol_event) -> SymbolRecord {
    SymbolRecord {
        tgid: raw.header.tgid,
        code: raw.code,
        hash: raw.hash,
        first_line: raw.first_line,
        name: RawString { state: raw.name_state, length: raw.name_length, bytes: raw.name.to_vec() },
        file: RawString { state: raw.file_state, length: raw.file_length, bytes: raw.file.to_vec() },
        lines: raw.lines.to_vec(),
        lines_bytes: raw.lines_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kernel: u16, python: u16, frames: &[abi::frame_record]) -> Vec<u8> {
        let header = event_header { ktime_ns: 7, tgid: 10, tid: 11, kind: event_kind::EVENT_SAMPLE.0, cpu: 1 };
        let raw = abi::stack_event {
            header,
            kernel_frames: kernel,
            python_frames: python,
            syscall: -1,
            ..Default::default()
        };
        let mut bytes = abi::bytes_of(&raw).to_vec();
        frames.iter().for_each(|frame| bytes.extend_from_slice(abi::bytes_of(frame)));
        bytes
    }

    #[test]
    fn stack_splits_kernel_and_python_frames() {
        let frames = [
            abi::frame_record { word: 0xffff_ffff_8100_0000, position: 0 },
            abi::frame_record { word: 0x7f00_0000_1000, position: 12 },
        ];
        let Ok(Record::Stack(stack)) = decode(&sample(1, 1, &frames)) else { panic!("a stack was encoded") };
        assert_eq!(stack.kernel, [0xffff_ffff_8100_0000]);
        assert_eq!(stack.python, [(0x7f00_0000_1000, 12)]);
        assert_eq!((stack.at.tgid, stack.at.tid, stack.syscall), (10, 11, None));
    }

    #[test]
    fn record_that_promises_more_than_it_has_is_an_error() {
        assert!(decode(&sample(0, 3, &[])).is_err());
        assert!(decode(&sample(0, 0, &[])[..40]).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn unknown_kind_is_an_error() {
        let header = event_header { kind: 999, ..Default::default() };
        assert!(decode(abi::bytes_of(&header)).is_err());
    }
}
