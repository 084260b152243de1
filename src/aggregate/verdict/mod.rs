//! Triage: evidence in, one answer out. Every rule looks for one class and says how sure it is; with no rule sure
//! enough the answer is UNSURE and says what is missing.

mod facts;
mod rules;

use serde_json::json;

use self::facts::Facts;
use super::evidence::Evidence;
use super::waits::Cause;
use crate::event::Frame;
use crate::report::{self, Confidence, Verdict};
use crate::units::{count, duration, growth, per_second, plural, rate, share};

/// Shorter runs are no ground for a verdict: at 99 Hz half a second is 50 samples.
const LEAST_WALL_NS: u64 = 500_000_000;
/// From this share of lost events on the rest may not stand for the whole.
const MUCH_LOSS: f64 = 0.1;

/// What a process can suffer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Code runs nearly all the time.
    CpuBound,
    /// Work waits for input or output.
    IoBound,
    /// CPU goes into many system calls.
    SyscallStorm,
    /// CPU or time goes into memory: faults, garbage collection, growth.
    Memory,
    /// Threads wait for the GIL.
    GilContention,
    /// Threads wait for locks and get them, late.
    LockContention,
    /// Threads wait for locks they never get.
    Deadlock,
    /// Nothing to do.
    Idle,
    /// The evidence does not decide.
    Unsure,
}

impl Class {
    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuBound => "CPU BOUND",
            Self::IoBound => "I/O BOUND",
            Self::SyscallStorm => "SYSCALL STORM",
            Self::Memory => "MEMORY",
            Self::GilContention => "GIL CONTENTION",
            Self::LockContention => "LOCK CONTENTION",
            Self::Deadlock => "DEADLOCK / STUCK",
            Self::Idle => "HEALTHY / IDLE",
            Self::Unsure => "UNSURE",
        }
    }
}

/// What one rule found.
struct Finding {
    class: Class,
    confidence: Confidence,
    text: Vec<String>,
    line: Option<Frame>,
    next: String,
}

/// Judges the evidence.
pub fn verdict(evidence: &Evidence) -> Verdict {
    let facts = Facts::new(evidence);
    let mut finding = decide(&facts);
    let loss = evidence.loss;
    if finding.class != Class::Unsure && loss.lost as f64 >= MUCH_LOSS * loss.generated.max(1) as f64 {
        finding.confidence = lower(finding.confidence);
        finding.text.push(format!("{} of the events were lost.", share(loss.lost, loss.generated)));
    }
    Verdict {
        evidence: rows(&facts),
        class: finding.class.name().into(),
        confidence: finding.confidence,
        text: finding.text,
        line: finding.line,
        // There is nothing to run on a process that is gone, or is another program now.
        next: Some(finding.next).filter(|_| !evidence.gone),
    }
}

/// The surest finding; among equally sure ones the first rule, which is the more specific.
fn decide(facts: &Facts<'_>) -> Finding {
    if let Some(unsure) = too_little(facts) {
        return unsure;
    }
    let mut findings: Vec<Finding> = rules::RULES.iter().filter_map(|rule| rule(facts)).collect();
    findings.sort_by_key(|finding| rank(finding.confidence));
    let mut findings = findings.into_iter();
    let Some(mut best) = findings.next() else {
        return rules::unsure(facts);
    };
    if let Some(rival) = findings.find(|other| rivals(best.class, other.class) && other.confidence == best.confidence) {
        best.confidence = lower(best.confidence);
        best.text.push(format!("{} is possible as well.", rival.class.name()));
    }
    best
}

/// High first.
fn rank(confidence: Confidence) -> u8 {
    match confidence {
        Confidence::High => 0,
        Confidence::Medium => 1,
        Confidence::Low => 2,
    }
}

fn lower(confidence: Confidence) -> Confidence {
    match confidence {
        Confidence::High => Confidence::Medium,
        Confidence::Medium | Confidence::Low => Confidence::Low,
    }
}

/// Whether both can't be the whole truth. A storm, garbage collection and a held GIL all burn CPU, and a deadlock is
/// the end of lock contention: there the one explains the other.
fn rivals(best: Class, other: Class) -> bool {
    best != other && other != Class::CpuBound && (best, other) != (Class::Deadlock, Class::LockContention)
}

fn too_little(facts: &Facts<'_>) -> Option<Finding> {
    let evidence = facts.evidence;
    let what = if evidence.wall_ns < LEAST_WALL_NS {
        format!("Watched for {} only: too short for a verdict.", duration(evidence.wall_ns))
    } else if evidence.threads.is_empty() {
        "No thread that was looked at ran, waited or was seen waiting.".to_owned()
    } else {
        return None;
    };
    Some(Finding {
        class: Class::Unsure,
        confidence: Confidence::Low,
        text: vec![what],
        line: None,
        next: facts.watch_longer(),
    })
}

/// The measured quantities, in the order they are printed: two a line.
fn rows(facts: &Facts<'_>) -> Vec<report::Evidence> {
    let evidence = facts.evidence;
    let row = |name: &str, text: String, value| report::Evidence { name: name.into(), text, value };
    let mut rows = Vec::new();
    let samples = evidence.samples.total();
    let cpu_ns: u64 = facts.all_cpu_ns();
    rows.push(row(
        "cpu_samples",
        format!("{}   ({} of one core)", count(samples), share(cpu_ns, evidence.wall_ns)),
        json!(samples),
    ));
    let waits: u64 = evidence.threads.iter().map(|thread| thread.waits).sum();
    let waited: u64 = evidence.threads.iter().map(|thread| thread.waited_for(|_| true)).sum();
    let threads = plural(evidence.threads.len() as u64, "thread");
    rows.push(row("off_cpu", format!("{}, {} in {threads}", plural(waits, "wait"), duration(waited)), json!(waits)));
    if let Some(syscalls) = &evidence.syscalls {
        let top = syscalls.top.as_ref();
        let top = top.map(|(name, calls)| format!(" ({name} {})", share(*calls, syscalls.entered))).unwrap_or_default();
        let per_second = per_second(syscalls.entered, evidence.wall_ns).round() as u64;
        rows.push(row("syscalls", format!("{}{top}", rate(syscalls.entered, evidence.wall_ns)), json!(per_second)));
    }
    if !evidence.processes.is_empty() {
        rows.extend(proc_rows(facts));
    }
    let gil: u64 = evidence.threads.iter().map(|thread| thread.waited(Cause::Gil)).sum();
    let waiting = evidence.threads.iter().filter(|thread| thread.waited(Cause::Gil) > 0).count();
    let text = format!("{} in {waiting} of {threads}", duration(gil));
    rows.push(row("GIL wait", text, json!(gil)));
    rows
}

fn proc_rows(facts: &Facts<'_>) -> [report::Evidence; 3] {
    let evidence = facts.evidence;
    let row = |name: &str, text: String, value| report::Evidence { name: name.into(), text, value };
    let sum = |of: fn(&crate::event::ProcessTotals) -> u64| evidence.processes.iter().map(of).sum::<u64>();
    let (minor, major) = (sum(|it| it.minor_faults), sum(|it| it.major_faults));
    let read = if major > 0 { format!(", {} from disk", rate(major, evidence.wall_ns)) } else { String::new() };
    let runqueue = sum(|it| it.runqueue_ns);
    let rss = sum(|it| it.rss_bytes);
    let grown: i64 = evidence.processes.iter().map(|it| it.rss_growth_bytes).sum();
    [
        row("page_faults", format!("{}{read}", rate(minor + major, evidence.wall_ns)), json!(minor + major)),
        row("run queue", format!("{} of wall", share(runqueue, evidence.wall_ns)), json!(runqueue)),
        row("memory", format!("{} ({})", crate::units::bytes(rss), growth(grown)), json!(rss)),
    ]
}

#[cfg(test)]
mod tests;
