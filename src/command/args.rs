//! Flags that several commands share, each spelled once.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::error::{Error, Result};
use crate::probe::Plan;
use crate::session::{Selection, Timing};
use crate::units;

/// Which process.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "target", multiple = false)]
pub struct TargetArgs {
    /// Process id
    #[arg(value_name = "PID", value_parser = parse_pid, allow_negative_numbers = true)]
    pid: Option<u32>,
    /// Python processes whose executable or script has this name
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    name: Option<String>,
    /// The process that listens on this TCP port
    #[arg(long, value_name = "PORT", help_heading = "Target")]
    port: Option<u16>,
    /// Python processes of this cgroup (path below /sys/fs/cgroup)
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    cgroup: Option<String>,
    /// Start this command and look at it from its first line
    #[arg(last = true, value_name = "COMMAND", help_heading = "Target")]
    command: Vec<OsString>,
}

impl TargetArgs {
    /// What was asked for; `None` when nothing was.
    pub fn selection(&self) -> Option<Selection> {
        if let Some(pid) = self.pid {
            return Some(Selection::Pid(pid));
        }
        if let Some(name) = &self.name {
            return Some(Selection::Name(name.clone()));
        }
        if let Some(port) = self.port {
            return Some(Selection::Port(port));
        }
        if let Some(cgroup) = &self.cgroup {
            return Some(Selection::Cgroup(cgroup.clone()));
        }
        (!self.command.is_empty()).then(|| Selection::Command(self.command.clone()))
    }

    /// What was asked for, or an error that lists the ways to ask.
    pub fn required(&self) -> Result<Selection> {
        self.selection().ok_or_else(|| {
            Error::usage("no process given")
                .because("give a PID, --name NAME, --port PORT, --cgroup PATH, or a command after `--`")
                .hint("`pylow doctor` lists the Python processes of this machine")
        })
    }
}

/// Flags of every command that watches a process for a while.
#[derive(Args, Clone, Debug)]
pub struct LiveArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How long to watch: 5, 2.5s, 500ms, 2m
    #[arg(long, short, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    duration: Option<Duration>,
    /// Follow forked and started processes too (prefork servers, multiprocessing)
    #[arg(long)]
    pub children: bool,
    /// Only this thread (id as `ps -L` shows it)
    #[arg(long, value_name = "TID", help_heading = "Filters")]
    pub tid: Option<u32>,
    /// Which stacks.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = parse_top)]
    pub top: usize,
    /// Also write the events to this file, for --replay
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Run on recorded events instead of a live process; needs no rights
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "duration", "children", "tid"])]
    replay: Option<PathBuf>,
}

impl LiveArgs {
    /// A plan with what the shared flags say.
    pub fn plan(&self) -> Plan {
        Plan { children: self.children, tid: self.tid, ..Plan::default() }
    }

    /// Where events come from. `default` is the duration when none was given; `None` means until Ctrl-C.
    pub fn source(&self, default: Option<Duration>) -> Result<Source> {
        if let Some(path) = &self.replay {
            return Ok(Source::Replay(path.clone()));
        }
        let selection = self.target.required()?;
        let ends_by_itself = matches!(selection, Selection::Command(_));
        let duration = self.duration.or(if ends_by_itself { None } else { default });
        Ok(Source::Live { selection, timing: Timing { duration }, record: self.record.clone() })
    }
}

/// On-CPU samples per second: enough for shares within a point in ten seconds, too few to disturb; and no divisor of the
/// usual timer frequencies, so that it does not run in step with periodic work.
pub const DEFAULT_FREQUENCY: u32 = 99;

/// Where a command's events come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A running process.
    Live {
        /// Which.
        selection: Selection,
        /// How long.
        timing: Timing,
        /// Events also go here.
        record: Option<PathBuf>,
    },
    /// A file written by `--record`.
    Replay(PathBuf),
}

/// Keep only stacks that pass through a place.
#[derive(Args, Clone, Debug, Default)]
pub struct FilterArgs {
    /// Only stacks through a function of this name (plain or qualified)
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub function: Option<String>,
    /// Only stacks through a file whose path ends like this
    #[arg(long, value_name = "PATH", help_heading = "Filters")]
    pub file: Option<String>,
}

impl FilterArgs {
    /// Something is to be left out.
    pub fn is_set(&self) -> bool {
        self.function.is_some() || self.file.is_some()
    }
}

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object per line, each with a `schema`
    Json,
}

fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a process id; for a name use --name"))
}

fn parse_top(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| format!("`{text}` is not a number of rows from 1 on"))
}

/// A duration as people write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| format!("`{text}` is not a time; write 5, 2.5s, 500ms or 2m"))
}
