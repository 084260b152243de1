//! Totals of system calls, added up over processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::hist::Log2;
use crate::event::SyscallTotals;
use crate::report::{CountRow, Counts, Title};
use crate::units;

/// Totals by call.
#[derive(Clone, Debug, Default)]
pub struct SyscallFold {
    by_name: BTreeMap<Arc<str>, SyscallTotals>,
}

impl SyscallFold {
    /// Adds totals to what is there.
    pub fn add(&mut self, totals: &[SyscallTotals]) {
        for new in totals {
            match self.by_name.get_mut(&new.name) {
                Some(sum) => merge(sum, new),
                None => {
                    self.by_name.insert(Arc::clone(&new.name), new.clone());
                }
            }
        }
    }

    /// Most entered first, equal ones by name.
    pub fn sorted(&self) -> Vec<&SyscallTotals> {
        let mut totals: Vec<_> = self.by_name.values().collect();
        totals.sort_by(|a, b| b.entered.cmp(&a.entered).then_with(|| a.name.cmp(&b.name)));
        totals
    }

    /// Calls entered, of all kinds.
    pub fn entered(&self) -> u64 {
        self.by_name.values().map(|it| it.entered).sum()
    }

    /// Calls that failed, of all kinds.
    pub fn errors(&self) -> u64 {
        self.by_name.values().map(|it| it.errors).sum()
    }

    /// Durations of all finished calls.
    pub fn latencies(&self) -> Log2 {
        let mut log2 = Log2::default();
        self.by_name.values().for_each(|it| log2.add_slots(&it.log2_ns));
        log2
    }

    /// `sys_enter_read: 231   12 errors, mean 4.2 us, max 1.3 ms`, the `top` most entered.
    pub fn counts(&self, title: Title, top: usize) -> Counts {
        let sorted = self.sorted();
        Counts {
            title,
            rows: sorted.iter().take(top).map(|totals| row(totals)).collect(),
            hidden: sorted.len().saturating_sub(top),
        }
    }
}

fn merge(sum: &mut SyscallTotals, new: &SyscallTotals) {
    sum.entered += new.entered;
    sum.finished += new.finished;
    sum.errors += new.errors;
    sum.total_ns += new.total_ns;
    sum.max_ns = sum.max_ns.max(new.max_ns);
    if sum.log2_ns.len() < new.log2_ns.len() {
        sum.log2_ns.resize(new.log2_ns.len(), 0);
    }
    for (slot, count) in sum.log2_ns.iter_mut().zip(&new.log2_ns) {
        *slot += count;
    }
}

fn row(totals: &SyscallTotals) -> CountRow {
    let mut said = Vec::new();
    if totals.errors > 0 {
        said.push(units::plural(totals.errors, "error"));
    }
    if let Some(mean) = totals.total_ns.checked_div(totals.finished) {
        said.push(format!("mean {}, max {}", units::duration(mean), units::duration(totals.max_ns)));
    }
    let values = [
        ("errors", json!(totals.errors)),
        ("finished", json!(totals.finished)),
        ("total_ns", json!(totals.total_ns)),
        ("max_ns", json!(totals.max_ns)),
    ];
    CountRow {
        name: format!("sys_enter_{}", totals.name),
        count: totals.entered,
        remark: said.join(", "),
        values: values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(name: &str, entered: u64, errors: u64) -> SyscallTotals {
        SyscallTotals {
            name: name.into(),
            entered,
            finished: entered,
            errors,
            total_ns: entered * 4_200,
            max_ns: 9_000 * entered,
            log2_ns: vec![0, entered],
        }
    }

    #[test]
    fn totals_of_processes_add_up() {
        let mut fold = SyscallFold::default();
        fold.add(&[totals("read", 10, 2), totals("write", 40, 0)]);
        fold.add(&[totals("read", 30, 0)]);
        let counts = fold.counts(Title::map("@sys_counts"), 1);
        assert_eq!(counts.rows[0].name, "sys_enter_read");
        assert_eq!(counts.rows[0].remark, "2 errors, mean 4.2 us, max 270 us");
        assert_eq!((counts.rows[0].count, counts.hidden), (40, 1));
        assert_eq!((fold.entered(), fold.errors(), fold.latencies().count()), (80, 2, 80));
    }

    #[test]
    fn a_call_that_never_returned_has_no_mean() {
        let mut fold = SyscallFold::default();
        fold.add(&[SyscallTotals { finished: 0, total_ns: 0, ..totals("futex", 1, 0) }]);
        assert_eq!(fold.counts(Title::map("@x"), 9).rows[0].remark, "");
    }
}
