//! `pylow syscall PID`: counts and latencies of system calls, aggregated in the kernel.

use std::io;
use std::time::Duration;

use clap::Args;

use crate::aggregate::hist::Log2;
use crate::aggregate::summary::Summary;
use crate::aggregate::syscalls::SyscallFold;
use crate::command::args::LiveArgs;
use crate::command::{Fold, Live, Named, Words};
use crate::error::Result;
use crate::event::Event;
use crate::probe::Plan;
use crate::report::{Block, Line, Sink, Title, Unit};

/// Arguments.
#[derive(Args)]
pub struct Syscall {
    #[command(flatten)]
    live: LiveArgs,
    /// Show latency histograms of this many calls, those that took most time
    #[arg(long, value_name = "N", default_value_t = 3)]
    histograms: usize,
}

impl Named for Syscall {
    const NAME: &'static str = "syscall";
    const ABOUT: &'static str = "Count system calls and measure their latency, errors included, exactly";
    const ALIASES: &'static [&'static str] = &["system-calls"];
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow syscall 4821", "count until Ctrl-C"),
        ("pylow syscall 4821 --duration 5 --format json", "five seconds, for a program to read"),
        ("pylow syscall 4821 --tid 4830 --top 3", "the three most frequent calls of one thread"),
    ];
}

impl Live for Syscall {
    const DURATION: Option<Duration> = None;

    const FILTERS: bool = false;

    fn live(&self) -> &LiveArgs {
        &self.live
    }

    fn banner(&self) -> Words {
        Words { tracer: "syscall counter", doing: "Monitoring syscall events".into() }
    }

    fn plan(&self) -> Result<Plan> {
        Ok(Plan { syscall_totals: true, ..self.live.plan() })
    }

    fn fold(&self) -> Result<Box<dyn Fold>> {
        let (top, histograms) = (self.live.top, self.histograms);
        Ok(Box::new(Folded { top, histograms, totals: SyscallFold::default(), summary: Summary::default() }))
    }
}

struct Folded {
    top: usize,
    histograms: usize,
    totals: SyscallFold,
    summary: Summary,
}

impl Fold for Folded {
    fn event(&mut self, event: &Event, _sink: &mut dyn Sink) -> io::Result<()> {
        self.summary.event(event);
        if let Event::Syscalls { totals } = event {
            self.totals.add(totals);
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        if self.totals.entered() == 0 {
            let text = format!(
                "No system call began: {}; `pylow dump {}` shows calls that began before",
                self.summary.nothing_seen(),
                self.summary.pid()
            );
            sink.block(Block::Line(Line { what: "no_syscalls", text, values: serde_json::Map::new() }))?;
        } else {
            sink.block(Block::Counts(self.totals.counts(Title::map("@sys_counts"), self.top)))?;
        }
        let mut slowest = self.totals.sorted();
        slowest.sort_by_key(|totals| std::cmp::Reverse(totals.total_ns));
        for totals in slowest.into_iter().filter(|totals| totals.finished > 0).take(self.histograms) {
            let mut latency = Log2::default();
            latency.add_slots(&totals.log2_ns);
            sink.block(Block::Histogram(latency.histogram(Title::map(format!("@{}_ns (ns)", totals.name)), Unit::Ns)))?;
        }
        Ok(sink.block(self.summary.note())?)
    }
}
