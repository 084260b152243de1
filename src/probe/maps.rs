//! Maps read (and once written) as a whole.

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::abi::{self, outcome, syscall_stats, wait_slot};
use crate::error::{Error, Result};
use crate::event::Loss;

/// Totals of one system call number over all CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyscallRow {
    /// Its number.
    pub number: u32,
    /// Calls entered.
    pub entered: u64,
    /// Calls returned whose start was seen.
    pub finished: u64,
    /// Of them: with an error.
    pub errors: u64,
    /// Time in finished calls, ns.
    pub total_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
    /// Finished calls by floor(log2(ns)).
    pub log2_ns: Vec<u64>,
}

fn read_percpu(map: &MapHandle, key: u32) -> Result<Vec<Vec<u8>>> {
    map.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY)
        .map_err(|err| Error::failed(format!("cannot read a map: {err}")))?
        .ok_or_else(|| Error::failed(format!("a map has no element {key}")))
}

/// Fills the kernel's part of `loss`.
pub(super) fn read_outcomes(outcomes: &MapHandle, loss: &mut Loss) -> Result<()> {
    let fields: [(outcome, &mut u64); 6] = [
        (outcome::OUTCOME_GENERATED, &mut loss.generated),
        (outcome::OUTCOME_LOST, &mut loss.lost),
        (outcome::OUTCOME_NATIVE_LOST, &mut loss.native_lost),
        (outcome::OUTCOME_PROCESS_LOST, &mut loss.process_lost),
        (outcome::OUTCOME_COLLIDED, &mut loss.collided),
        (outcome::OUTCOME_NS, &mut loss.probe_ns),
    ];
    for (which, field) in fields {
        for cpu in read_percpu(outcomes, which.0)? {
            *field += u64::from_ne_bytes(cpu.try_into().map_err(|_| Error::failed("a counter is not 8 bytes"))?);
        }
    }
    Ok(())
}

/// Every system call that was made.
pub(super) fn read_syscalls(syscalls: &MapHandle) -> Result<Vec<SyscallRow>> {
    let mut rows = Vec::new();
    for number in 0..syscalls.max_entries() {
        let mut row = SyscallRow { number, ..SyscallRow::default() };
        for cpu in read_percpu(syscalls, number)? {
            let stats: syscall_stats = abi::read(&cpu)?;
            row.entered += stats.entered;
            row.finished += stats.finished;
            row.errors += stats.errors;
            row.total_ns += stats.total_ns;
            row.max_ns = row.max_ns.max(stats.max_ns);
            row.log2_ns.resize(stats.slots.len(), 0);
            row.log2_ns.iter_mut().zip(stats.slots).for_each(|(sum, slot)| *sum += slot);
        }
        if row.entered > 0 || row.finished > 0 {
            let used = row.log2_ns.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
            row.log2_ns.truncate(used);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Marks threads as waiting since `since_ns` in the `waits` map of `bpf/offcpu.bpf.c`.
pub(super) fn write_waits(waits: &MapHandle, tids: &[u32], since_ns: u64) -> Result<()> {
    let slots = waits.max_entries();
    for tid in tids {
        let value = wait_slot { tid: *tid, pad: 0, blocked_ns: since_ns, woken_ns: 0 };
        waits
            .update(&(tid & (slots - 1)).to_ne_bytes(), abi::bytes_of(&value), MapFlags::ANY)
            .map_err(|err| Error::failed(format!("cannot mark thread {tid} as waiting: {err}")))?;
    }
    Ok(())
}
