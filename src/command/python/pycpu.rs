//! `pylow pycpu PID`: the hottest Python stacks and lines.

use std::io;
use std::time::Duration;

use clap::Args;

use crate::aggregate::lines::{LineWeight, by_line};
use crate::aggregate::stacks::{Measure, Split, StackFold};
use crate::aggregate::summary::Summary;
use crate::command::args::{DEFAULT_FREQUENCY, LiveArgs};
use crate::command::{Fold, Live, Named, Words};
use crate::error::Result;
use crate::event::Event;
use crate::probe::Plan;
use crate::report::{Align, Block, Cell, Line, Sink, Stacks, Table, Title, frame_label};
use crate::units;

/// Arguments.
#[derive(Args)]
pub struct Pycpu {
    #[command(flatten)]
    live: LiveArgs,
    /// Samples per second and CPU
    #[arg(long, short = 'F', value_name = "HZ", default_value_t = DEFAULT_FREQUENCY, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
}

impl Named for Pycpu {
    const NAME: &'static str = "pycpu";
    const ABOUT: &'static str = "Find the Python stacks and lines that burn CPU, with own and total share";
    const ALIASES: &'static [&'static str] = &["cpu"];
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow pycpu 4821", "sample until Ctrl-C"),
        ("pylow pycpu 4821 --duration 10 --top 5", "ten seconds, five hottest stacks and lines"),
        ("pylow pycpu 4821 --function handle_request", "only below one function"),
    ];
}

impl Live for Pycpu {
    const DURATION: Option<Duration> = None;

    fn live(&self) -> &LiveArgs {
        &self.live
    }

    fn banner(&self) -> Words {
        Words { tracer: "CPU hotspot sampler", doing: "Sampling CPU stacks".into() }
    }

    fn plan(&self) -> Result<Plan> {
        Ok(Plan { samples: Some(self.frequency), ..self.live.plan() })
    }

    fn fold(&self) -> Result<Box<dyn Fold>> {
        let measure = Measure::Cpu { period_ns: 1_000_000_000 / u64::from(self.frequency) };
        let stacks = StackFold::new(measure, Split::Together);
        Ok(Box::new(Folded { top: self.live.top, stacks, summary: Summary::default() }))
    }
}

struct Folded {
    top: usize,
    stacks: StackFold,
    summary: Summary,
}

impl Fold for Folded {
    fn event(&mut self, event: &Event, _sink: &mut dyn Sink) -> io::Result<()> {
        self.summary.event(event);
        if let Event::Started(started) = event {
            self.stacks.sampled_at(started.frequency);
        }
        if let Event::Sample { at, stack, .. } = event {
            self.stacks.add(stack, *at, 1);
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        if self.stacks.is_empty() {
            let text = self.summary.no_samples();
            sink.block(Block::Line(Line { what: "no_samples", text, values: serde_json::Map::new() }))?;
        } else {
            let (rows, hidden) = self.stacks.top(self.top);
            let (title, unit, total) = (Title::map("@stacks"), self.stacks.measure().unit(), self.stacks.total());
            sink.block(Block::Stacks(Stacks { title, unit, total, rows, hidden }))?;
            sink.block(Block::Table(lines(&by_line(&self.stacks), total, self.top)))?;
        }
        Ok(sink.block(self.summary.note())?)
    }
}

/// Own and total share of each line, hottest first.
fn lines(lines: &[LineWeight], total: u64, top: usize) -> Table {
    let share = |weight: u64| Cell { text: units::share(weight, total), value: (weight as f64 / total as f64).into() };
    let rows = lines.iter().take(top).map(|line| {
        let label = frame_label(&line.frame);
        vec![share(line.own), share(line.total), Cell { text: label.clone(), value: label.into() }]
    });
    let columns = [("own", Align::Right), ("total", Align::Right), ("line", Align::Left)];
    Table {
        title: Title::section("HOT LINES"),
        columns: columns.map(|(name, align)| (name.to_owned(), align)).to_vec(),
        rows: rows.collect(),
        hidden: lines.len().saturating_sub(top),
    }
}
