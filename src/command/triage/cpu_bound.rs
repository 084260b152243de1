//! `pylow cpu-bound PID`: what the CPU time is spent on, and which functions spend it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::aggregate::lines::by_function;
use crate::aggregate::stacks::{Measure, Split, StackFold};
use crate::aggregate::summary::Summary;
use crate::command::args::LiveArgs;
use crate::command::{Fold, Live, Named, Words};
use crate::error::Result;
use crate::event::{CodeClass, Event};
use crate::probe::Plan;
use crate::report::{Align, Block, Cell, Line, Sink, Stacks, Table, Title, frame_label};
use crate::units;

/// Arguments.
#[derive(Args)]
pub struct CpuBound {
    #[command(flatten)]
    live: LiveArgs,
}

/// The playbook's frequency: functions over 10 ms need it.
const FREQUENCY: u32 = 999;
/// Stacks shown.
const STACKS: usize = 3;
/// Functions with less own CPU time than this are not listed.
const LEAST_NS: u64 = 10_000_000;

impl Named for CpuBound {
    const NAME: &'static str = "cpu-bound";
    const ABOUT: &'static str = "Split CPU time into Python, native, kernel and GC; list the functions that burn it";
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow cpu-bound 4821", "ten seconds: three hottest stacks, the split, functions over 10 ms"),
        ("pylow cpu-bound 4821 --children --duration 30", "a prefork server with its workers"),
    ];
}

impl Live for CpuBound {
    const DURATION: Option<Duration> = Some(Duration::from_secs(10));

    fn live(&self) -> &LiveArgs {
        &self.live
    }

    fn banner(&self) -> Words {
        Words { tracer: "CPU sampler", doing: "Sampling CPU stacks".into() }
    }

    fn plan(&self) -> Result<Plan> {
        Ok(Plan { samples: Some(FREQUENCY), kernel: true, ..self.live.plan() })
    }

    fn fold(&self) -> Result<Box<dyn Fold>> {
        let measure = Measure::Cpu { period_ns: 1_000_000_000 / u64::from(FREQUENCY) };
        let stacks = StackFold::new(measure, Split::Together);
        Ok(Box::new(Folded { top: self.live.top, stacks, parts: BTreeMap::new(), summary: Summary::default() }))
    }
}

struct Folded {
    top: usize,
    stacks: StackFold,
    /// Samples by kind of code and module.
    parts: BTreeMap<(u8, Option<Arc<str>>), u64>,
    summary: Summary,
}

/// Kinds in the order of the report.
const KINDS: [(CodeClass, &str); 4] = [
    (CodeClass::Interpreter, "Python"),
    (CodeClass::Native, "native"),
    (CodeClass::Kernel, "kernel"),
    (CodeClass::GarbageCollector, "GC"),
];

impl Fold for Folded {
    fn event(&mut self, event: &Event, _sink: &mut dyn Sink) -> io::Result<()> {
        self.summary.event(event);
        if let Event::Started(started) = event {
            self.stacks.sampled_at(started.frequency);
        }
        if let Event::Sample { at, stack, class, module } = event {
            self.stacks.add(stack, *at, 1);
            let kind = KINDS.iter().position(|(known, _)| known == class).unwrap_or(0) as u8;
            *self.parts.entry((kind, module.clone())).or_default() += 1;
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        if self.stacks.is_empty() {
            let text = self.summary.no_samples();
            sink.block(Block::Line(Line { what: "no_samples", text, values: serde_json::Map::new() }))?;
            return Ok(sink.block(self.summary.note())?);
        }
        let total = self.stacks.total();
        let (rows, hidden) = self.stacks.top(STACKS);
        let unit = self.stacks.measure().unit();
        sink.block(Block::Stacks(Stacks { title: Title::section("TOP STACKS"), unit, total, rows, hidden }))?;
        sink.block(Block::Table(self.split(total)))?;
        sink.block(Block::Table(self.functions()))?;
        Ok(sink.block(self.summary.note())?)
    }
}

impl Folded {
    fn cpu_time(&self, samples: u64) -> u64 {
        samples * self.summary.period_ns()
    }

    fn split(&self, total: u64) -> Table {
        let mut rows = Vec::new();
        for (index, (_, kind)) in KINDS.iter().enumerate() {
            let of_kind = self.parts.iter().filter(|((part, _), _)| usize::from(*part) == index);
            let samples: u64 = of_kind.clone().map(|(_, samples)| samples).sum();
            let mut modules: Vec<_> =
                of_kind.filter_map(|((_, module), samples)| Some((module.as_ref()?, *samples))).collect();
            modules.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
            let modules: Vec<String> = modules
                .iter()
                .take(self.top)
                .map(|(module, samples)| format!("{module} {}", units::share(*samples, total)))
                .collect();
            let share = samples as f64 / total as f64;
            rows.push(vec![
                Cell { text: (*kind).to_owned(), value: (*kind).into() },
                Cell { text: units::share(samples, total), value: share.into() },
                Cell { text: units::duration(self.cpu_time(samples)), value: self.cpu_time(samples).into() },
                Cell { text: modules.join(", "), value: modules.into() },
            ]);
        }
        table(
            "CPU TIME (sampled)",
            &[("code", Align::Left), ("share", Align::Right), ("time", Align::Right), ("where", Align::Left)],
            rows,
            0,
        )
    }

    fn functions(&self) -> Table {
        let functions: Vec<_> =
            by_function(&self.stacks).into_iter().filter(|function| self.cpu_time(function.own) >= LEAST_NS).collect();
        let time =
            |samples| Cell { text: units::duration(self.cpu_time(samples)), value: self.cpu_time(samples).into() };
        let hidden = functions.len().saturating_sub(self.top);
        let rows = functions.iter().take(self.top).map(|function| {
            let label = frame_label(&function.frame);
            vec![time(function.own), time(function.total), Cell { text: label.clone(), value: label.into() }]
        });
        let columns = [("own", Align::Right), ("total", Align::Right), ("function", Align::Left)];
        table("FUNCTIONS OVER 10 ms OF CPU TIME (sampled)", &columns, rows.collect(), hidden)
    }
}

fn table(title: &str, columns: &[(&str, Align)], rows: Vec<Vec<Cell>>, hidden: usize) -> Table {
    let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
    Table { title: Title::section(title), columns, rows, hidden }
}
