//! One rule per class. A threshold that is met well gives high confidence, one that is just met medium.

use super::facts::{Facts, LEAST_WORK, at_line};
use super::{Class, Finding};
use crate::aggregate::evidence::HotLine;
use crate::aggregate::waits::Cause;
use crate::report::{Confidence, frame_label};
use crate::units::{bytes, count, duration, plural, rate, share};

/// Two borders: below `medium` a rule is silent, from `high` on it is sure.
struct Border {
    medium: f64,
    high: f64,
}

impl Border {
    fn reached(&self, value: f64) -> Option<Confidence> {
        match value {
            v if v >= self.high => Some(Confidence::High),
            v if v >= self.medium => Some(Confidence::Medium),
            _ => None,
        }
    }
}

/// Cores in use or asked for. The GIL lets one core's worth of Python run, so 0.85 of one leaves no room for more;
/// at 0.6 a burst or a pause of a second may be what was seen.
const CPU: Border = Border { medium: 0.6, high: 0.85 };
/// Part of the work that waits for I/O. Half is the least for a majority; from 0.7 on twice as much as all the rest.
const IO_PART: Border = Border { medium: 0.5, high: 0.7 };
/// Threads that wait for the GIL at any moment. Half a thread's time lost is felt; below a fifth it is the switch
/// interval at work.
const GIL_WAITERS: Border = Border { medium: 0.2, high: 0.5 };
/// Part of one thread's run spent waiting for the GIL, below which even one waiting thread is no contention.
const GIL_VICTIM: f64 = 0.1;
/// Threads that wait for locks at any moment, as for the GIL; a lock handed over fairly costs as much.
const LOCK_WAITERS: Border = Border { medium: 0.3, high: 0.7 };
/// Part of the work that lock waits must be: a lock beside longer I/O is not the bottleneck.
const LOCK_PART: f64 = 0.35;
/// A process that uses less CPU than this does not progress (bookkeeping of an idle interpreter stays below 0.5 %).
const NO_PROGRESS: f64 = 0.02;
/// System calls per second. The cheapest take 0.1 to 0.3 us here, common ones 1 us and more: from 20,000 on they can
/// cost 2 to 5 % of a core, from 50,000 on they shape a profile.
const STORM_CALLS: Border = Border { medium: 20_000.0, high: 50_000.0 };
/// Part of CPU samples in the kernel that a storm shows. CPU-bound Python stays under 0.1.
const STORM_KERNEL: f64 = 0.3;
/// A storm, faults or collection matter only when the process uses CPU at all.
const SOME_CPU: f64 = 0.3;
/// Part of CPU samples in the garbage collector. A healthy program stays under 0.1.
const GARBAGE: Border = Border { medium: 0.25, high: 0.4 };
/// Minor faults per second; at 0.5 to 1 us each 50,000 cost 3 to 5 % of a core with zeroing, and more with many cores.
const MINOR_FAULTS: f64 = 50_000.0;
/// Part of the work that waits for pages from disk.
const PAGING_PART: Border = Border { medium: 0.2, high: 0.5 };
/// Major faults per second that go with it: fewer are a start-up.
const MAJOR_FAULTS: f64 = 10.0;
/// Growth of resident memory per second, and the part of it all that it must make up: loading a file looks the same
/// for a moment, so this is never sure.
const GROWTH_BYTES_PER_SECOND: f64 = 4.0 * 1024.0 * 1024.0;
const GROWTH_PART: f64 = 0.1;
/// Work of the busiest thread below which the process idles, and from which it has enough to judge.
const BUSY: Border = Border { medium: 0.4, high: 0.7 };
/// Samples below which the hottest line is chance.
const LEAST_SAMPLES: u64 = 20;
/// Wake-ups of an event loop per second; timers and health checks stay below.
const LOOP_TRAFFIC: f64 = 10.0;

/// More specific first: among equally sure findings the first wins.
pub(super) const RULES: &[fn(&Facts<'_>) -> Option<Finding>] =
    &[stopped, deadlock, gil, lock, storm, memory_garbage, memory_faults, memory_paging, cpu, io, memory_growth, idle];

fn least(a: Confidence, b: Confidence) -> Confidence {
    match (a, b) {
        (Confidence::High, other) | (other, Confidence::High) => other,
        (Confidence::Low, _) | (_, Confidence::Low) => Confidence::Low,
        _ => Confidence::Medium,
    }
}

fn stopped(facts: &Facts<'_>) -> Option<Finding> {
    let text = || {
        vec![
            "The process is stopped, by a signal or a debugger: no thread of it can run.".to_owned(),
            "It goes on when it is continued.".to_owned(),
        ]
    };
    let next = format!("kill -CONT {}", facts.pid);
    facts.evidence.stopped.then(|| finding(Class::Deadlock, Confidence::High, text(), None, next))
}

fn deadlock(facts: &Facts<'_>) -> Option<Finding> {
    let stuck: Vec<_> = facts.threads.iter().filter(|it| it.whole_wait == Some(Cause::Lock)).collect();
    // A thread in one wait for input all the time did no work either, though it might yet release a lock.
    let bystanders = facts.threads.iter().filter(|it| it.whole_wait.is_some_and(Cause::is_io)).count();
    let still = (stuck.len() + bystanders) as f64;
    let others = facts.work - still * 0.95;
    if stuck.is_empty() || facts.cpu >= NO_PROGRESS || others > still * 0.05 + LEAST_WORK {
        return None;
    }
    let line = facts.evidence.waits_at.get(&Cause::Lock);
    let wall = duration(facts.evidence.wall_ns);
    let mut text = vec![match stuck.len() {
        1 => format!("Thread {} waited for one lock all {wall}.", stuck[0].id.tid),
        number => format!("{number} threads waited for locks all {wall}."),
    }];
    if facts.threads.iter().all(|it| it.whole_wait.is_some()) {
        text.push("No other thread ran.".to_owned());
    }
    text.extend(line.map(|line| {
        let caller = line.called_from.as_ref().map(|caller| format!(", called from {}", frame_label(caller)));
        format!("One waits at {}{}.", frame_label(&line.frame), caller.unwrap_or_default())
    }));
    // One thread may wait for a lock that is used as a signal; two and more hardly do.
    let confidence = if stuck.len() > 1 && bystanders == 0 { Confidence::High } else { Confidence::Medium };
    Some(finding(Class::Deadlock, confidence, text, line, facts.next("dump", " --locals")))
}

fn gil(facts: &Facts<'_>) -> Option<Finding> {
    let waiting = facts.waited(Cause::Gil);
    let wall = facts.evidence.wall_ns;
    let waited = |it: &&&crate::aggregate::evidence::ThreadEvidence| it.waited(Cause::Gil) as f64 / wall.max(1) as f64;
    let victims = facts.threads.iter().filter(|it| waited(it) >= GIL_VICTIM).count();
    let confidence = GIL_WAITERS.reached(waiting).filter(|_| victims > 0)?;
    // A GIL that is fought over is held nearly always; else something else made the threads wait.
    let confidence =
        if facts.cpu + held_waiting(facts) >= 0.5 { confidence } else { least(confidence, Confidence::Medium) };
    let gil_ns = (waiting * wall as f64) as u64;
    let mut text = vec![format!(
        "{} for the GIL {} of the time{}.",
        match victims {
            1 => "1 thread waits".to_owned(),
            number => format!("{number} threads wait"),
        },
        share(gil_ns / victims as u64, wall),
        if victims > 1 { " each" } else { "" },
    )];
    let line = facts.evidence.gil_holder.as_ref();
    if let Some(line) = line {
        let thread = line.thread.map(|thread| format!(", in thread {}", thread.tid)).unwrap_or_default();
        let caller = line.called_from.as_ref().map(|caller| format!(", called from {}", frame_label(caller)));
        text.push(format!(
            "It was seen held mostly ({}) at {}{}{thread}.",
            share(line.own, line.of),
            frame_label(&line.frame),
            caller.unwrap_or_default()
        ));
    }
    if facts.evidence.gil_held_waiting_ns * 5 > wall {
        let held = share(facts.evidence.gil_held_waiting_ns, wall);
        text.push(format!("{held} of the time its holder itself waited: C code that keeps the GIL while it blocks."));
    }
    Some(finding(Class::GilContention, confidence, text, line, facts.next("pycpu", "")))
}

fn held_waiting(facts: &Facts<'_>) -> f64 {
    facts.evidence.gil_held_waiting_ns as f64 / facts.evidence.wall_ns.max(1) as f64
}

fn lock(facts: &Facts<'_>) -> Option<Finding> {
    let waiting = facts.waited(Cause::Lock);
    let confidence = LOCK_WAITERS.reached(waiting)?;
    if facts.part_of_work(waiting) < LOCK_PART {
        return None;
    }
    let victims = facts.threads.iter().filter(|it| it.waited(Cause::Lock) > 0).count() as u64;
    let never = facts.threads.iter().filter(|it| it.whole_wait == Some(Cause::Lock)).count() as u64;
    // A lock never got in the whole run may be a deadlock of a few threads.
    let confidence = if never > 0 { least(confidence, Confidence::Medium) } else { confidence };
    let line = facts.evidence.waits_at.get(&Cause::Lock);
    let mut text = vec![format!(
        "{} waited {} for locks in {}.",
        plural(victims, "thread"),
        duration((waiting * facts.evidence.wall_ns as f64) as u64),
        duration(facts.evidence.wall_ns)
    )];
    text.extend(line.map(waits_at));
    if never > 0 {
        text.push(format!("{} never got its lock while others ran.", plural(never, "thread")));
    }
    Some(finding(Class::LockContention, confidence, text, line, facts.next("dump", " --locals")))
}

fn storm(facts: &Facts<'_>) -> Option<Finding> {
    let syscalls = facts.evidence.syscalls.as_ref()?;
    let confidence = STORM_CALLS.reached(facts.per_second(syscalls.entered))?;
    if facts.kernel < STORM_KERNEL || facts.cpu < SOME_CPU {
        return None;
    }
    let wall = facts.evidence.wall_ns;
    let top =
        syscalls.top.as_ref().map(|(name, calls)| format!(", {} of them {name}", share(*calls, syscalls.entered)));
    let mut text = vec![format!(
        "{} system calls{}; {} of the CPU samples are in the kernel.",
        rate(syscalls.entered, wall),
        top.unwrap_or_default(),
        percent(facts.kernel)
    )];
    // A call that fails every third time is usually a poll or a search path.
    if syscalls.errors * 3 > syscalls.entered {
        text.push(format!("{} of the calls fail.", share(syscalls.errors, syscalls.entered)));
    }
    let line = hot(facts);
    text.extend(line.map(most_cpu));
    Some(finding(Class::SyscallStorm, confidence, text, line, facts.next("syscall", "")))
}

fn memory_garbage(facts: &Facts<'_>) -> Option<Finding> {
    let confidence = GARBAGE.reached(facts.garbage_collector)?;
    if facts.cpu < SOME_CPU || facts.evidence.samples.total() < LEAST_SAMPLES {
        return None;
    }
    let line = hot(facts);
    let mut text =
        vec![format!("{} of the CPU samples are in the garbage collector.", percent(facts.garbage_collector))];
    text.extend(line.map(most_cpu));
    Some(finding(Class::Memory, confidence, text, line, facts.next("cpu-bound", "")))
}

fn memory_faults(facts: &Facts<'_>) -> Option<Finding> {
    let faults = facts.per_second(facts.totals?.minor_faults);
    if faults < MINOR_FAULTS || facts.kernel < STORM_KERNEL || facts.cpu < SOME_CPU {
        return None;
    }
    // Twice the rate, and the kernel part is faults and little else.
    let confidence = if faults >= 2.0 * MINOR_FAULTS { Confidence::High } else { Confidence::Medium };
    let line = hot(facts);
    let mut text = vec![format!(
        "{} page faults a second: memory is taken and given back again and again; {} of the CPU samples are in the kernel.",
        count(faults as u64),
        percent(facts.kernel)
    )];
    text.extend(line.map(most_cpu));
    Some(finding(Class::Memory, confidence, text, line, facts.next("cpu-bound", "")))
}

fn memory_paging(facts: &Facts<'_>) -> Option<Finding> {
    let waiting = facts.waited(Cause::PageFault);
    let confidence = PAGING_PART.reached(facts.part_of_work(waiting)).filter(|_| facts.busiest >= LEAST_WORK)?;
    let major = facts.totals.map_or(0, |totals| totals.major_faults);
    if facts.per_second(major) < MAJOR_FAULTS {
        return None;
    }
    let line = facts.evidence.waits_at.get(&Cause::PageFault);
    let mut text = vec![format!(
        "{} page faults were read from disk; {} of the work waited for them.",
        rate(major, facts.evidence.wall_ns),
        percent(facts.part_of_work(waiting))
    )];
    text.extend(line.map(waits_at));
    Some(finding(Class::Memory, confidence, text, line, facts.next("flame", " --off-cpu")))
}

fn grows(facts: &Facts<'_>) -> bool {
    let grown = facts.totals.map_or(0, |totals| u64::try_from(totals.rss_growth_bytes).unwrap_or(0));
    let all = facts.totals.map_or(0, |totals| totals.rss_bytes);
    facts.per_second(grown) >= GROWTH_BYTES_PER_SECOND && (grown as f64) >= GROWTH_PART * all as f64
}

fn memory_growth(facts: &Facts<'_>) -> Option<Finding> {
    let totals = facts.totals?;
    let grown = u64::try_from(totals.rss_growth_bytes).ok()?;
    if !grows(facts) {
        return None;
    }
    let wall = duration(facts.evidence.wall_ns);
    let text = vec![
        format!("Resident memory grew by {} in {wall}, to {}.", bytes(grown), bytes(totals.rss_bytes)),
        "Whether it goes on, a longer run tells.".into(),
    ];
    Some(finding(Class::Memory, Confidence::Medium, text, hot(facts), facts.watch_longer()))
}

fn io(facts: &Facts<'_>) -> Option<Finding> {
    // Waits that neither began nor ended in the run: nothing to do, or a peer that hangs. That is not for us to say.
    if io_stands_still(facts) {
        return None;
    }
    let waiting = facts.waited_for(Cause::is_io);
    let part = facts.part_of_work(waiting);
    let confidence = least(IO_PART.reached(part)?, BUSY.reached(facts.busiest)?);
    let cause = facts.longest(Cause::is_io)?;
    let line = facts.evidence.waits_at.get(&cause);
    let mut text =
        vec![format!("{} of the work is waiting for input or output, mostly for {}.", percent(part), cause.name())];
    text.extend(line.map(waits_at));
    Some(finding(Class::IoBound, confidence, text, line, facts.next("flame", " --off-cpu")))
}

/// Every thread that waits for input or output waited for a peer, once, all the time.
fn io_stands_still(facts: &Facts<'_>) -> bool {
    let waiting: Vec<_> = facts.threads.iter().filter(|it| it.waited_for(Cause::is_io) > 0).collect();
    facts.cpu < NO_PROGRESS
        && !waiting.is_empty()
        && waiting.iter().all(|it| matches!(it.whole_wait, Some(Cause::Socket | Cause::Pipe)))
}

fn cpu(facts: &Facts<'_>) -> Option<Finding> {
    // Time in the run queue is CPU asked for and not given; it must not outweigh what was given.
    let taken = facts.runqueue - facts.queued_after_waits;
    let starved = facts.cpu >= NO_PROGRESS && taken > facts.cpu;
    let confidence = match CPU.reached(facts.cpu + facts.runqueue.min(facts.cpu)) {
        Some(confidence) => confidence,
        // Others took the CPU from it while it ran: it would have gone on running.
        None if starved && facts.cpu + taken >= CPU.high => Confidence::Medium,
        None => return None,
    };
    let line = hot(facts);
    let who = match facts.evidence.processes.len() {
        0 | 1 => "It".to_owned(),
        _ => format!("Process {}", facts.pid),
    };
    let mut text = vec![format!("{who} uses {} of one core.", percent(facts.cpu))];
    if facts.runqueue >= 0.2 {
        text.push(format!("It would use more: {}.", short_of_cpu(facts)));
    }
    match line {
        Some(line) => text.push(most_cpu(line)),
        None => text.push(format!("{} are too few to name a line.", plural(facts.evidence.samples.total(), "sample"))),
    }
    let confidence = if line.is_some() { confidence } else { least(confidence, Confidence::Medium) };
    // C code below one line: the next question is which C code; else which lines.
    let command =
        if facts.evidence.samples.native * 2 > facts.evidence.samples.total() { "cpu-bound" } else { "pycpu" };
    Some(finding(Class::CpuBound, confidence, text, line, facts.next(command, "")))
}

/// How much CPU the process asked for in vain.
fn short_of_cpu(facts: &Facts<'_>) -> String {
    match facts.runqueue {
        threads if threads > 1.0 => format!("on average {threads:.1} threads waited for a CPU"),
        part => format!("{} of the time a thread waited for a CPU", percent(part)),
    }
}

fn idle(facts: &Facts<'_>) -> Option<Finding> {
    if facts.busiest >= LEAST_WORK || facts.cpu >= LEAST_WORK || facts.runqueue >= LEAST_WORK || grows(facts) {
        return None;
    }
    let cause = facts.longest(Cause::is_idle);
    let line = cause.and_then(|cause| facts.evidence.waits_at.get(&cause));
    let mut text = vec![
        match cause {
            Some(Cause::Sleep) => "Nothing runs: its threads sleep because they asked to.",
            Some(Cause::EventLoop) => "Nothing runs: the event loop waits for its sockets and timers.",
            Some(Cause::Client) => "Nothing runs: it waits for a client.",
            Some(_) => "Nothing runs: its threads wait for work.",
            None => "Nothing ran, and no thread began or ended a wait.",
        }
        .to_owned(),
    ];
    text.extend(line.map(waits_at));
    text.push("If it should be working, look where each thread stands.".into());
    let wakeups: u64 = facts.threads.iter().filter(|it| it.waited(Cause::EventLoop) > 0).map(|it| it.waits).sum();
    if facts.waited(Cause::EventLoop) > 0.5 && facts.per_second(wakeups) >= LOOP_TRAFFIC {
        // A loop with traffic may await answers: that is I/O, and the wait alone does not tell.
        return None;
    }
    let confidence = match cause {
        Some(Cause::Client | Cause::Sleep) => Confidence::High,
        Some(_) => Confidence::Medium,
        None => Confidence::Low,
    };
    Some(finding(Class::Idle, confidence, text, line, facts.next("dump", " --locals")))
}

/// What is missing when no rule speaks.
pub(super) fn unsure(facts: &Facts<'_>) -> Finding {
    let wall = facts.evidence.wall_ns;
    let looping = facts.waited(Cause::EventLoop);
    let busy_ns = (facts.busiest.min(1.0) * wall as f64) as u64;
    let text = if facts.runqueue >= 0.5 && facts.runqueue > facts.cpu {
        vec![
            format!(
                "The machine is short of CPU: {}, and it got {} of a core.",
                short_of_cpu(facts),
                percent(facts.cpu)
            ),
            "What it would do with more can't be told from that.".into(),
        ]
    } else if looping > 0.5 {
        vec![
            format!("The event loop waited {} of the time.", percent(looping.min(1.0))),
            "Whether it had nothing to do or awaited answers, its wait does not tell: the tasks do.".into(),
        ]
    } else if let Some(cause) = facts.longest(Cause::is_io).filter(|_| io_stands_still(facts)) {
        let mut text = vec![format!("Nothing ran: all {} were one wait for {}.", duration(wall), cause.name())];
        text.extend(facts.evidence.waits_at.get(&cause).map(waits_at));
        text.push("Either it has nothing to do, or the other side does not answer.".into());
        text
    } else if facts.busiest < BUSY.high {
        vec![
            format!("{} of {} the process was idle.", duration(wall - busy_ns), duration(wall)),
            "Run it under load, or watch longer.".into(),
        ]
    } else {
        let mut parts = vec![format!("CPU {}", percent(facts.part_of_work(facts.cpu)))];
        for cause in Cause::ALL.into_iter().filter(|cause| !cause.is_idle()) {
            let part = facts.part_of_work(facts.waited(cause));
            if part >= 0.1 {
                parts.push(format!("waiting for {} {}", cause.name(), percent(part)));
            }
        }
        vec![format!("No part of its work stands out: {}.", parts.join(", "))]
    };
    let next =
        if looping > 0.5 || io_stands_still(facts) { facts.next("dump", " --locals") } else { facts.watch_longer() };
    Finding { class: Class::Unsure, confidence: Confidence::Low, text, line: None, next }
}

fn finding(class: Class, confidence: Confidence, text: Vec<String>, line: Option<&HotLine>, next: String) -> Finding {
    Finding { class, confidence, text, line: line.map(|line| line.frame.clone()), next }
}

/// The hottest line, when there are samples enough to name one.
fn hot<'a>(facts: &Facts<'a>) -> Option<&'a HotLine> {
    facts.evidence.hot.as_ref().filter(|line| line.of >= LEAST_SAMPLES)
}

fn most_cpu(line: &HotLine) -> String {
    at_line(line, "the samples are in")
}

fn waits_at(line: &HotLine) -> String {
    at_line(line, "that waiting is at")
}

fn percent(part: f64) -> String {
    share((part * 1e6).round() as u64, 1_000_000)
}
