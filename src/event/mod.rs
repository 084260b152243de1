//! What was seen, as plain data: the events every command folds, live or replayed. No I/O, no clock.
//!
//! Times are CLOCK_MONOTONIC nanoseconds (`_ns`). Serialised form: [`record`], where each distinct stack is written once:
//! serde alone skips the stacks of events.

mod intern;
pub mod record;
mod stack;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use intern::StackTable;
pub use stack::{Frame, FrameKind, Stack, StackStatus};

/// When and where something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ktime_ns: u64,
    /// Process, as the host's pid namespace numbers it.
    pub tgid: u32,
    /// Thread, likewise.
    pub tid: u32,
    /// CPU number.
    pub cpu: u32,
}

/// What kind of code the instruction pointer of an on-CPU sample was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeClass {
    /// The interpreter's own text: the evaluation loop and built-in types.
    Interpreter,
    /// Any other user code: extension modules, libc, BLAS, ...
    Native,
    /// The kernel.
    Kernel,
    /// The cyclic garbage collector, wherever it was.
    GarbageCollector,
}

/// A process that is followed, as it was when pylow attached (or when it appeared).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the host's namespace.
    pub tgid: u32,
    /// `python3.11`: base name of the executable.
    pub executable: String,
    /// Command line, arguments joined by blanks.
    pub command: String,
    /// `3.11.2`; absent when the process has no (known) interpreter.
    pub python: Option<String>,
    /// Threads at that moment.
    pub threads: u32,
}

/// What a run took in, so that a replay can tell "none seen" from "not looked for".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// On-CPU samples.
    pub samples: bool,
    /// Off-CPU intervals.
    pub waits: bool,
    /// Run-queue time of preempted threads.
    pub preemptions: bool,
    /// System call totals.
    pub syscalls: bool,
    /// Page faults.
    pub faults: bool,
    /// Calls of this function: `syscall:openat`, `libc:malloc`.
    pub calls: Option<String>,
}

impl Observed {
    /// What of `wanted` was not looked for, in words.
    pub fn lacks(&self, wanted: &Self) -> Option<String> {
        let flags = [
            (self.samples, wanted.samples, "on-CPU samples"),
            (self.waits, wanted.waits, "waits"),
            (self.preemptions, wanted.preemptions, "run-queue times"),
            (self.syscalls, wanted.syscalls, "system call counts"),
            (self.faults, wanted.faults, "page faults"),
        ];
        if let Some((.., name)) = flags.iter().find(|(has, wants, _)| *wants && !has) {
            return Some((*name).to_owned());
        }
        wanted
            .calls
            .as_ref()
            .filter(|calls| self.calls.as_ref() != Some(calls))
            .map(|calls| format!("calls of {calls}"))
    }
}

/// What a run set out to do: the first event of every stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// CLOCK_MONOTONIC nanoseconds at which every probe was attached.
    pub ktime_ns: u64,
    /// Wall clock at that moment, seconds since 1970.
    pub unix_seconds: u64,
    /// The processes followed from the start; the first one is the target.
    pub processes: Vec<Process>,
    /// On-CPU samples per second and CPU; 0 when the run takes none.
    pub frequency: u32,
    /// Online CPUs of the machine.
    pub cpus: u32,
    /// What it takes in.
    pub observed: Observed,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The asked-for time was over.
    Duration,
    /// Ctrl-C.
    Interrupted,
    /// Every followed process ended.
    TargetExited,
    /// The target became another program.
    TargetExeced,
}

/// What did not arrive, or arrived incomplete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Events made in the kernel; = delivered + lost.
    pub generated: u64,
    /// Of them: no room in the ring.
    pub lost: u64,
    /// Stacks that arrived without the native frames that were asked for: they show Python frames only.
    pub native_lost: u64,
    /// Fork, exec or exit notices without room in the ring.
    pub process_lost: u64,
    /// Waits or calls forgotten since two threads shared a slot.
    pub collided: u64,
    /// Records of an unknown kind or a wrong length.
    pub undecodable: u64,
    /// Nanoseconds spent in the stack programs, over all CPUs.
    pub probe_ns: u64,
}

/// The last event of every stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// CLOCK_MONOTONIC nanoseconds.
    pub ktime_ns: u64,
    /// Why.
    pub reason: EndReason,
    /// What did not arrive.
    pub loss: Loss,
}

/// One interval in which a thread did not run because it waited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// When the thread went off the CPU.
    pub at: Stamp,
    /// Until it was woken; for an open wait, until the run ended.
    pub blocked_ns: u64,
    /// From the wake-up until it ran.
    pub runqueue_ns: u64,
    /// The thread still waited when the run ended.
    pub open: bool,
    /// The wait began before pylow attached: `at` is the attach time.
    pub before: bool,
    /// Stopped by a signal or a debugger.
    #[serde(default)]
    pub stopped: bool,
    /// Uninterruptible (TASK_UNINTERRUPTIBLE, state D).
    pub uninterruptible: bool,
    /// Name of the system call it was in; absent for page faults and the like.
    pub syscall: Option<Arc<str>>,
    /// First two arguments of that call.
    pub args: [u64; 2],
    /// It waited for the GIL: a futex inside the interpreter's GIL.
    pub gil: bool,
    /// Where it was.
    #[serde(skip)]
    pub stack: Arc<Stack>,
}

/// Totals of one system call, counted in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyscallTotals {
    /// Name without prefix, `read`; `syscall_500` when unknown.
    pub name: Arc<str>,
    /// Calls entered.
    pub entered: u64,
    /// Calls that returned and whose start was seen.
    pub finished: u64,
    /// Of them: with an error.
    pub errors: u64,
    /// Time in finished calls.
    pub total_ns: u64,
    /// The longest finished call.
    pub max_ns: u64,
    /// Finished calls by floor(log2(ns)); trailing zeroes cut.
    pub log2_ns: Vec<u64>,
}

/// What /proc counted for one process over the run (differences of two readings).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessTotals {
    /// Process id.
    pub tgid: u32,
    /// Length of the run in which it was read.
    pub wall_ns: u64,
    /// CPU time of all threads, user and system (schedstat).
    pub cpu_ns: u64,
    /// Time runnable but not running, of all threads (schedstat).
    pub runqueue_ns: u64,
    /// Minor page faults (stat).
    pub minor_faults: u64,
    /// Major page faults: read from disk (stat).
    pub major_faults: u64,
    /// Resident memory at the end, bytes.
    pub rss_bytes: u64,
    /// Its change over the run, bytes.
    pub rss_growth_bytes: i64,
    /// Threads at the end.
    pub threads: u32,
    /// Read from disk or network storage, bytes (io: read_bytes).
    pub read_bytes: u64,
}

/// Everything a command can see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// First event.
    Started(Started),
    /// An on-CPU sample.
    Sample {
        /// When and where.
        at: Stamp,
        /// What was interrupted.
        class: CodeClass,
        /// The file the interrupted user code belongs to, for [`CodeClass::Native`].
        #[serde(skip_serializing_if = "Option::is_none", default)]
        module: Option<Arc<str>>,
        /// The stack.
        #[serde(skip)]
        stack: Arc<Stack>,
    },
    /// An off-CPU interval.
    Wait(Wait),
    /// A thread entered a system call.
    Syscall {
        /// When and where.
        at: Stamp,
        /// Its name.
        name: Arc<str>,
        /// Where it was called.
        #[serde(skip)]
        stack: Arc<Stack>,
    },
    /// A thread entered the probed function.
    Function {
        /// When and where.
        at: Stamp,
        /// Where it was called.
        #[serde(skip)]
        stack: Arc<Stack>,
    },
    /// A page fault; one event may stand for several.
    Fault {
        /// When and where.
        at: Stamp,
        /// The address.
        address: u64,
        /// How many faults this one stands for.
        weight: u64,
        /// Where.
        #[serde(skip)]
        stack: Arc<Stack>,
    },
    /// A followed process appeared: forked, or became Python by exec.
    Appeared {
        /// When; `tgid` is the parent's, or its own after exec.
        at: Stamp,
        /// The new process.
        process: Process,
    },
    /// A followed process ended.
    Exited {
        /// When.
        at: Stamp,
    },
    /// System call totals of the whole run.
    Syscalls {
        /// By call; only calls that were made.
        totals: Vec<SyscallTotals>,
    },
    /// Counters of one process over the whole run.
    Totals(ProcessTotals),
    /// Last event.
    Ended(Ended),
}

impl Event {
    /// The stack of an event that has one.
    pub fn stack(&self) -> Option<&Arc<Stack>> {
        match self {
            Self::Sample { stack, .. }
            | Self::Syscall { stack, .. }
            | Self::Function { stack, .. }
            | Self::Fault { stack, .. } => Some(stack),
            Self::Wait(wait) => Some(&wait.stack),
            _ => None,
        }
    }

    /// When and where, for events of one moment.
    pub fn at(&self) -> Option<Stamp> {
        match self {
            Self::Sample { at, .. } | Self::Syscall { at, .. } | Self::Function { at, .. } | Self::Fault { at, .. } => {
                Some(*at)
            }
            Self::Appeared { at, .. } | Self::Exited { at } => Some(*at),
            Self::Wait(wait) => Some(wait.at),
            Self::Started(_) | Self::Syscalls { .. } | Self::Totals(_) | Self::Ended(_) => None,
        }
    }

    fn stack_mut(&mut self) -> Option<&mut Arc<Stack>> {
        match self {
            Self::Sample { stack, .. }
            | Self::Syscall { stack, .. }
            | Self::Function { stack, .. }
            | Self::Fault { stack, .. } => Some(stack),
            Self::Wait(wait) => Some(&mut wait.stack),
            _ => None,
        }
    }
}
