//! Pairs the beginning of a wait with its end.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::event::{Stack, StackStatus, Stamp, Wait};
use crate::inspect::{self, SnapshotOptions, ThreadSnapshot, ThreadState, WaitsFor};
use crate::target::{Target, process};

/// A wait that has begun.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) at: Stamp,
    pub(super) before: bool,
    pub(super) stopped: bool,
    pub(super) uninterruptible: bool,
    pub(super) syscall: Option<Arc<str>>,
    pub(super) args: [u64; 2],
    pub(super) gil: bool,
    pub(super) stack: Arc<Stack>,
}

impl Pending {
    fn ended(self, blocked_ns: u64, runqueue_ns: u64, open: bool) -> Wait {
        let Self { at, before, stopped, uninterruptible, syscall, args, gil, stack } = self;
        Wait { at, blocked_ns, runqueue_ns, open, before, stopped, uninterruptible, syscall, args, gil, stack }
    }
}

/// The waits that have begun, by thread: a thread has one at most.
#[derive(Debug, Default)]
pub(super) struct Waits(HashMap<u32, Pending>);

impl Waits {
    /// A thread went off the CPU. An older wait of it is without end (that record was lost, and counted).
    pub(super) fn begin(&mut self, pending: Pending) {
        self.0.insert(pending.at.tid, pending);
    }

    /// It runs again. `blocked_at_ns` names the wait; an earlier time means that its mark was overwritten by the one that
    /// pylow sets at its start, and only the beginning is wrong.
    pub(super) fn end(&mut self, tid: u32, blocked_at_ns: u64, blocked_ns: u64, runqueue_ns: u64) -> Option<Wait> {
        let pending = self.0.remove(&tid)?;
        // A later wait than the pending one: the pending one's end was lost.
        let late_ns = pending.at.ktime_ns.checked_sub(blocked_at_ns)?;
        Some(pending.ended(blocked_ns.saturating_sub(late_ns), runqueue_ns, false))
    }

    /// Waits of a process that ended.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.0.retain(|_, pending| pending.at.tgid != tgid);
    }

    /// What still waits at `now_ns`, longest first.
    pub(super) fn still_open(&mut self, now_ns: u64) -> Vec<Wait> {
        let mut open: Vec<Wait> = std::mem::take(&mut self.0)
            .into_values()
            // The end of an ended thread's wait was lost with its record, and counted there.
            .filter(|pending| process::has_thread(pending.at.tgid, pending.at.tid))
            .map(|pending| {
                let blocked_ns = now_ns.saturating_sub(pending.at.ktime_ns);
                pending.ended(blocked_ns, 0, true)
            })
            .collect();
        open.sort_by_key(|wait| (std::cmp::Reverse(wait.blocked_ns), wait.at.tid));
        open
    }
}

/// The threads of `target` that wait at this moment, with stacks read from outside.
pub(super) fn blocked_threads(target: &Target, since_ns: u64) -> Result<Vec<Pending>> {
    let threads = inspect::snapshot(target, SnapshotOptions::default())?;
    Ok(threads.into_iter().filter_map(|thread| blocked(thread, target.tgid, since_ns)).collect())
}

fn blocked(thread: ThreadSnapshot, tgid: u32, since_ns: u64) -> Option<Pending> {
    let stopped = matches!(thread.state, ThreadState::Stopped | ThreadState::Traced);
    let (syscall, gil, uninterruptible) = match thread.state {
        ThreadState::Waiting { syscall, on } => (Some(syscall), on == WaitsFor::Gil, false),
        ThreadState::Sleeping { syscall } => (Some(syscall), false, false),
        ThreadState::Uninterruptible { .. } => (None, false, true),
        ThreadState::Kernel { .. } | ThreadState::Stopped | ThreadState::Traced => (None, false, false),
        ThreadState::Running | ThreadState::Ended => return None,
    };
    let whole = if thread.remark.is_empty() { StackStatus::ROOT } else { StackStatus::FAULT };
    let holds = if thread.holds_gil { StackStatus::HOLDS_GIL.0 } else { 0 };
    let frames = thread.frames.into_iter().map(|python| python.frame).collect();
    Some(Pending {
        at: Stamp { ktime_ns: since_ns, tgid, tid: thread.tid, cpu: 0 },
        before: true,
        stopped,
        uninterruptible,
        syscall: syscall.map(Into::into),
        args: [0; 2],
        gil,
        stack: Arc::new(Stack { frames, status: StackStatus(whole.0 | holds) }),
    })
}
