//! Maps read (and once written) as a whole.

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::abi::{self, outcome, syscall_stats, wait_slot};
use crate::error::{Error, Result};
use crate::event::{Loss, SyscallTotals};
use crate::target::syscall;

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

/// Every system call that was made, over all CPUs, most calls first.
pub(super) fn read_syscalls(syscalls: &MapHandle) -> Result<Vec<SyscallTotals>> {
    let mut calls = Vec::new();
    for number in 0..syscalls.max_entries() {
        let mut sum = syscall_stats::default();
        for cpu in read_percpu(syscalls, number)? {
            let stats: syscall_stats = abi::read(&cpu)?;
            sum.entered += stats.entered;
            sum.finished += stats.finished;
            sum.errors += stats.errors;
            sum.total_ns += stats.total_ns;
            sum.max_ns = sum.max_ns.max(stats.max_ns);
            sum.slots.iter_mut().zip(stats.slots).for_each(|(sum, slot)| *sum += slot);
        }
        if sum.entered > 0 || sum.finished > 0 {
            calls.push(totals(number, &sum));
        }
    }
    calls.sort_by(|a, b| b.entered.cmp(&a.entered).then_with(|| a.name.cmp(&b.name)));
    Ok(calls)
}

fn totals(number: u32, stats: &syscall_stats) -> SyscallTotals {
    let used = stats.slots.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    SyscallTotals {
        name: syscall::name(number),
        entered: stats.entered,
        finished: stats.finished,
        errors: stats.errors,
        total_ns: stats.total_ns,
        max_ns: stats.max_ns,
        log2_ns: stats.slots[..used].to_vec(),
    }
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
