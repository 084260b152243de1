//! `pylow triage PID`: one verdict, the line, how sure, what next.

use std::io;
use std::time::Duration;

use clap::Args;

use crate::aggregate::evidence::EvidenceFold;
use crate::aggregate::summary::Summary;
use crate::aggregate::verdict::verdict;
use crate::command::args::LiveArgs;
use crate::command::{Fold, Live, Named, Words};
use crate::error::Result;
use crate::event::Event;
use crate::probe::Plan;
use crate::report::{Block, Sink};

/// Arguments.
#[derive(Args)]
pub struct Triage {
    #[command(flatten)]
    live: LiveArgs,
}

/// On-CPU samples per second: 3 seconds give about 600 of a busy thread, enough to name its line.
const FREQUENCY: u32 = 199;

impl Named for Triage {
    const NAME: &'static str = "triage";
    const ABOUT: &'static str = "Say in 3 seconds what is wrong, where, how sure, and what to run next";
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow triage 4821", "the first command to run"),
        ("pylow triage --port 8000", "the server on port 8000 and its workers"),
        ("pylow triage 4821 --duration 30", "longer, when the load comes and goes"),
    ];
}

impl Live for Triage {
    const DURATION: Option<Duration> = Some(Duration::from_secs(3));

    const FILTERS: bool = false;

    fn live(&self) -> &LiveArgs {
        &self.live
    }

    fn banner(&self) -> Words {
        Words { tracer: "triage", doing: "Watching CPU, waits, system calls and faults".into() }
    }

    fn plan(&self) -> Result<Plan> {
        // A server is its workers: what is slow may not be in the process that was named.
        let whole = Plan { children: true, ..self.live.plan() };
        Ok(Plan { samples: Some(FREQUENCY), waits: true, syscall_totals: true, ..whole })
    }

    fn fold(&self) -> Result<Box<dyn Fold>> {
        Ok(Box::new(Folded { evidence: EvidenceFold::default(), summary: Summary::default() }))
    }
}

struct Folded {
    evidence: EvidenceFold,
    summary: Summary,
}

impl Fold for Folded {
    fn event(&mut self, event: &Event, _sink: &mut dyn Sink) -> io::Result<()> {
        self.summary.event(event);
        self.evidence.event(event);
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let evidence = std::mem::take(&mut self.evidence).finish();
        sink.block(Block::Verdict(verdict(&evidence)))?;
        Ok(sink.block(self.summary.note())?)
    }
}
