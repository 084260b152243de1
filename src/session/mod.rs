//! One run: targets selected, probes attached, records turned into events, until time is over, Ctrl-C, or nobody is left.
//! Replay is the same stream out of a file.

mod assemble;
mod follow;
mod replay;
mod select;
mod signals;
mod totals;
mod waits;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, bounded, never, select, tick};

use crate::error::{Context, Error, Result};
use crate::event::record::Writer;
use crate::event::{EndReason, Ended, Event, Loss, Process, Started};
use crate::probe::{self, Links, Plan, Probe, Record, Slots};
use crate::target::function::{self, FunctionSite};
use crate::target::{Target, clock, process};

use assemble::Assembler;
use follow::{Follower, Seen};
pub use replay::replay;
use select::Selected;

/// Which process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// By id.
    Pid(u32),
    /// Python processes by name of executable or script.
    Name(String),
    /// The process that listens on this TCP port.
    Port(u16),
    /// Python processes of a cgroup.
    Cgroup(String),
    /// Start this one.
    Command(Vec<OsString>),
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// After this time; `None`: at Ctrl-C or when the target ends.
    pub duration: Option<Duration>,
}

/// A run on a live process.
#[derive(Debug)]
pub struct Run {
    /// Of whom.
    pub selection: Selection,
    /// How long.
    pub timing: Timing,
    /// What to observe.
    pub plan: Plan,
    /// Events also go here.
    pub record: Option<PathBuf>,
    /// Kernel type information to use instead of the running kernel's.
    pub btf: Option<PathBuf>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Since the probes were attached.
    pub elapsed: Duration,
    /// How long it will take.
    pub total: Option<Duration>,
    /// Events so far.
    pub events: u64,
}

/// Hears of progress and of trouble that does not end the run.
pub trait Monitor {
    /// Called a few times per second.
    fn progress(&mut self, status: &Status);
    /// The run is over; whatever was shown may go.
    fn done(&mut self);
    /// Something the reader of the report should know.
    fn warn(&mut self, text: &str);
}

/// Takes what a run produces.
pub trait Consumer {
    /// The targets are known; attaching begins now.
    fn attaching(&mut self, processes: &[Process], timing: Timing) -> Result<()>;
    /// One event.
    fn event(&mut self, event: &Event) -> io::Result<()>;
}

/// How often progress is shown and lost targets are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Batches of records between the ring's reader and the assembler.
const QUEUE: usize = 256;

/// The processes a selection names, each opened or with the reason why not.
pub fn targets(selection: &Selection) -> Result<Vec<Result<Target>>> {
    select::open_each(selection)
}

/// Runs live. What comes back is why the record is not whole, if it is not: the report is.
pub fn live(run: Run, monitor: &mut dyn Monitor, consumer: &mut dyn Consumer) -> Result<Option<Error>> {
    let interrupts = signals::interrupts()?;
    let mut selected = select::select(&run.selection)?;
    if run.plan.children {
        selected.add_descendants(monitor)?;
    }
    let processes: Vec<Process> = selected.targets.iter().map(|target| target.process.clone()).collect();
    check_tid(&run.plan, selected.running())?;
    let sites = sites(&run.plan, selected.running())?;
    let recorder = run.record.as_deref().map(Recorder::create).transpose()?;
    consumer.attaching(&processes, run.timing)?;
    let mut slots = Slots::default();
    let probe = Probe::load(&run.plan, &mut slots, run.btf.as_deref())?;
    for target in &selected.targets {
        probe.follow(target.tgid, target.layout.as_deref())?;
    }
    let totals = totals::Totals::start(selected.running());
    let links = probe.attach(&sites)?;
    let mut out = Output { consumer, recorder, unrecorded: None, events: 0 };
    let started = started(processes, &run.plan)?;
    selected.release()?;
    out.event(&Event::Started(started.clone()))?;
    let mut assembler = Assembler::new(&run.plan, &selected.targets, started.ktime_ns)?;
    if selected.command().is_some() {
        assembler.expect_exec(&selected.targets[0]);
    }
    if run.plan.waits {
        assembler.note_blocked(&probe, selected.running(), started.ktime_ns, monitor)?;
    }
    let reason = collect(&run, &probe, links, &mut assembler, &mut selected, &interrupts, monitor, &mut out);
    monitor.done();
    let reason = reason?;
    assembler.warn(monitor);
    assembler.finish(clock::monotonic_ns(), &mut |event| out.event(&event))?;
    let syscalls = probe.syscalls()?;
    if !syscalls.is_empty() {
        out.event(&Event::Syscalls { totals: syscalls })?;
    }
    for total in totals.finish(&assembler.tgids()) {
        out.event(&Event::Totals(total))?;
    }
    let loss = Loss { native_lost: assembler.native_missing(), ..probe.loss()? };
    out.event(&Event::Ended(Ended { ktime_ns: clock::monotonic_ns(), reason, loss }))?;
    let unrecorded = out.close();
    if let Some(command) = selected.command() {
        assembler.require_python(&command, run.plan.children)?;
    }
    Ok(unrecorded)
}

/// The loop of a run: from the first event until every record that was made is taken in.
#[allow(clippy::too_many_arguments)]
fn collect(
    run: &Run,
    probe: &Probe<'_>,
    mut links: Links,
    assembler: &mut Assembler,
    selected: &mut Selected,
    interrupts: &Receiver<()>,
    monitor: &mut dyn Monitor,
    out: &mut Output<'_>,
) -> Result<EndReason> {
    let began = Instant::now();
    let (sender, batches) = bounded::<Vec<Record>>(QUEUE);
    let deadline = run.timing.duration.map_or_else(never, crossbeam_channel::after);
    let ticks = tick(TICK);
    let reader = probe.reader()?;
    let follower = Follower::start();
    assembler.look_at_unknown(&follower);
    std::thread::scope(|scope| {
        let stop = reader.stopper();
        let reading = scope.spawn(move || reader.read(&sender));
        let mut collected = (|| {
            loop {
                select! {
                    recv(batches) -> batch => match batch {
                        Ok(batch) => assembler.take(batch, probe, &follower, &mut |event| out.event(&event))?,
                        Err(_) => return Err(Error::failed("the reader of the ring stopped")),
                    },
                    recv(follower.results()) -> found => if let Ok(found) = found {
                        if let (Seen::Python(target), Some(_)) = (&found.seen, selected.command()) {
                            attach_late(&run.plan, probe, target, &mut links, monitor);
                        }
                        assembler.found(found, probe, monitor, &mut |event| out.event(&event))?;
                    },
                    recv(interrupts) -> _ => return Ok(EndReason::Interrupted),
                    recv(deadline) -> _ => return Ok(EndReason::Duration),
                    recv(ticks) -> _ => {
                        monitor.progress(&Status { elapsed: began.elapsed(), total: run.timing.duration, events: out.events });
                        selected.reap();
                        assembler.drop_vanished(&mut |event| out.event(&event))?;
                    }
                }
                if let Some(reason) = assembler.over() {
                    return Ok(reason);
                }
            }
        })();
        drop(links);
        stop.stop();
        // The reader ends after its last look into the ring and so closes the channel.
        for batch in &batches {
            if collected.is_ok()
                && let Err(err) = assembler.take(batch, probe, &follower, &mut |event| out.event(&event))
            {
                collected = Err(err);
            }
        }
        selected.reap();
        for found in follower.finish() {
            assembler.note_python(&found);
        }
        let read = reading.join().map_err(|_| Error::failed("the reader of the ring panicked"))?;
        collected.and_then(|reason| read.map(|()| reason))
    })
}

/// A thread that none of the targets has would show nothing, and look like idleness.
fn check_tid(plan: &Plan, targets: &[Target]) -> Result<()> {
    let Some(tid) = plan.tid else { return Ok(()) };
    for target in targets {
        if process::threads(target.tgid)?.contains(&tid) {
            return Ok(());
        }
    }
    Err(Error::usage(format!("the target has no thread {tid}")).hint("`pylow dump PID` lists its threads"))
}

/// Where the plan's function lies in each target.
fn sites(plan: &Plan, targets: &[Target]) -> Result<Vec<FunctionSite>> {
    let Some(wanted) = &plan.function else { return Ok(Vec::new()) };
    targets.iter().map(|target| function::find(target.tgid, &wanted.file, &wanted.symbol)).collect()
}

/// The plan's function in a command that became Python just now. Not in what it forks: no more is followed there of one
/// that ran already.
fn attach_late(plan: &Plan, probe: &Probe<'_>, target: &Target, links: &mut Links, monitor: &mut dyn Monitor) {
    let Some(wanted) = &plan.function else { return };
    if links.has_functions() {
        return;
    }
    let site = function::find(target.tgid, &wanted.file, &wanted.symbol);
    if let Err(err) = site.and_then(|site| probe.attach_function(&site, links)) {
        monitor.warn(&format!("calls in process {} are not seen: {}", target.tgid, err.message()));
    }
}

fn started(processes: Vec<Process>, plan: &Plan) -> Result<Started> {
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Started {
        ktime_ns: clock::monotonic_ns(),
        unix_seconds,
        processes,
        frequency: plan.samples.unwrap_or(0),
        cpus: probe::online_cpus()?.len() as u32,
        observed: plan.observed(),
    })
}

/// Where events are recorded.
struct Recorder {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
}

impl Recorder {
    fn create(path: &Path) -> Result<Self> {
        let cannot = || cannot_record(path);
        let file = File::create(path).context(cannot)?;
        Ok(Self { path: path.to_owned(), writer: Writer::new(BufWriter::new(file)).context(cannot)? })
    }
}

fn cannot_record(path: &Path) -> String {
    format!("cannot write the record {}", path.display())
}

/// Where events go: to the command, and to the record. A record that can't be written ends, the report goes on.
struct Output<'a> {
    consumer: &'a mut dyn Consumer,
    recorder: Option<Recorder>,
    unrecorded: Option<Error>,
    events: u64,
}

impl Output<'_> {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.events += 1;
        if let Some(recorder) = &mut self.recorder
            && let Err(err) = recorder.writer.event(event).context(|| cannot_record(&recorder.path))
        {
            self.unrecorded = Some(err);
            self.recorder = None;
        }
        Ok(self.consumer.event(event)?)
    }

    /// Why the record is not whole.
    fn close(self) -> Option<Error> {
        let Some(Recorder { path, writer }) = self.recorder else { return self.unrecorded };
        writer.finish().context(|| cannot_record(&path)).err()
    }
}
