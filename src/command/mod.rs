//! The commands: arguments, what to observe, how to fold it into blocks. [`COMMANDS`] is the one list: clap, help, man
//! pages, completions and the README's table come from it.

pub mod args;
mod filter;
mod kernel;
mod output;
mod python;
mod triage;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, FromArgMatches};

use crate::error::{Error, Result};
use crate::event::{Event, Process};
use crate::probe::Plan;
use crate::report::{Banner, Block, Sink};
use crate::session::{self, Consumer, Monitor, Timing};
use crate::units;
use args::{LiveArgs, Source};

/// What commands get from `cli`.
pub struct Env<'a> {
    /// Blocks go here.
    pub sink: &'a mut dyn Sink,
    /// Progress and warnings go here.
    pub monitor: &'a mut dyn Monitor,
    /// Kernel type information to use instead of the running kernel's.
    pub btf: Option<PathBuf>,
    /// No banner.
    pub quiet: bool,
}

/// Chapters of the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// First answers.
    Triage,
    /// Python code.
    Python,
    /// Kernel and hardware.
    Kernel,
}

impl Group {
    /// In the order of the help.
    pub const ALL: [Self; 3] = [Self::Triage, Self::Python, Self::Kernel];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Triage => "Start here",
            Self::Python => "Python code",
            Self::Kernel => "Kernel",
        }
    }
}

/// One command of the table.
pub struct Entry {
    /// As typed.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// (command line, what it does)
    pub examples: &'static [(&'static str, &'static str)],
    /// Chapter.
    pub group: Group,
    /// Adds its arguments.
    pub augment: fn(clap::Command) -> clap::Command,
    /// Runs it.
    pub run: fn(&ArgMatches, &mut Env<'_>) -> Result<()>,
}

/// Every command, in the order of the help.
pub static COMMANDS: &[Entry] = &[
    Entry::live::<triage::Triage>(Group::Triage),
    Entry::direct::<triage::Doctor>(Group::Triage),
    Entry::direct::<triage::Dump>(Group::Triage),
    Entry::live::<triage::CpuBound>(Group::Triage),
    Entry::live::<python::Pycpu>(Group::Python),
    Entry::live::<kernel::Flame>(Group::Kernel),
    Entry::live::<kernel::Syscall>(Group::Kernel),
];

/// A command's names and words.
pub trait Named: clap::Args + FromArgMatches {
    /// As typed.
    const NAME: &'static str;
    /// One line.
    const ABOUT: &'static str;
    /// Other names.
    const ALIASES: &'static [&'static str] = &[];
    /// (command line, what it does)
    const EXAMPLES: &'static [(&'static str, &'static str)];
}

/// A command that answers at once.
pub trait Direct: Named {
    /// Does it.
    fn run(&self, env: &mut Env<'_>) -> Result<()>;
}

/// A command that watches for a while and folds events.
pub trait Live: Named {
    /// Watches this long when no `--duration` is given; `None`: until Ctrl-C.
    const DURATION: Option<Duration>;
    /// Every event it folds has a stack, so that `--function` and `--file` can choose.
    const FILTERS: bool = true;
    /// The shared flags.
    fn live(&self) -> &LiveArgs;
    /// `Attaching <tracer> to PID`, `✓ Attached. <doing>`.
    fn banner(&self) -> Words;
    /// What to observe.
    fn plan(&self) -> Result<Plan>;
    /// What becomes of the events.
    fn fold(&self) -> Result<Box<dyn Fold>>;
}

/// The changing words of the two banner lines.
pub struct Words {
    /// `syscall counter`
    pub tracer: &'static str,
    /// `Monitoring syscall events`
    pub doing: String,
}

/// Events into blocks.
pub trait Fold {
    /// The target may be looked at; nothing is collected yet. Opens what will be written.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes one event; may emit at once.
    fn event(&mut self, event: &Event, sink: &mut dyn Sink) -> io::Result<()>;
    /// Emits what is left, after the last event.
    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()>;
}

impl Entry {
    const fn named<C: Named>(group: Group, run: fn(&ArgMatches, &mut Env<'_>) -> Result<()>) -> Self {
        let augment = C::augment_args;
        Self { name: C::NAME, about: C::ABOUT, aliases: C::ALIASES, examples: C::EXAMPLES, group, augment, run }
    }

    const fn live<C: Live>(group: Group) -> Self {
        Self::named::<C>(group, run_live::<C>)
    }

    const fn direct<C: Direct>(group: Group) -> Self {
        Self::named::<C>(group, run_direct::<C>)
    }
}

fn parse<C: Named>(matches: &ArgMatches) -> Result<C> {
    C::from_arg_matches(matches).map_err(|err| Error::usage(err.to_string()))
}

fn run_direct<C: Direct>(matches: &ArgMatches, env: &mut Env<'_>) -> Result<()> {
    parse::<C>(matches)?.run(env)
}

fn run_live<C: Live>(matches: &ArgMatches, env: &mut Env<'_>) -> Result<()> {
    let command = parse::<C>(matches)?;
    let source = command.live().source(C::DURATION)?;
    if !C::FILTERS && command.live().filter.is_set() {
        return Err(Error::usage(format!("`{}` can't filter by function or file", C::NAME))
            .because("it counts whole processes in the kernel, without looking at stacks")
            .hint("--tid narrows it to one thread"));
    }
    let fold = filter::Filtered::new(command.fold()?, &command.live().filter);
    let replay = matches!(source, Source::Replay(_));
    let mut report =
        Reporting { fold, sink: &mut *env.sink, words: command.banner(), quiet: env.quiet, replay, ends: None };
    match source {
        Source::Replay(path) => session::replay(&path, &command.plan()?.observed(), env.monitor, &mut report)?,
        Source::Live { selection, timing, record } => {
            let run = session::Run { selection, timing, plan: command.plan()?, record, btf: env.btf.clone() };
            let unrecorded = session::live(run, env.monitor, &mut report)?;
            report.fold.finish(report.sink)?;
            return unrecorded.map_or(Ok(()), Err);
        }
    }
    report.fold.finish(report.sink)
}

/// A fold and the banner around it.
struct Reporting<'a> {
    fold: filter::Filtered,
    sink: &'a mut dyn Sink,
    words: Words,
    quiet: bool,
    replay: bool,
    ends: Option<Duration>,
}

impl Reporting<'_> {
    fn banner(&mut self, text: String, done: bool) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.sink.block(Block::Banner(Banner { text, done })) }
    }
}

impl Consumer for Reporting<'_> {
    fn attaching(&mut self, processes: &[Process], timing: Timing) -> Result<()> {
        self.fold.prepare()?;
        self.ends = timing.duration;
        let (tracer, targets) = (self.words.tracer, targets(processes));
        if self.replay {
            return Ok(self.banner(format!("Replaying {tracer} of {targets}"), false)?);
        }
        let time = timing.duration.map_or(String::new(), |time| format!(" for {}", units::asked(time)));
        Ok(self.banner(format!("Attaching {tracer} to {targets}{time}..."), false)?)
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        if matches!(event, Event::Started(_)) {
            let end = match self.ends {
                _ if self.replay => None,
                Some(time) => Some(format!(" for {}...", units::asked(time))),
                None => Some("... Ctrl+C to stop.".to_owned()),
            };
            if let Some(end) = end {
                self.banner(format!("Attached. {}{end}", self.words.doing), true)?;
            }
        }
        self.fold.event(event, self.sink)
    }
}

/// `PID 4821 (python3.11, 8 threads)`, `PID 4821 (python3.11, 8 threads) and 3 more`.
fn targets(processes: &[Process]) -> String {
    let Some(first) = processes.first() else { return "no process".to_owned() };
    let threads = units::plural(first.threads.into(), "thread");
    let more = match processes.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("PID {} ({}, {threads}){more}", first.tgid, first.executable)
}
