//! What triage knows before it judges: how each thread spent the run, and what the kernel counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lines::by_line;
use super::stacks::{Measure, Split, StackFold, ThreadId};
use super::syscalls::SyscallFold;
use super::waits::{Cause, cause};
use crate::event::{CodeClass, EndReason, Event, Frame, FrameKind, Loss, ProcessTotals, StackStatus, Wait};

/// A wait that lasted this share of the run took up all of it: attaching takes a moment per thread.
const WHOLE_RUN_SHARE: f64 = 0.95;

/// Everything the verdict is made of. Times are nanoseconds, summed over the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The target; 0 when the stream has no start.
    pub pid: u32,
    /// Length of the run.
    pub wall_ns: u64,
    /// Online CPUs of the machine.
    pub cpus: u32,
    /// CPU time one on-CPU sample stands for; 0 when none were taken.
    pub period_ns: u64,
    /// What /proc counted, by process.
    pub processes: Vec<ProcessTotals>,
    /// Threads that were seen.
    pub threads: Vec<ThreadEvidence>,
    /// On-CPU samples by what ran.
    pub samples: Samples,
    /// System calls of all processes; absent when they were not counted.
    pub syscalls: Option<SyscallEvidence>,
    /// The line with most on-CPU samples; its shares are of all samples.
    pub hot: Option<HotLine>,
    /// The line that held the GIL longest, running or waiting; its shares are of all time the GIL was seen held.
    pub gil_holder: Option<HotLine>,
    /// Time the GIL was seen held.
    pub gil_held_ns: u64,
    /// Of it: by a thread that itself waited for something else.
    pub gil_held_waiting_ns: u64,
    /// Per cause, the line that waited longest; its shares are of all waiting for that cause.
    pub waits_at: BTreeMap<Cause, HotLine>,
    /// Every thread was stopped, by a signal or a debugger, all the time.
    pub stopped: bool,
    /// The target ended or became another program: there is nothing to run next on it.
    pub gone: bool,
    /// What did not arrive.
    pub loss: Loss,
}

/// On-CPU samples by what ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// The evaluation loop and built-in types.
    pub interpreter: u64,
    /// Other code in user space.
    pub native: u64,
    /// The kernel.
    pub kernel: u64,
    /// The cyclic garbage collector.
    pub garbage_collector: u64,
}

impl Samples {
    /// All of them.
    pub fn total(self) -> u64 {
        self.interpreter + self.native + self.kernel + self.garbage_collector
    }

    fn add(&mut self, class: CodeClass) {
        *match class {
            CodeClass::Interpreter => &mut self.interpreter,
            CodeClass::Native => &mut self.native,
            CodeClass::Kernel => &mut self.kernel,
            CodeClass::GarbageCollector => &mut self.garbage_collector,
        } += 1;
    }
}

/// How one thread spent the run.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadEvidence {
    /// Which.
    pub id: ThreadId,
    /// On-CPU samples.
    pub samples: u64,
    /// Waits that ended, or lasted to the end.
    pub waits: u64,
    /// Time waited, by cause.
    pub waited_ns: BTreeMap<Cause, u64>,
    /// Runnable without running.
    pub runqueue_ns: u64,
    /// One wait took the whole run: its cause.
    pub whole_wait: Option<Cause>,
}

impl ThreadEvidence {
    /// A thread of which nothing is known yet.
    pub fn new(id: ThreadId) -> Self {
        Self { id, samples: 0, waits: 0, waited_ns: BTreeMap::new(), runqueue_ns: 0, whole_wait: None }
    }

    /// Time waited for one cause.
    pub fn waited(&self, cause: Cause) -> u64 {
        self.waited_ns.get(&cause).copied().unwrap_or(0)
    }

    /// Time waited for causes of a kind.
    pub fn waited_for(&self, kind: impl Fn(Cause) -> bool) -> u64 {
        self.waited_ns.iter().filter(|(cause, _)| kind(**cause)).map(|(_, ns)| ns).sum()
    }

    /// Busy share of the run, 0 to 1, as far as samples tell.
    pub fn busy_share(&self, evidence: &Evidence) -> f64 {
        if evidence.wall_ns == 0 { 0.0 } else { (self.samples * evidence.period_ns) as f64 / evidence.wall_ns as f64 }
    }
}

/// System calls of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyscallEvidence {
    /// Calls entered.
    pub entered: u64,
    /// Calls that failed.
    pub errors: u64,
    /// The most frequent call and how often it was entered.
    pub top: Option<(Arc<str>, u64)>,
}

/// A line with its part of a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct HotLine {
    /// The line.
    pub frame: Frame,
    /// While it was the innermost Python frame.
    pub own: u64,
    /// While it was on the stack.
    pub total: u64,
    /// The whole the two are parts of.
    pub of: u64,
    /// The thread that had most of it, where threads were kept apart.
    pub thread: Option<ThreadId>,
    /// The line of the program itself that led there most, when `frame` is in a library.
    pub called_from: Option<Frame>,
}

/// Folds events into evidence.
#[derive(Debug)]
pub struct EvidenceFold {
    evidence: Evidence,
    started_ns: u64,
    /// Processes followed at some time.
    followed: usize,
    /// Time stopped, by thread.
    stopped_ns: BTreeMap<ThreadId, u64>,
    threads: BTreeMap<ThreadId, ThreadEvidence>,
    syscalls: Option<SyscallFold>,
    on_cpu: StackFold,
    gil_held: StackFold,
    waits: HashMap<Cause, StackFold>,
}

impl Default for EvidenceFold {
    fn default() -> Self {
        Self {
            evidence: Evidence::default(),
            started_ns: 0,
            followed: 0,
            stopped_ns: BTreeMap::new(),
            threads: BTreeMap::new(),
            syscalls: None,
            on_cpu: StackFold::new(Measure::Cpu { period_ns: 1 }, Split::Together),
            gil_held: StackFold::new(Measure::OffCpu, Split::ByThread),
            waits: HashMap::new(),
        }
    }
}

impl EvidenceFold {
    /// Takes one event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Started(started) => {
                self.started_ns = started.ktime_ns;
                self.followed = started.processes.len();
                self.evidence.pid = started.processes.first().map_or(0, |process| process.tgid);
                self.evidence.cpus = started.cpus;
                self.evidence.period_ns = 1_000_000_000_u64.checked_div(started.frequency.into()).unwrap_or(0);
            }
            Event::Sample { at, class, stack, .. } => {
                self.evidence.samples.add(*class);
                self.thread((*at).into()).samples += 1;
                self.on_cpu.add(stack, *at, 1);
                if stack.status.has(StackStatus::HOLDS_GIL) {
                    self.gil_held.add(stack, *at, self.evidence.period_ns);
                }
            }
            Event::Wait(wait) => self.wait(wait),
            Event::Syscalls { totals } => self.syscalls.get_or_insert_default().add(totals),
            Event::Appeared { .. } => self.followed += 1,
            Event::Totals(totals) => self.evidence.processes.push(totals.clone()),
            Event::Ended(ended) => {
                self.evidence.wall_ns = ended.ktime_ns.saturating_sub(self.started_ns);
                self.evidence.loss = ended.loss;
                self.evidence.gone = matches!(ended.reason, EndReason::TargetExited | EndReason::TargetExeced);
            }
            Event::Syscall { .. } | Event::Function { .. } | Event::Fault { .. } | Event::Exited { .. } => {}
        }
    }

    /// The evidence of the whole stream.
    pub fn finish(mut self) -> Evidence {
        if self.evidence.wall_ns == 0 {
            // A stream that was cut has no end: the readings of /proc know how long it was, if they are in it.
            self.evidence.wall_ns = self.evidence.processes.iter().map(|it| it.wall_ns).max().unwrap_or(0);
        }
        self.evidence.syscalls = self.syscalls.as_ref().map(|fold| SyscallEvidence {
            entered: fold.entered(),
            errors: fold.errors(),
            top: fold.sorted().first().map(|top| (Arc::clone(&top.name), top.entered)),
        });
        self.forget_waits_for_followed_children();
        self.evidence.hot = hottest(&self.on_cpu);
        self.evidence.gil_holder = hottest(&self.gil_held);
        self.evidence.gil_held_ns = self.gil_held.entries().iter().map(|entry| entry.weight.value).sum();
        self.evidence.waits_at = self.waits.iter().filter_map(|(&cause, fold)| Some((cause, hottest(fold)?))).collect();
        let whole = (self.evidence.wall_ns as f64 * WHOLE_RUN_SHARE) as u64;
        self.evidence.threads = std::mem::take(&mut self.threads).into_values().collect();
        for thread in &mut self.evidence.threads {
            // One wait as long as the run: no other fits beside it.
            thread.whole_wait =
                thread.waited_ns.iter().find(|(_, ns)| whole > 0 && **ns >= whole).map(|(cause, _)| *cause);
            if thread.waits > 1 {
                thread.whole_wait = None;
            }
        }
        let is_stopped = |thread: &ThreadEvidence| self.stopped_ns.get(&thread.id).is_some_and(|ns| *ns >= whole);
        self.evidence.stopped = !self.evidence.threads.is_empty() && self.evidence.threads.iter().all(is_stopped);
        self.evidence
    }

    /// What a followed child does is seen in the child: its parent's wait for it is no work of its own.
    fn forget_waits_for_followed_children(&mut self) {
        if self.followed < 2 {
            return;
        }
        for thread in self.threads.values_mut() {
            if let Some(ns) = thread.waited_ns.remove(&Cause::Child) {
                *thread.waited_ns.entry(Cause::Work).or_default() += ns;
            }
        }
        self.waits.remove(&Cause::Child);
    }

    fn wait(&mut self, wait: &Wait) {
        let cause = cause(wait);
        if wait.stopped {
            *self.stopped_ns.entry(wait.at.into()).or_default() += wait.blocked_ns;
        }
        let thread = self.thread(wait.at.into());
        thread.waits += 1;
        thread.runqueue_ns += wait.runqueue_ns;
        *thread.waited_ns.entry(cause).or_default() += wait.blocked_ns;
        let fold = self.waits.entry(cause).or_insert_with(|| StackFold::new(Measure::OffCpu, Split::ByThread));
        fold.add(&wait.stack, wait.at, wait.blocked_ns);
        if wait.stack.status.has(StackStatus::HOLDS_GIL) && cause != Cause::Gil {
            self.gil_held.add(&wait.stack, wait.at, wait.blocked_ns);
            self.evidence.gil_held_waiting_ns += wait.blocked_ns;
        }
    }

    fn thread(&mut self, id: ThreadId) -> &mut ThreadEvidence {
        self.threads.entry(id).or_insert_with(|| ThreadEvidence::new(id))
    }
}

/// The line with most own weight, who had most of it and through which line of the program.
fn hottest(fold: &StackFold) -> Option<HotLine> {
    let line = by_line(fold).into_iter().next()?;
    let mut by_thread: BTreeMap<ThreadId, u64> = BTreeMap::new();
    let mut by_caller: BTreeMap<&Frame, u64> = BTreeMap::new();
    let entries = fold.entries();
    for entry in &entries {
        let leaf = entry.stack.python_leaf().or(entry.stack.frames.first());
        if leaf != Some(&line.frame) {
            continue;
        }
        if let Some(thread) = entry.thread {
            *by_thread.entry(thread).or_default() += entry.shown;
        }
        let own = entry.stack.frames.iter().find(|frame| frame.kind == FrameKind::Python && !in_library(frame));
        if let Some(caller) = own {
            *by_caller.entry(caller).or_default() += entry.shown;
        }
    }
    let called_from = heaviest(by_caller).filter(|caller| **caller != line.frame).cloned();
    // A line that several threads share is not one thread's.
    let all: u64 = by_thread.values().sum();
    by_thread.retain(|_, weight| *weight * 10 > all * 6);
    let thread = heaviest(by_thread);
    Some(HotLine { frame: line.frame, own: line.own, total: line.total, of: fold.total(), thread, called_from })
}

fn heaviest<T: Ord>(weights: BTreeMap<T, u64>) -> Option<T> {
    weights.into_iter().max_by_key(|(_, weight)| *weight).map(|(it, _)| it)
}

/// Part of Python or installed beside it, by the directories `sysconfig` knows: `lib/python3.11`, `site-packages`,
/// Debian's `dist-packages`; frozen modules have no directory.
fn in_library(frame: &Frame) -> bool {
    let Some(file) = frame.file.as_deref() else {
        return true;
    };
    ["/lib/python3", "/lib64/python3", "/site-packages/", "/dist-packages/"].iter().any(|part| file.contains(part))
        || file.starts_with("<frozen ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Ended, Observed, Process, Stack, Stamp, Started, SyscallTotals};

    const SECOND: u64 = 1_000_000_000;

    fn stack(function: &str, status: StackStatus) -> Arc<Stack> {
        let frame =
            Frame { kind: FrameKind::Python, function: function.into(), file: Some("app.py".into()), line: Some(3) };
        Arc::new(Stack { frames: vec![frame], status })
    }

    fn at(tid: u32) -> Stamp {
        Stamp { ktime_ns: SECOND, tgid: 10, tid, cpu: 0 }
    }

    fn started() -> Event {
        let process = Process { tgid: 10, executable: String::new(), command: String::new(), python: None, threads: 2 };
        Event::Started(Started {
            ktime_ns: SECOND,
            unix_seconds: 0,
            processes: vec![process],
            frequency: 100,
            cpus: 4,
            observed: Observed::default(),
        })
    }

    fn ended(seconds: u64) -> Event {
        Event::Ended(Ended { ktime_ns: SECOND + seconds * SECOND, reason: EndReason::Duration, loss: Loss::default() })
    }

    fn sample(tid: u32, function: &str, status: StackStatus) -> Event {
        Event::Sample { at: at(tid), class: CodeClass::Interpreter, module: None, stack: stack(function, status) }
    }

    fn wait(tid: u32, blocked_ns: u64, gil: bool, status: StackStatus) -> Event {
        Event::Wait(Wait {
            at: at(tid),
            blocked_ns,
            runqueue_ns: 7,
            open: true,
            before: true,
            stopped: false,
            uninterruptible: false,
            syscall: Some("futex".into()),
            args: [0, 0],
            gil,
            stack: stack("blocked", status),
        })
    }

    fn fold(events: &[Event]) -> Evidence {
        let mut fold = EvidenceFold::default();
        events.iter().for_each(|event| fold.event(event));
        fold.finish()
    }

    #[test]
    fn threads_causes_and_holders_are_told_apart() {
        let holding = StackStatus(StackStatus::ROOT.0 | StackStatus::HOLDS_GIL.0);
        let evidence = fold(&[
            started(),
            sample(10, "hot", holding),
            sample(10, "hot", holding),
            sample(11, "cold", StackStatus::ROOT),
            wait(11, SECOND / 4, true, StackStatus::ROOT),
            wait(11, SECOND / 4, true, StackStatus::ROOT),
            wait(12, SECOND * 2, false, StackStatus::ROOT),
            wait(13, SECOND, false, holding),
            ended(2),
        ]);
        assert_eq!(
            (evidence.pid, evidence.wall_ns, evidence.cpus, evidence.period_ns),
            (10, 2 * SECOND, 4, SECOND / 100)
        );
        assert_eq!(evidence.samples.interpreter, 3);
        let thread = |tid| evidence.threads.iter().find(|it| it.id.tid == tid).unwrap();
        assert_eq!((thread(11).waited(Cause::Gil), thread(11).waits, thread(11).runqueue_ns), (SECOND / 2, 2, 14));
        assert_eq!((thread(12).whole_wait, thread(13).whole_wait), (Some(Cause::Lock), None));
        assert_eq!(thread(10).busy_share(&evidence), 0.01);
        let hot = evidence.hot.as_ref().unwrap();
        assert_eq!((hot.frame.function.as_ref(), hot.own, hot.of), ("hot", 2, 3));
        // Thread 13 held the GIL for a second of waiting, thread 10 for two samples.
        let holder = evidence.gil_holder.as_ref().unwrap();
        assert_eq!((holder.frame.function.as_ref(), holder.thread.map(|it| it.tid)), ("blocked", Some(13)));
        assert_eq!((evidence.gil_held_ns, evidence.gil_held_waiting_ns), (SECOND + SECOND / 50, SECOND));
        assert_eq!(evidence.waits_at[&Cause::Gil].thread.map(|it| it.tid), Some(11));
    }

    #[test]
    fn a_line_of_a_library_names_the_line_that_called_it() {
        let frame = |function: &str, file: &str| Frame {
            kind: FrameKind::Python,
            function: function.into(),
            file: Some(file.into()),
            line: Some(1),
        };
        let called = |caller: &str, times: usize| {
            let frames = vec![
                frame("communicate", "/usr/lib/python3.11/subprocess.py"),
                frame("run", "/venv/lib/python3.11/site-packages/tool/run.py"),
                frame(caller, "/srv/app/jobs.py"),
            ];
            let stack = Arc::new(Stack { frames, status: StackStatus::ROOT });
            let sample = Event::Sample { at: at(10), class: CodeClass::Kernel, module: None, stack };
            vec![sample; times]
        };
        let events = [vec![started()], called("rarely", 1), called("often", 2), vec![ended(1)]].concat();
        let hot = fold(&events).hot.unwrap();
        assert_eq!(hot.frame.function.as_ref(), "communicate");
        assert_eq!(hot.called_from.map(|it| it.function.to_string()).as_deref(), Some("often"));
        let own = fold(&[started(), sample(10, "hot", StackStatus::ROOT), ended(1)]).hot.unwrap();
        assert_eq!(own.called_from, None);
    }

    #[test]
    fn what_was_not_counted_is_absent_not_zero() {
        assert_eq!(fold(&[started(), ended(1)]).syscalls, None);
        let totals = SyscallTotals {
            name: "read".into(),
            entered: 9,
            finished: 9,
            errors: 1,
            total_ns: 1,
            max_ns: 1,
            log2_ns: vec![],
        };
        let counted = fold(&[started(), Event::Syscalls { totals: vec![totals] }, ended(1)]).syscalls;
        assert_eq!(counted, Some(SyscallEvidence { entered: 9, errors: 1, top: Some(("read".into(), 9)) }));
    }

    #[test]
    fn a_cut_stream_takes_its_length_from_proc() {
        let totals = ProcessTotals { tgid: 10, wall_ns: 5 * SECOND, ..ProcessTotals::default() };
        assert_eq!(fold(&[started(), Event::Totals(totals)]).wall_ns, 5 * SECOND);
        assert_eq!(fold(&[]).wall_ns, 0);
    }
}
