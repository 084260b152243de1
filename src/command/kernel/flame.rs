//! `pylow flame PID`: where time goes, as a flame graph or in another tool's format.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::aggregate::hist::Percentiles;
use crate::aggregate::stacks::{Measure, Split, StackFold};
use crate::aggregate::summary::Summary;
use crate::command::args::LiveArgs;
use crate::command::output::OutputFile;
use crate::command::{Fold, Live, Named, Words};
use crate::error::{Context, Result};
use crate::event::{Event, Started};
use crate::export::{self, Format, Page, Recording};
use crate::probe::{Function, Plan};
use crate::render::svg;
use crate::report::{Block, Line, Sink};
use crate::target::syscall;
use crate::units;

/// Arguments.
#[derive(Args)]
pub struct Flame {
    #[command(flatten)]
    live: LiveArgs,
    /// Where the result goes; the ending chooses the format: .svg, .html, .folded, .json (speedscope), .pb.gz (pprof)
    #[arg(long, short, value_name = "FILE", default_value = "flamegraph.svg")]
    output: PathBuf,
    /// Time spent waiting instead of time on the CPU (without time in the run queue)
    #[arg(long, conflicts_with = "idle")]
    off_cpu: bool,
    /// Wall-clock time: on the CPU, waiting and in the run queue together
    #[arg(long)]
    idle: bool,
    /// Native frames too: C extensions, the interpreter's callees, libc
    #[arg(long)]
    native: bool,
    /// Keep threads apart
    #[arg(long)]
    threads: bool,
    /// Samples per second and CPU
    #[arg(long, short = 'F', value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// What makes a stack be taken: cpu, faults, syscall:NAME, or uprobe:FILE:FUNCTION (uprobe:libc:malloc)
    #[arg(long, value_name = "EVENT", default_value = "cpu", conflicts_with_all = ["off_cpu", "idle"])]
    event: Trigger,
}

/// What makes a stack be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trigger {
    Cpu,
    Faults,
    Syscall(u32, String),
    Function(Function),
}

impl FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "faults" => Ok(Self::Faults),
            Some(("syscall", name)) => match syscall::number(name) {
                Some(number) => Ok(Self::Syscall(number, name.to_owned())),
                None => Err(format!("no system call `{name}` on this machine")),
            },
            Some(("uprobe", place)) => match place.rsplit_once(':') {
                Some((file, symbol)) => {
                    Ok(Self::Function(Function { file: file.to_owned(), symbol: symbol.to_owned() }))
                }
                None => Err("write uprobe:FILE:FUNCTION, like uprobe:libc:malloc".to_owned()),
            },
            _ => Err("write cpu, faults, syscall:NAME, or uprobe:FILE:FUNCTION".to_owned()),
        }
    }
}

/// A stack at every n-th page fault: a hot fault path costs a few percent, a rare one is still seen.
const FAULTS_EVERY: u32 = 1;

impl Flame {
    fn measure(&self) -> Measure {
        let period_ns = 1_000_000_000 / u64::from(self.frequency);
        match &self.event {
            Trigger::Faults => Measure::Faults,
            Trigger::Syscall(..) | Trigger::Function(..) => Measure::Calls,
            Trigger::Cpu if self.off_cpu => Measure::OffCpu,
            Trigger::Cpu if self.idle => Measure::Wall { period_ns },
            Trigger::Cpu => Measure::Cpu { period_ns },
        }
    }

    fn subject(&self) -> String {
        match &self.event {
            Trigger::Faults => "Page faults".into(),
            Trigger::Syscall(_, name) => format!("Calls of {name}"),
            Trigger::Function(function) => format!("Calls of {} in {}", function.symbol, function.file),
            Trigger::Cpu if self.off_cpu => "Off-CPU time".into(),
            Trigger::Cpu if self.idle => "Wall-clock time".into(),
            Trigger::Cpu => "On-CPU time".into(),
        }
    }
}

impl Named for Flame {
    const NAME: &'static str = "flame";
    const ABOUT: &'static str = "Draw a flame graph of on-CPU, off-CPU or wall-clock time, or export the profile";
    const ALIASES: &'static [&'static str] = &["chart"];
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow flame 4821 --duration 5", "on-CPU flame graph in flamegraph.svg"),
        ("pylow flame 4821 --off-cpu --output waits.html", "where its threads wait, as one HTML page"),
        ("pylow flame 4821 --native --output profile.pb.gz", "C frames too, for `go tool pprof` and the like"),
        ("pylow flame 4821 --event syscall:openat", "who opens files"),
        ("pylow flame 4821 --event uprobe:libcrypto:EVP_DigestUpdate", "who hashes (needs root; 1 to 2 us a call)"),
        ("pylow flame --children --name gunicorn", "a prefork server with all its workers"),
    ];
}

impl Live for Flame {
    const DURATION: Option<Duration> = Some(Duration::from_secs(10));

    fn live(&self) -> &LiveArgs {
        &self.live
    }

    fn banner(&self) -> Words {
        Words { tracer: "kernel profile sampler", doing: "Sampling".into() }
    }

    fn plan(&self) -> Result<Plan> {
        let mut plan = self.live.plan();
        plan.kernel = true;
        plan.native = self.native;
        match &self.event {
            Trigger::Cpu => {
                plan.samples = (!self.off_cpu).then_some(self.frequency);
                plan.waits = self.off_cpu || self.idle;
                plan.preemptions = self.idle;
            }
            Trigger::Faults => plan.faults_every = Some(FAULTS_EVERY),
            Trigger::Syscall(number, _) => plan.syscall_stacks = Some(*number),
            Trigger::Function(function) => plan.function = Some(function.clone()),
        }
        Ok(plan)
    }

    fn fold(&self) -> Result<Box<dyn Fold>> {
        let format = Format::of(&self.output.to_string_lossy())?;
        let split = if self.threads { Split::ByThread } else { format.split() };
        Ok(Box::new(FlameFold {
            stacks: StackFold::new(self.measure(), split),
            waits: Percentiles::new()?,
            summary: Summary::default(),
            path: self.output.clone(),
            output: None,
            format,
            subject: self.subject(),
        }))
    }
}

struct FlameFold {
    stacks: StackFold,
    /// Lengths of the waits.
    waits: Percentiles,
    summary: Summary,
    path: PathBuf,
    /// Opened before anything is collected.
    output: Option<OutputFile>,
    format: Format,
    subject: String,
}

impl Fold for FlameFold {
    fn prepare(&mut self) -> Result<()> {
        self.output = Some(OutputFile::create(&self.path)?);
        Ok(())
    }

    fn event(&mut self, event: &Event, _sink: &mut dyn Sink) -> io::Result<()> {
        self.summary.event(event);
        let measure = self.stacks.measure();
        match (event, measure) {
            (Event::Started(started), _) => self.stacks.sampled_at(started.frequency),
            (Event::Sample { at, stack, .. }, Measure::Cpu { .. }) => self.stacks.add(stack, *at, 1),
            (Event::Sample { at, stack, .. }, Measure::Wall { period_ns }) => self.stacks.add(stack, *at, period_ns),
            (Event::Wait(wait), Measure::OffCpu) => {
                self.waits.add(wait.blocked_ns);
                self.stacks.add(&wait.stack, wait.at, wait.blocked_ns);
            }
            (Event::Wait(wait), Measure::Wall { .. }) => {
                self.stacks.add(&wait.stack, wait.at, wait.blocked_ns + wait.runqueue_ns);
            }
            (Event::Fault { at, weight, stack, .. }, Measure::Faults) => self.stacks.add(stack, *at, *weight),
            (Event::Syscall { at, stack, .. } | Event::Function { at, stack }, Measure::Calls) => {
                self.stacks.add(stack, *at, 1);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        if self.stacks.is_empty() {
            let why = match self.stacks.measure() {
                Measure::Cpu { .. } => self.summary.no_samples(),
                _ => format!("No samples: {}", self.summary.nothing_seen()),
            };
            let text = format!("{why}; nothing was written");
            sink.block(Block::Line(Line { what: "no_samples", text, values: serde_json::Map::new() }))?;
        } else {
            self.write().context(|| format!("cannot write {}", self.path.display()))?;
            let what = if self.format == Format::Svg { "flame graph" } else { "profile" };
            let text = format!("✓ Saved {what} to {} ({})", self.path.display(), self.description());
            let mut values = serde_json::Map::new();
            values.insert("output".into(), json!(self.path.display().to_string()));
            values.insert("unit".into(), json!(self.stacks.measure().unit()));
            values.insert("total".into(), json!(self.stacks.total()));
            values.insert("pid".into(), json!(self.summary.pid()));
            values.insert("duration_ns".into(), json!(self.summary.wall_ns()));
            values.insert("frequency".into(), json!(self.summary.started().map_or(0, |started| started.frequency)));
            values.insert("complete_share".into(), json!(self.summary.complete_share()));
            sink.block(Block::Line(Line { what: "flame", text, values }))?;
        }
        Ok(sink.block(self.summary.note())?)
    }
}

impl FlameFold {
    /// `495 samples, 100 % of stacks complete, 0 events lost`
    fn description(&self) -> String {
        let unit = self.stacks.measure().unit();
        let lengths = match (self.waits.at(50.0), self.waits.at(99.0)) {
            (Some(median), Some(p99)) => format!(
                " in {}, median {}, p99 {}",
                units::plural(self.waits.count(), "wait"),
                units::duration(median),
                units::duration(p99)
            ),
            _ => String::new(),
        };
        format!("{} {unit}{lengths}, {}", units::count(self.stacks.total()), self.summary.quality())
    }

    fn title(&self) -> String {
        let target = self.summary.started().and_then(target_name).unwrap_or_default();
        let frequency = match self.stacks.measure() {
            Measure::Cpu { .. } | Measure::Wall { .. } => {
                self.summary.started().map(|started| format!(" at {} Hz", started.frequency)).unwrap_or_default()
            }
            _ => String::new(),
        };
        format!("{} of {target}, {}{frequency}", self.subject, units::duration(self.summary.wall_ns()))
    }

    fn write(&mut self) -> Result<()> {
        let (title, subtitle) = (self.title(), self.description());
        let flame = svg::Flame { title: &title, subtitle: &subtitle };
        let Some(mut output) = self.output.take() else { return Ok(()) };
        let mut out = BufWriter::new(&mut output.file);
        let recording = Recording {
            name: &title,
            unix_seconds: self.summary.started().map_or(0, |started| started.unix_seconds),
            duration_ns: self.summary.wall_ns(),
        };
        match self.format {
            Format::Svg => svg::write_flame(&self.stacks, &flame, &mut out)?,
            Format::Html => {
                let mut picture = Vec::new();
                svg::write_flame(&self.stacks, &flame, &mut picture)?;
                export::write_html(
                    &Page { title: &title, summary: std::slice::from_ref(&subtitle) },
                    &picture,
                    &mut out,
                )?;
            }
            Format::Folded => export::write_folded(&self.stacks, &mut out)?,
            Format::Speedscope => export::write_speedscope(&self.stacks, &recording, &mut out)?,
            Format::Pprof => export::write_pprof(&self.stacks, &recording, &mut out)?,
        }
        out.flush()?;
        drop(out);
        output.keep()
    }
}

/// `PID 4821 (python3.11)`, `PID 4821 (python3.11) and 3 more`.
fn target_name(started: &Started) -> Option<String> {
    let first = started.processes.first()?;
    let more = started.processes.len() - 1;
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!("PID {} ({}){rest}", first.tgid, first.executable))
}
