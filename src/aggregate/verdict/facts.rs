//! The evidence as the rules read it: shares of the run, of the one process that has most to say.

use std::collections::BTreeMap;

use crate::aggregate::evidence::{Evidence, HotLine, ThreadEvidence};
use crate::aggregate::waits::Cause;
use crate::event::ProcessTotals;
use crate::report::frame_label;
use crate::units::share;

/// A thread with less work than this share of the run does not count as a worker.
pub(super) const LEAST_WORK: f64 = 0.05;

/// Shares of the run, in threads or cores: 1.0 is one thread all the time.
pub(super) struct Facts<'a> {
    pub(super) evidence: &'a Evidence,
    /// The process judged: the one whose threads ran and waited most, idle waits aside.
    pub(super) pid: u32,
    pub(super) threads: Vec<&'a ThreadEvidence>,
    pub(super) totals: Option<&'a ProcessTotals>,
    /// CPU used, in cores.
    pub(super) cpu: f64,
    /// Runnable without a CPU.
    pub(super) runqueue: f64,
    /// Of it: after a wait. The rest was taken from threads that ran.
    pub(super) queued_after_waits: f64,
    /// Waited, by cause, all threads.
    waited: BTreeMap<Cause, f64>,
    /// Parts of all on-CPU samples.
    pub(super) kernel: f64,
    pub(super) garbage_collector: f64,
    /// Everything but idling, all threads.
    pub(super) work: f64,
    /// The same, of the thread that had most.
    pub(super) busiest: f64,
}

impl<'a> Facts<'a> {
    pub(super) fn new(evidence: &'a Evidence) -> Self {
        let pid = focus(evidence);
        let wall = evidence.wall_ns.max(1) as f64;
        let threads: Vec<_> = evidence.threads.iter().filter(|thread| thread.id.tgid == pid).collect();
        let totals = evidence.processes.iter().find(|totals| totals.tgid == pid);
        let mut waited: BTreeMap<Cause, f64> = BTreeMap::new();
        for thread in &threads {
            for (&cause, &ns) in &thread.waited_ns {
                *waited.entry(cause).or_default() += ns as f64 / wall;
            }
        }
        let busiest = threads.iter().map(|thread| worked_ns(evidence, thread)).max().unwrap_or(0) as f64 / wall;
        let cpu = cpu_ns(evidence, pid) as f64 / wall;
        let queued: u64 = threads.iter().map(|thread| thread.runqueue_ns).sum();
        let runqueue = totals.map_or(queued, |totals| totals.runqueue_ns) as f64 / wall;
        let busy_waits: f64 = waited.iter().filter(|(cause, _)| !cause.is_idle()).map(|(_, share)| share).sum();
        let samples = evidence.samples.total().max(1) as f64;
        Self {
            evidence,
            pid,
            totals,
            cpu,
            runqueue,
            queued_after_waits: (queued as f64 / wall).min(runqueue),
            kernel: evidence.samples.kernel as f64 / samples,
            garbage_collector: evidence.samples.garbage_collector as f64 / samples,
            work: cpu + runqueue + busy_waits,
            // /proc knows of CPU time that no sample hit; with one thread it is that thread's.
            busiest: if threads.len() <= 1 { busiest.max(cpu) } else { busiest },
            threads,
            waited,
        }
    }

    /// Waited for one cause, all threads.
    pub(super) fn waited(&self, cause: Cause) -> f64 {
        self.waited.get(&cause).copied().unwrap_or(0.0)
    }

    /// Waited for a kind of causes, all threads.
    pub(super) fn waited_for(&self, kind: impl Fn(Cause) -> bool) -> f64 {
        self.waited.iter().filter(|(cause, _)| kind(**cause)).map(|(_, share)| share).sum()
    }

    /// The cause of a kind that took most time.
    pub(super) fn longest(&self, kind: impl Fn(Cause) -> bool) -> Option<Cause> {
        let of_kind = self.waited.iter().filter(|(cause, share)| kind(**cause) && **share > 0.0);
        of_kind.max_by(|a, b| a.1.total_cmp(b.1)).map(|(cause, _)| *cause)
    }

    /// Part of all work, 0 to 1.
    pub(super) fn part_of_work(&self, share: f64) -> f64 {
        if self.work > 0.0 { share / self.work } else { 0.0 }
    }

    /// Events per second of the run.
    pub(super) fn per_second(&self, events: u64) -> f64 {
        crate::units::per_second(events, self.evidence.wall_ns)
    }

    /// CPU time of all processes.
    pub(super) fn all_cpu_ns(&self) -> u64 {
        let mut pids: Vec<u32> = self.evidence.threads.iter().map(|thread| thread.id.tgid).collect();
        pids.extend(self.evidence.processes.iter().map(|totals| totals.tgid));
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().map(|pid| cpu_ns(self.evidence, pid)).sum()
    }

    /// `pylow <command> PID<rest>`.
    pub(super) fn next(&self, command: &str, rest: &str) -> String {
        format!("pylow {command} {}{rest}", self.pid)
    }

    pub(super) fn watch_longer(&self) -> String {
        self.next("triage", " --duration 30")
    }
}

/// `90 % of <what> fetch @ net.py:28, called from main @ app.py:7.`
pub(super) fn at_line(line: &HotLine, what: &str) -> String {
    let caller = line.called_from.as_ref().map(|caller| format!(", called from {}", frame_label(caller)));
    format!("{} of {what} {}{}.", share(line.own, line.of), frame_label(&line.frame), caller.unwrap_or_default())
}

/// CPU time of a process: as /proc counted it, else as samples tell.
fn cpu_ns(evidence: &Evidence, pid: u32) -> u64 {
    let counted = evidence.processes.iter().find(|totals| totals.tgid == pid).map(|totals| totals.cpu_ns);
    counted.unwrap_or_else(|| {
        let samples: u64 = evidence.threads.iter().filter(|it| it.id.tgid == pid).map(|it| it.samples).sum();
        samples * evidence.period_ns
    })
}

/// What a thread did that was not idling.
fn worked_ns(evidence: &Evidence, thread: &ThreadEvidence) -> u64 {
    thread.samples * evidence.period_ns + thread.runqueue_ns + thread.waited_for(|cause| !cause.is_idle())
}

/// The process with most work; the target when none has any.
fn focus(evidence: &Evidence) -> u32 {
    let mut work: BTreeMap<u32, u64> = BTreeMap::new();
    for totals in &evidence.processes {
        *work.entry(totals.tgid).or_default() += totals.cpu_ns;
    }
    for thread in &evidence.threads {
        let waited = thread.waited_for(|cause| !cause.is_idle());
        *work.entry(thread.id.tgid).or_default() += waited + thread.samples * evidence.period_ns;
    }
    let most = work.into_iter().max_by_key(|&(pid, work)| (work, pid == evidence.pid));
    most.filter(|(_, work)| *work > 0).map_or(evidence.pid, |(pid, _)| pid)
}
