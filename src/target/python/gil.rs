//! Where the GILs are: futex waits inside them are waits for the GIL, and the holder is read from them.

use super::layout::Layout;
use super::offsets::Known;
use super::verify::Seen;
use crate::target::memory::Memory;

/// `cond` in `struct _gil_runtime_state` (Include/internal/pycore_gil.h): behind interval, last_holder, locked and
/// switch_number. `mutex` follows it; then come the condition and mutex for forced switching.
const COND: u64 = 32;
/// Shortest and longest switch interval believed when the struct is searched for, microseconds; the default is 5000.
const INTERVALS: std::ops::RangeInclusive<u64> = 1..=100_000_000;

/// Fills in `gil` and `gils`; without a note about them, all is known.
pub(super) fn complete(memory: &Memory, layout: &mut Layout, known: &Known, seen: &Seen, notes: &mut Vec<String>) {
    let mut addresses = Vec::new();
    if layout.runtime == 0 {
        // 3.6: static variables of Python/ceval_gil.h; what is exported is the thread state that holds the GIL.
        layout.gil = layout.current_thread_state;
        return;
    }
    if layout.offsets.interpreter_gil != 0 {
        let pointer = |interpreter: &u64| memory.u64(interpreter + u64::from(layout.offsets.interpreter_gil)).ok();
        addresses.extend(seen.interpreters.iter().filter_map(pointer).filter(|gil| *gil != 0));
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() || !addresses.iter().all(|gil| is_gil(memory, layout, seen, *gil)) {
            layout.offsets.interpreter_gil = 0;
            addresses.clear();
        }
    } else if let Some(offset) = known.runtime.gil {
        let expected = layout.runtime + u64::from(offset);
        let found = if is_gil(memory, layout, seen, expected) { Some(expected) } else { search(memory, layout, seen) };
        layout.gil = found.unwrap_or(0);
        addresses.extend(found);
    }
    if addresses.is_empty() {
        notes.push("its GIL was not found".into());
    }
    let waited_on = size_of::<libc::pthread_cond_t>() + size_of::<libc::pthread_mutex_t>();
    layout.gils = addresses.into_iter().map(|gil| (gil + COND, gil + COND + waited_on as u64)).collect();
}

/// Interval, holder and lock word look like a GIL's; the holder may change or end between two looks.
fn is_gil(memory: &Memory, layout: &Layout, seen: &Seen, address: u64) -> bool {
    (0..16).any(|_| memory.bytes(address, COND as usize).is_ok_and(|bytes| looks_like_gil(&bytes, layout, seen, true)))
}

fn looks_like_gil(bytes: &[u8], layout: &Layout, seen: &Seen, unheld: bool) -> bool {
    let word = |offset: usize| bytes[offset..offset + 8].try_into().map_or(0, u64::from_le_bytes);
    let locked = word(usize::from(layout.offsets.gil_locked)) as u32;
    let holder = word(usize::from(layout.offsets.gil_holder));
    INTERVALS.contains(&word(0)) && locked <= 1 && (seen.thread_at(holder) || unheld && holder == 0)
}

/// Patch levels whose `_PyRuntime` differs from the table (3.7.0 to 3.7.3): the one place in it that looks like a GIL.
fn search(memory: &Memory, layout: &Layout, seen: &Seen) -> Option<u64> {
    const RUNTIME_BYTES: usize = 2048;
    let bytes = memory.bytes(layout.runtime, RUNTIME_BYTES).ok()?;
    let places = (0..RUNTIME_BYTES - COND as usize).step_by(8);
    let mut found = places.filter(|at| looks_like_gil(&bytes[*at..*at + COND as usize], layout, seen, false));
    let only = found.next()?;
    found.next().is_none().then_some(layout.runtime + only as u64)
}
