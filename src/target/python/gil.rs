//! Where the GILs are: futex waits inside them are waits for the GIL, and the holder is read from them.

use super::discover::Image;
use super::layout::Layout;
use super::offsets::Known;
use super::verify::Seen;
use crate::target::memory::Memory;

/// `cond` in `struct _gil_runtime_state` (Include/internal/pycore_gil.h): behind interval, last_holder, locked and
/// switch_number. `mutex` follows it; then come the condition and mutex for forced switching.
const COND: u64 = 32;
const COND_BYTES: usize = size_of::<libc::pthread_cond_t>();
const MUTEX_BYTES: usize = size_of::<libc::pthread_mutex_t>();
/// Shortest and longest switch interval believed when the struct is searched for, microseconds; the default is 5000.
const INTERVALS: std::ops::RangeInclusive<u64> = 1..=100_000_000;

/// Fills in `gil` and `gils`; what could not be found, or not exactly, becomes a note.
pub(super) fn complete(
    memory: &Memory,
    image: &Image,
    layout: &mut Layout,
    known: &Known,
    seen: &Seen,
    notes: &mut Vec<String>,
) {
    if layout.runtime == 0 {
        return statics(image, layout, notes);
    }
    let mut addresses = Vec::new();
    if layout.offsets.interpreter_gil != 0 {
        let pointer = |interpreter: &u64| memory.u64(interpreter + u64::from(layout.offsets.interpreter_gil)).ok();
        addresses.extend(seen.interpreters.iter().filter_map(pointer).filter(|gil| *gil != 0));
        addresses.sort_unstable();
        addresses.dedup();
        addresses.retain(|gil| is_gil(memory, layout, seen, *gil));
        if addresses.is_empty() {
            layout.offsets.interpreter_gil = 0;
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
    let waited_on = (COND_BYTES + MUTEX_BYTES) as u64;
    layout.gils = addresses.into_iter().map(|gil| (gil + COND, gil + COND + waited_on)).collect();
}

/// 3.6: the GIL is static variables of Python/ceval_gil.h; exported is only the thread state that holds it. Without a
/// symbol table, a futex among the interpreter's own variables is taken for its GIL.
fn statics(image: &Image, layout: &mut Layout, notes: &mut Vec<String>) {
    layout.gil = layout.current_thread_state;
    let at = |name| image.symbol(name).map(|symbol| layout.image_bias.wrapping_add(symbol.address));
    if let (Some(cond), Some(mutex)) = (at("gil_cond"), at("gil_mutex")) {
        layout.gils = vec![(mutex, mutex + MUTEX_BYTES as u64), (cond, cond + COND_BYTES as u64)];
        return;
    }
    let variables = image.elf.segments.iter().filter(|segment| segment.writable);
    let range = |start: u64, size: u64| (start, start.wrapping_add(size));
    layout.gils =
        variables.map(|segment| range(layout.image_bias.wrapping_add(segment.address), segment.size)).collect();
    notes.push("stripped: its GIL is told from other waits by lying among its static variables".into());
}

/// Interval, holder and lock word look like a GIL's; the holder may change between two looks.
fn is_gil(memory: &Memory, layout: &Layout, seen: &Seen, address: u64) -> bool {
    (0..16).any(|_| memory.bytes(address, COND as usize).is_ok_and(|bytes| looks_like_gil(&bytes, layout, seen, true)))
}

/// `unheld`: a GIL that nobody holds is believed too; its last holder may have ended.
fn looks_like_gil(bytes: &[u8], layout: &Layout, seen: &Seen, unheld: bool) -> bool {
    let word = |offset: usize| bytes[offset..offset + 8].try_into().map_or(0, u64::from_le_bytes);
    let locked = word(usize::from(layout.offsets.gil_locked)) as u32;
    let holder = word(usize::from(layout.offsets.gil_holder));
    INTERVALS.contains(&word(0)) && locked <= 1 && (seen.thread_at(holder) || unheld && (holder == 0 || locked == 0))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;
    use crate::target::live_tests::{SLEEPING, interpreters};
    use crate::target::python::verify::{Frames, ThreadState};

    #[test]
    fn found_where_the_table_does_not_say() {
        let (running, _) = interpreters()[0].start(SLEEPING);
        let layout = Target::open(running.pid()).unwrap().layout.unwrap();
        let holder = 0x7000_1000_u64;
        let mut words = vec![0_u64; 256];
        let seen = Seen {
            interpreters: vec![0x7000_0000],
            threads: vec![ThreadState { address: holder, id: 1, frames: Frames::None }],
        };
        let memory = Memory::of(std::process::id());
        let layout = Layout { runtime: words.as_ptr() as u64, ..Layout::clone(&layout) };
        assert_eq!(search(&memory, &layout, &seen), None);
        words[40..44].copy_from_slice(&[5000, holder, 1, 17]);
        assert_eq!(search(&memory, &layout, &seen), Some(layout.runtime + 320));
        words[80..84].copy_from_slice(&[5000, holder, 1, 17]);
        assert_eq!(search(&memory, &layout, &seen), None, "two places are a doubt");
    }
}
