//! What a run wants to see, and which programs of which objects that takes.

use super::object::Object;
use crate::event::Observed;
use crate::target::syscall;

/// What to observe. Commands fill this in; everything is off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// On-CPU samples per second and CPU.
    pub samples: Option<u32>,
    /// Off-CPU intervals with stacks.
    pub waits: bool,
    /// With `waits`: run-queue time of preempted threads too.
    pub preemptions: bool,
    /// System call counts and latencies, aggregated in the kernel.
    pub syscall_totals: bool,
    /// A stack at every call of this system call number.
    pub syscall_stacks: Option<u32>,
    /// A stack at every entry of this function.
    pub function: Option<Function>,
    /// A stack at every n-th page fault.
    pub faults_every: Option<u32>,
    /// Native frames, unwound from copies of the user stack.
    pub native: bool,
    /// Kernel frames.
    pub kernel: bool,
    /// Forked processes are followed too.
    pub children: bool,
    /// Only this thread.
    pub tid: Option<u32>,
}

/// A function of a file that the targets map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Base name of the file, `libc.so.6`, or its beginning, `libc`.
    pub file: String,
    /// Symbol.
    pub symbol: String,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// By its section name.
    Auto,
    /// To the CPU clock of every CPU, times per second.
    CpuClock(u32),
    /// To the page-fault event of every CPU, once in so many.
    PageFaults(u32),
    /// To the function sites of the targets.
    Functions,
}

/// Programs of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectPlan {
    pub(super) object: Object,
    pub(super) programs: Vec<(&'static str, Attach)>,
}

/// The program at a function's entry.
pub(super) const FUNCTION_ENTRY: &str = "function_entry";

/// Python frames kept of one stack. Deeper recursion is cut at the root side, which is counted; the bound keeps a
/// sample under about 0.15 ms (137 us at 460 frames).
const MAX_FRAMES: u32 = 512;

impl Plan {
    /// The objects to load, in order. `process` is always first: it owns the maps the others share.
    pub(super) fn objects(&self) -> Vec<ObjectPlan> {
        let auto = |names: &[&'static str]| names.iter().map(|name| (*name, Attach::Auto)).collect::<Vec<_>>();
        let mut objects = vec![ObjectPlan {
            object: Object::Process,
            programs: auto(&["sched_process_fork", "sched_process_exec", "sched_process_exit"]),
        }];
        let mut profile = Vec::new();
        if let Some(frequency) = self.samples {
            profile.push(("on_cpu", Attach::CpuClock(frequency)));
        }
        if let Some(every) = self.faults_every {
            profile.push(("page_fault", Attach::PageFaults(every)));
        }
        let mut syscalls = Vec::new();
        if self.syscall_totals {
            syscalls.extend(auto(&["sys_enter", "sys_exit"]));
        }
        if self.syscall_stacks.is_some() {
            syscalls.extend(auto(&["sys_enter_stack"]));
        }
        let functions = if self.function.is_some() { vec![(FUNCTION_ENTRY, Attach::Functions)] } else { Vec::new() };
        let offcpu = if self.waits { auto(&["sched_switch", "sched_wakeup"]) } else { Vec::new() };
        for (object, programs) in [
            (Object::Profile, profile),
            (Object::Offcpu, offcpu),
            (Object::Syscalls, syscalls),
            (Object::Uprobe, functions),
        ] {
            if !programs.is_empty() {
                objects.push(ObjectPlan { object, programs });
            }
        }
        objects
    }

    /// What events a run of this plan makes.
    pub fn observed(&self) -> Observed {
        let syscall = self.syscall_stacks.map(|number| format!("syscall:{}", syscall::name(number)));
        let function = self.function.as_ref().map(|function| format!("{}:{}", function.file, function.symbol));
        Observed {
            samples: self.samples.is_some(),
            waits: self.waits,
            preemptions: self.preemptions,
            syscalls: self.syscall_totals,
            faults: self.faults_every.is_some(),
            calls: syscall.or(function),
        }
    }

    /// The options as the programs read them.
    pub(super) fn session_config(&self) -> super::abi::session_config {
        super::abi::session_config {
            max_frames: MAX_FRAMES,
            python_stacks: 1,
            native_stacks: u32::from(self.native),
            kernel_stacks: u32::from(self.kernel),
            follow_children: u32::from(self.children),
            tid: self.tid.unwrap_or(0),
            syscall: self.syscall_stacks.map_or(-1, |number| number as i32),
            preemptions: u32::from(self.preemptions),
        }
    }
}
