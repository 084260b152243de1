use super::*;
use crate::aggregate::evidence::{HotLine, Samples, SyscallEvidence, ThreadEvidence};
use crate::aggregate::stacks::ThreadId;
use crate::event::{FrameKind, Loss, ProcessTotals};
use crate::report::Confidence::{High, Low, Medium};

const WALL_NS: u64 = 3_000_000_000;
const HZ: u64 = 99;
const PID: u32 = 10;

fn line(function: &str, own: u64, of: u64) -> HotLine {
    let frame =
        Frame { kind: FrameKind::Python, function: function.into(), file: Some("app.py".into()), line: Some(7) };
    HotLine { frame, own, total: of, of, thread: None, called_from: None }
}

fn ns(share: f64) -> u64 {
    (share * WALL_NS as f64) as u64
}

/// A run of three seconds in which nothing happened; what did is added.
struct Run(Evidence);

fn run() -> Run {
    Run(Evidence {
        pid: PID,
        wall_ns: WALL_NS,
        cpus: 4,
        period_ns: 1_000_000_000 / HZ,
        processes: vec![ProcessTotals {
            tgid: PID,
            wall_ns: WALL_NS,
            rss_bytes: 100 << 20,
            threads: 1,
            ..ProcessTotals::default()
        }],
        syscalls: Some(SyscallEvidence::default()),
        ..Evidence::default()
    })
}

impl Run {
    fn thread_mut(&mut self, tid: u32) -> &mut ThreadEvidence {
        let index = self.0.threads.iter().position(|it| it.id.tid == tid).unwrap_or_else(|| {
            self.0.threads.push(ThreadEvidence::new(ThreadId { tgid: PID, tid }));
            self.0.threads.len() - 1
        });
        &mut self.0.threads[index]
    }

    fn totals(&mut self) -> &mut ProcessTotals {
        &mut self.0.processes[0]
    }

    /// `tid` ran `share` of the run in the interpreter.
    fn cpu(mut self, tid: u32, share: f64) -> Self {
        let samples = (share * 3.0 * HZ as f64) as u64;
        self.totals().cpu_ns += ns(share);
        self.thread_mut(tid).samples += samples;
        self.0.samples.interpreter += samples;
        let all = self.0.samples.total();
        self.0.hot = (all > 0).then(|| line("hot", all * 2 / 3, all));
        self
    }

    /// Of all samples, these parts were elsewhere.
    fn classes(mut self, native: f64, kernel: f64, garbage_collector: f64) -> Self {
        let all = self.0.samples.total();
        let part = |share: f64| (share * all as f64) as u64;
        let (native, kernel, garbage_collector) = (part(native), part(kernel), part(garbage_collector));
        let interpreter = all - native - kernel - garbage_collector;
        self.0.samples = Samples { interpreter, native, kernel, garbage_collector };
        self
    }

    /// `tid` waited `share` of the run, in `waits` waits.
    fn wait(mut self, tid: u32, cause: Cause, share: f64, waits: u64) -> Self {
        let thread = self.thread_mut(tid);
        thread.waits += waits;
        *thread.waited_ns.entry(cause).or_default() += ns(share);
        self.0.waits_at.insert(cause, line(&format!("waits for {}", cause.name()), 9, 10));
        self
    }

    /// `tid` was in one wait all the time.
    fn whole(self, tid: u32, cause: Cause) -> Self {
        let mut run = self.wait(tid, cause, 1.0, 1);
        run.thread_mut(tid).whole_wait = Some(cause);
        run
    }

    fn syscalls(mut self, per_second: u64, errors: u64) -> Self {
        let entered = per_second * 3;
        let top = Some(("read".into(), entered));
        self.0.syscalls = Some(SyscallEvidence { entered, errors: errors * 3, top });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Evidence)) -> Self {
        change(&mut self.0);
        self
    }

    #[track_caller]
    fn is(self, class: Class, confidence: Confidence, next: &str) -> String {
        let verdict = verdict(&self.0);
        let text = verdict.text.join(" ");
        assert_eq!(
            (verdict.class.as_str(), verdict.confidence, verdict.next.as_deref()),
            (class.name(), confidence, Some(next)),
            "{text}"
        );
        text
    }
}

const PYCPU: &str = "pylow pycpu 10";
const CPU_BOUND: &str = "pylow cpu-bound 10";
const OFF_CPU: &str = "pylow flame 10 --off-cpu";
const SYSCALL: &str = "pylow syscall 10";
const DUMP: &str = "pylow dump 10 --locals";
const LONGER: &str = "pylow triage 10 --duration 30";

#[test]
fn pure_python_at_full_speed() {
    let text = run().cpu(10, 0.99).is(Class::CpuBound, High, PYCPU);
    assert_eq!(text, "It uses 99 % of one core. 67 % of the samples are in hot @ app.py:7.");
}

#[test]
fn native_code_at_full_speed_is_asked_which() {
    run().cpu(10, 0.97).classes(0.9, 0.0, 0.0).is(Class::CpuBound, High, CPU_BOUND);
}

#[test]
fn numpy_on_four_cores() {
    run().cpu(10, 0.98).cpu(11, 0.98).cpu(12, 0.98).classes(0.95, 0.01, 0.0).is(Class::CpuBound, High, CPU_BOUND);
}

#[test]
fn cpu_at_the_border_is_less_sure() {
    run().cpu(10, 0.86).wait(10, Cause::Client, 0.14, 40).is(Class::CpuBound, High, PYCPU);
    run().cpu(10, 0.84).wait(10, Cause::Client, 0.16, 40).is(Class::CpuBound, Medium, PYCPU);
    run().cpu(10, 0.61).wait(10, Cause::Client, 0.39, 40).is(Class::CpuBound, Medium, PYCPU);
    run().cpu(10, 0.58).wait(10, Cause::Client, 0.42, 40).is(Class::Unsure, Low, LONGER);
}

#[test]
fn a_process_starved_of_cpu_is_cpu_bound() {
    let starved = run().cpu(10, 0.5).with(|it| it.processes[0].runqueue_ns = ns(0.5));
    let text = starved.is(Class::CpuBound, High, PYCPU);
    assert!(text.contains("50 % of the time a thread waited for a CPU"), "{text}");
    // Taken from it while it ran: it would have gone on. After waits, nobody knows.
    run().cpu(10, 0.1).with(|it| it.processes[0].runqueue_ns = ns(0.9)).is(Class::CpuBound, Medium, PYCPU);
    let queued = run().cpu(10, 0.1).with(|it| {
        it.processes[0].runqueue_ns = ns(0.9);
        it.threads[0].runqueue_ns = ns(0.9);
    });
    queued.is(Class::Unsure, Low, LONGER);
}

#[test]
fn without_samples_cpu_has_no_line() {
    let busy = run().wait(10, Cause::Sleep, 0.01, 1).with(|it| it.processes[0].cpu_ns = ns(0.99));
    let text = busy.is(Class::CpuBound, Medium, PYCPU);
    assert!(text.contains("0 samples are too few to name a line"), "{text}");
}

#[test]
fn a_client_of_a_slow_service() {
    let text = run().cpu(10, 0.05).wait(10, Cause::Socket, 0.94, 30).is(Class::IoBound, High, OFF_CPU);
    assert_eq!(
        text,
        "95 % of the work is waiting for input or output, mostly for a socket. \
         90 % of that waiting is at waits for a socket @ app.py:7."
    );
}

#[test]
fn waiting_for_a_slow_disk_or_child() {
    run().cpu(10, 0.1).wait(10, Cause::File, 0.9, 300).is(Class::IoBound, High, OFF_CPU);
    run().wait(10, Cause::Child, 1.0, 3).is(Class::IoBound, High, OFF_CPU);
}

#[test]
fn one_wait_for_a_peer_all_the_time_may_be_idleness() {
    for cause in [Cause::Socket, Cause::Pipe] {
        let text = run().whole(10, cause).is(Class::Unsure, Low, "pylow dump 10 --locals");
        assert!(text.contains("Either it has nothing to do, or the other side does not answer."), "{text}");
    }
}

#[test]
fn deadlock_beside_a_thread_that_waits_for_input() {
    run().whole(10, Cause::Pipe).whole(11, Cause::Lock).whole(12, Cause::Lock).is(
        Class::Deadlock,
        Medium,
        "pylow dump 10 --locals",
    );
}

#[test]
fn io_at_the_border_is_less_sure() {
    run().cpu(10, 0.4).wait(10, Cause::Socket, 0.55, 30).is(Class::IoBound, Medium, OFF_CPU);
    run().cpu(10, 0.55).wait(10, Cause::Socket, 0.45, 30).is(Class::Unsure, Low, LONGER);
    // A worker that is called for half of the time.
    run().cpu(10, 0.05).wait(10, Cause::Socket, 0.45, 30).wait(10, Cause::Client, 0.5, 9).is(
        Class::IoBound,
        Medium,
        OFF_CPU,
    );
    // And one that hardly is.
    run().wait(10, Cause::Socket, 0.3, 30).wait(10, Cause::Client, 0.7, 9).is(Class::Unsure, Low, LONGER);
}

#[test]
fn many_io_threads_around_a_full_core() {
    let mut busy = run().cpu(10, 0.95);
    for tid in 11..15 {
        busy = busy.wait(tid, Cause::Socket, 0.6, 100);
    }
    // The core is full, and threads wait: neither answer is wrong, so neither is sure.
    let text = busy.is(Class::CpuBound, Medium, PYCPU);
    assert!(text.ends_with("I/O BOUND is possible as well."), "{text}");
}

#[test]
fn threads_that_fight_for_the_gil() {
    let mut fight = run();
    for tid in 10..18 {
        fight = fight.cpu(tid, 0.12).wait(tid, Cause::Gil, 0.63, 200);
    }
    let holder = HotLine { thread: Some(ThreadId { tgid: PID, tid: 12 }), ..line("calculate_features", 71, 100) };
    let text = fight.with(|it| it.gil_holder = Some(holder)).is(Class::GilContention, High, PYCPU);
    assert_eq!(
        text,
        "8 threads wait for the GIL 63 % of the time each. \
         It was seen held mostly (71 %) at calculate_features @ app.py:7, in thread 12."
    );
}

#[test]
fn one_thread_starved_by_another() {
    run().cpu(10, 0.97).wait(11, Cause::Gil, 0.3, 100).wait(11, Cause::Sleep, 0.7, 100).is(
        Class::CpuBound,
        High,
        PYCPU,
    );
    run().cpu(10, 0.97).wait(11, Cause::Gil, 0.8, 100).is(Class::GilContention, High, PYCPU);
}

#[test]
fn a_little_gil_waiting_is_none() {
    let mut server = run().cpu(10, 0.9);
    for tid in 11..15 {
        server = server.wait(tid, Cause::Gil, 0.03, 100).wait(tid, Cause::Work, 0.97, 100);
    }
    server.is(Class::CpuBound, High, PYCPU);
}

#[test]
fn a_holder_that_blocks_with_the_gil() {
    let text = run()
        .cpu(10, 0.02)
        .wait(10, Cause::File, 0.9, 10)
        .wait(11, Cause::Gil, 0.9, 400)
        .with(|it| it.gil_held_waiting_ns = ns(0.9))
        .is(Class::GilContention, High, PYCPU);
    assert!(text.contains("90 % of the time its holder itself waited"), "{text}");
}

#[test]
fn threads_that_queue_for_a_lock() {
    let mut queue = run().cpu(10, 0.6);
    for tid in 11..15 {
        queue = queue.cpu(tid, 0.05).wait(tid, Cause::Lock, 0.9, 60);
    }
    let text = queue.is(Class::LockContention, High, DUMP);
    assert!(text.starts_with("4 threads waited 10.8 s for locks in 3 s."), "{text}");
}

#[test]
fn a_lock_beside_longer_io_is_not_the_bottleneck() {
    let mut server = run().cpu(10, 0.2);
    for tid in 11..19 {
        server = server.wait(tid, Cause::Socket, 0.8, 60).wait(tid, Cause::Lock, 0.1, 10);
    }
    server.is(Class::IoBound, High, OFF_CPU);
}

#[test]
fn a_lock_whose_holder_sleeps_is_contended_without_cpu() {
    let mut queue = run();
    for tid in 11..15 {
        queue = queue.wait(tid, Cause::Lock, 0.74, 45).wait(tid, Cause::Sleep, 0.25, 45);
    }
    queue.is(Class::LockContention, High, DUMP);
}

#[test]
fn a_few_stuck_threads_among_busy_ones() {
    let text = run().cpu(10, 0.4).whole(11, Cause::Lock).whole(12, Cause::Lock).is(Class::LockContention, Medium, DUMP);
    assert!(text.contains("2 threads never got its lock while others ran"), "{text}");
}

#[test]
fn two_threads_that_wait_for_each_other() {
    let stuck = run().whole(11, Cause::Lock).whole(12, Cause::Lock).whole(10, Cause::Work);
    let text = stuck.is(Class::Deadlock, High, DUMP);
    assert!(text.starts_with("2 threads waited for locks all 3 s. No other thread ran."), "{text}");
}

#[test]
fn one_thread_stuck_alone_may_be_meant() {
    run().whole(10, Cause::Lock).is(Class::Deadlock, Medium, DUMP);
}

#[test]
fn one_byte_at_a_time() {
    let storm = |cpu: f64, kernel: f64, calls| run().cpu(10, cpu).classes(0.1, kernel, 0.0).syscalls(calls, 0);
    let text = storm(0.98, 0.6, 400_000).is(Class::SyscallStorm, High, SYSCALL);
    assert!(text.starts_with("400,000/s system calls, 100 % of them read; 60 % of the CPU samples"), "{text}");
    storm(0.7, 0.4, 25_000).is(Class::SyscallStorm, Medium, SYSCALL);
    // Many calls that cost little, and few calls that cost much, are no storm.
    storm(0.98, 0.2, 60_000).is(Class::CpuBound, High, PYCPU);
    storm(0.98, 0.7, 2_000).is(Class::CpuBound, High, PYCPU);
}

#[test]
fn calls_that_fail_are_named() {
    let text =
        run().cpu(10, 0.98).classes(0.1, 0.6, 0.0).syscalls(90_000, 45_000).is(Class::SyscallStorm, High, SYSCALL);
    assert!(text.contains("50 % of the calls fail."), "{text}");
}

#[test]
fn garbage_collection_eats_the_cpu() {
    run().cpu(10, 0.95).classes(0.0, 0.05, 0.5).is(Class::Memory, High, CPU_BOUND);
    // Full speed is certain, what for is not.
    run().cpu(10, 0.95).classes(0.0, 0.05, 0.2).is(Class::CpuBound, High, PYCPU);
    run().cpu(10, 0.5).wait(10, Cause::Client, 0.5, 9).classes(0.0, 0.05, 0.3).is(Class::Memory, Medium, CPU_BOUND);
}

#[test]
fn memory_taken_and_given_back() {
    let faults = |per_second: u64, kernel| {
        run().cpu(10, 0.95).classes(0.1, kernel, 0.0).with(|it| it.processes[0].minor_faults = per_second * 3)
    };
    faults(200_000, 0.5).is(Class::Memory, High, CPU_BOUND);
    faults(20_000, 0.5).is(Class::CpuBound, High, PYCPU);
    faults(200_000, 0.1).is(Class::CpuBound, High, PYCPU);
}

#[test]
fn pages_read_from_disk() {
    let paging = |per_second: u64| {
        run()
            .cpu(10, 0.1)
            .wait(10, Cause::PageFault, 0.85, 900)
            .with(|it| it.processes[0].major_faults = per_second * 3)
    };
    paging(300).is(Class::Memory, High, OFF_CPU);
    paging(1).is(Class::Unsure, Low, LONGER);
}

#[test]
fn growth_is_never_sure() {
    let growing = |mib: i64| {
        run().cpu(10, 0.3).wait(10, Cause::Client, 0.7, 9).with(|it| {
            it.processes[0].rss_bytes = 400 << 20;
            it.processes[0].rss_growth_bytes = mib << 20;
        })
    };
    let text = growing(150).is(Class::Memory, Medium, LONGER);
    assert!(text.starts_with("Resident memory grew by 150 MiB in 3 s, to 400 MiB."), "{text}");
    growing(30).is(Class::Unsure, Low, LONGER);
    growing(-150).is(Class::Unsure, Low, LONGER);
}

#[test]
fn idle_servers_pools_and_sleepers() {
    run().whole(10, Cause::Client).is(Class::Idle, High, DUMP);
    run().whole(10, Cause::Work).whole(11, Cause::Work).is(Class::Idle, Medium, DUMP);
    run().cpu(10, 0.01).wait(10, Cause::Sleep, 0.99, 3).is(Class::Idle, High, DUMP);
    // Not one thread was seen, running or waiting: that is no idleness.
    run().with(|_| ()).is(Class::Unsure, Low, LONGER);
}

#[test]
fn a_leak_or_a_starved_thread_is_not_idle() {
    let leak = run().wait(10, Cause::Sleep, 0.99, 3).with(|it| it.processes[0].rss_growth_bytes = 50 << 20);
    leak.is(Class::Memory, Medium, LONGER);
    let queued = run().wait(10, Cause::Sleep, 0.2, 3).with(|it| it.processes[0].runqueue_ns = ns(0.8));
    let text = queued.is(Class::Unsure, Low, LONGER);
    assert!(text.starts_with("The machine is short of CPU: 80 % of the time a thread waited for a CPU"), "{text}");
}

#[test]
fn a_stopped_process_says_how_to_continue_it() {
    run().whole(10, Cause::Other).with(|it| it.stopped = true).is(Class::Deadlock, High, "kill -CONT 10");
}

#[test]
fn nothing_is_to_be_run_on_a_process_that_is_gone() {
    let busy = run().cpu(10, 0.99).with(|it| it.gone = true);
    assert_eq!(verdict(&busy.0).next, None);
}

#[test]
fn a_quiet_event_loop_is_idle_and_a_busy_one_unclear() {
    run().cpu(10, 0.01).wait(10, Cause::EventLoop, 0.99, 6).is(Class::Idle, Medium, DUMP);
    let text = run().cpu(10, 0.04).wait(10, Cause::EventLoop, 0.96, 600).is(Class::Unsure, Low, DUMP);
    assert!(text.contains("the tasks do"), "{text}");
    run().cpu(10, 0.95).wait(10, Cause::EventLoop, 0.05, 600).is(Class::CpuBound, High, PYCPU);
}

#[test]
fn half_idle_wants_load() {
    let text = run().cpu(10, 0.3).wait(10, Cause::Client, 0.7, 300).is(Class::Unsure, Low, LONGER);
    assert_eq!(text, "2.1 s of 3 s the process was idle. Run it under load, or watch longer.");
}

#[test]
fn too_little_seen() {
    run().cpu(10, 0.99).with(|it| it.wall_ns = 400_000_000).is(Class::Unsure, Low, LONGER);
    run().with(|it| it.processes.clear()).is(Class::Unsure, Low, LONGER);
}

#[test]
fn heavy_loss_lowers_confidence() {
    let lossy = |lost| run().cpu(10, 0.99).with(|it| it.loss = Loss { generated: 1_000, lost, ..Loss::default() });
    lossy(90).is(Class::CpuBound, High, PYCPU);
    let text = lossy(300).is(Class::CpuBound, Medium, PYCPU);
    assert!(text.ends_with("30 % of the events were lost."), "{text}");
}

#[test]
fn the_worker_with_the_trouble_is_judged() {
    let tree = run().whole(10, Cause::Child).with(|it| {
        it.threads[0].waited_ns.insert(Cause::Work, ns(1.0));
        it.threads[0].waited_ns.remove(&Cause::Child);
        let worker = ThreadId { tgid: 20, tid: 20 };
        it.threads.push(ThreadEvidence { samples: 290, ..ThreadEvidence::new(worker) });
        it.processes.push(ProcessTotals { tgid: 20, cpu_ns: ns(0.98), ..ProcessTotals::default() });
        it.samples.interpreter = 290;
        it.hot = Some(line("hot", 200, 290));
    });
    tree.is(Class::CpuBound, High, "pylow pycpu 20");
}

#[test]
fn evidence_is_printed_with_units() {
    let run = run().cpu(10, 0.71).wait(10, Cause::Gil, 0.2, 12).syscalls(4_310, 0).with(|it| {
        it.processes[0].minor_faults = 36;
        it.processes[0].runqueue_ns = ns(0.004);
        it.processes[0].rss_growth_bytes = 3 << 19;
    });
    let rows: Vec<String> = verdict(&run.0).evidence.iter().map(|it| format!("{}: {}", it.name, it.text)).collect();
    assert_eq!(
        rows,
        [
            "cpu_samples: 210   (71 % of one core)",
            "off_cpu: 12 waits, 600 ms in 1 thread",
            "syscalls: 4,310/s (read 100 %)",
            "page_faults: 12/s",
            "run queue: 0.4 % of wall",
            "memory: 100 MiB (+1.5 MiB)",
            "GIL wait: 600 ms in 1 of 1 thread",
        ]
    );
}
