//! Counters read twice: what /proc and the maps say a run cost.

use std::time::Instant;

use crate::event::ProcessTotals;
use crate::target::Target;
use crate::target::process::Counters;

/// First readings.
pub(super) struct Totals {
    began: Instant,
    first: Vec<(u32, Counters)>,
}

impl Totals {
    pub(super) fn start(targets: &[Target]) -> Self {
        let first =
            targets.iter().filter_map(|target| Some((target.tgid, Counters::read(target.tgid).ok()?))).collect();
        Self { began: Instant::now(), first }
    }

    /// Differences, for the processes that are still there; a child's counters begin at 0.
    pub(super) fn finish(&self, tgids: &[u32]) -> Vec<ProcessTotals> {
        let wall_ns = self.began.elapsed().as_nanos() as u64;
        let totals = tgids.iter().filter_map(|tgid| {
            // A process that ended has no counters any more; its events say that it ended.
            let now = Counters::read(*tgid).ok()?;
            let first = self.first.iter().find(|(first, _)| first == tgid);
            let first = first.map(|(_, counters)| counters.clone()).unwrap_or_default();
            Some(now.since(&first, *tgid, wall_ns))
        });
        totals.collect()
    }
}
