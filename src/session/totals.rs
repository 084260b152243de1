//! Counters read twice: what /proc and the maps say a run cost.

use std::time::Instant;

use crate::event::{ProcessTotals, SyscallTotals};
use crate::probe::SyscallRow;
use crate::target::{Target, process, syscall};

/// First readings.
pub(super) struct Totals {
    began: Instant,
    first: Vec<(u32, process::Usage)>,
}

impl Totals {
    pub(super) fn start(targets: &[Target]) -> Self {
        let first = targets.iter().filter_map(|target| Some((target.tgid, process::usage(target.tgid).ok()?))).collect();
        Self { began: Instant::now(), first }
    }

    /// Differences, for the processes that are still there; a child's counters begin at 0.
    pub(super) fn finish(&self, tgids: &[u32]) -> Vec<ProcessTotals> {
        let wall_ns = self.began.elapsed().as_nanos() as u64;
        let totals = tgids.iter().filter_map(|tgid| {
            let now = process::usage(*tgid).ok()?;
            let first = self.first.iter().find(|(first, _)| first == tgid).map(|(_, usage)| usage.clone()).unwrap_or_default();
            Some(ProcessTotals {
                tgid: *tgid,
                wall_ns,
                cpu_ns: now.cpu_ns.saturating_sub(first.cpu_ns),
                runqueue_ns: now.runqueue_ns.saturating_sub(first.runqueue_ns),
                minor_faults: now.minor_faults.saturating_sub(first.minor_faults),
                major_faults: now.major_faults.saturating_sub(first.major_faults),
                rss_bytes: now.rss_bytes,
                rss_growth_bytes: now.rss_bytes as i64 - first.rss_bytes as i64,
                threads: now.threads,
                read_bytes: now.read_bytes.saturating_sub(first.read_bytes),
            })
        });
        totals.collect()
    }
}

/// Rows with names, most calls first.
pub(super) fn syscalls(rows: Vec<SyscallRow>) -> Vec<SyscallTotals> {
    let mut totals: Vec<SyscallTotals> = rows
        .into_iter()
        .map(|row| SyscallTotals {
            name: syscall::name(row.number),
            entered: row.entered,
            finished: row.finished,
            errors: row.errors,
            total_ns: row.total_ns,
            max_ns: row.max_ns,
            log2_ns: row.log2_ns,
        })
        .collect();
    totals.sort_by(|a, b| b.entered.cmp(&a.entered).then_with(|| a.name.cmp(&b.name)));
    totals
}
