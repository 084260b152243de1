//! What every report says of its run: of whom, how long, how whole.

use super::completeness::Completeness;
use crate::event::{EndReason, Ended, Event, Started};
use crate::report::{Block, Note};
use crate::units;

/// Follows a stream from its first to its last event.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    started: Option<Started>,
    ended: Option<Ended>,
    last_ns: u64,
    cpu_ns: u64,
    completeness: Completeness,
}

impl Summary {
    /// Takes one event.
    pub fn event(&mut self, event: &Event) {
        if let Some(stack) = event.stack() {
            self.completeness.add(stack);
        }
        match event {
            Event::Started(started) => self.started = Some(started.clone()),
            Event::Ended(ended) => self.ended = Some(ended.clone()),
            Event::Totals(totals) => self.cpu_ns += totals.cpu_ns,
            _ => {}
        }
        if let Some(at) = event.at() {
            self.last_ns = self.last_ns.max(at.ktime_ns);
        }
    }

    /// The first event.
    pub fn started(&self) -> Option<&Started> {
        self.started.as_ref()
    }

    /// The target's process id; 0 for a stream without a start.
    pub fn pid(&self) -> u32 {
        self.started.as_ref().and_then(|started| started.processes.first()).map_or(0, |process| process.tgid)
    }

    /// Length of the run; up to the last event when the stream was cut.
    pub fn wall_ns(&self) -> u64 {
        let end = self.ended.as_ref().map_or(self.last_ns, |ended| ended.ktime_ns);
        end.saturating_sub(self.started.as_ref().map_or(end, |started| started.ktime_ns))
    }

    /// Nanoseconds of CPU time one on-CPU sample stands for.
    pub fn period_ns(&self) -> u64 {
        self.started
            .as_ref()
            .filter(|started| started.frequency > 0)
            .map_or(0, |started| 1_000_000_000 / u64::from(started.frequency))
    }

    /// `100 % of stacks complete, 0 events lost`
    pub fn quality(&self) -> String {
        let lost = self.ended.as_ref().map_or(0, |ended| ended.loss.lost);
        let whole = units::share(self.completeness.complete(), self.completeness.stacks());
        format!("{whole} of stacks complete, {} lost", units::plural(lost, "event"))
    }

    /// Part of the stacks that is whole, 0 to 1; 1 when none was taken.
    pub fn complete_share(&self) -> f64 {
        match self.completeness.stacks() {
            0 => 1.0,
            stacks => self.completeness.complete() as f64 / stacks as f64,
        }
    }

    /// Why there are no on-CPU samples.
    pub fn no_samples(&self) -> String {
        let period = units::duration(self.period_ns());
        match self.cpu_ns {
            0 => format!("No samples: {}, it did not run on a CPU", self.nothing_seen()),
            ns => format!(
                "No samples: it ran for {} in {}, and a sample is taken every {period}; watch longer or sample more often",
                units::duration(ns),
                units::duration(self.wall_ns())
            ),
        }
    }

    /// Why there is nothing to show.
    pub fn nothing_seen(&self) -> String {
        let wall = units::duration(self.wall_ns());
        match self.ended.as_ref().map(|ended| ended.reason) {
            Some(EndReason::TargetExited) => format!("the process ended after {wall} without an event"),
            Some(EndReason::TargetExeced) => {
                format!("the process became another program after {wall} without an event")
            }
            _ => format!("no event in {wall}"),
        }
    }

    /// The last line of a report: how the run ended if not as asked, and what did not arrive. Text is empty when there is
    /// nothing to say; the counters are always there, for JSON.
    pub fn note(&self) -> Block {
        let loss = self.ended.as_ref().map(|ended| ended.loss);
        let mut said = Vec::new();
        let wall = units::duration(self.wall_ns());
        match self.ended.as_ref().map(|ended| ended.reason) {
            Some(EndReason::TargetExited) => {
                said.push(format!("the process ended after {wall}: this is what was seen until then"))
            }
            Some(EndReason::TargetExeced) => {
                said.push(format!("the process became another program after {wall}: this is what was seen until then"));
            }
            Some(EndReason::Duration | EndReason::Interrupted) => {}
            None => said.push("the record stops before the end of its run".to_owned()),
        }
        said.extend(self.completeness.note(loss.as_ref()).map(|note| note.text));
        Block::Note(Note { text: said.join("; "), loss })
    }
}
