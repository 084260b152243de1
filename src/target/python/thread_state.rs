//! From a thread to its thread state: the ways the BPF walker can take, found and checked on living threads.

use std::collections::BTreeMap;

use super::discover::Image;
use super::layout::{Layout, Libc, Tls};
use super::machine_code;
use super::verify::Seen;
use crate::target::memory::Memory;

/// glibc's `struct pthread` holds the first 32 pthread_getspecific() values; searched this far (2.36 to 2.43: 0x310).
const DESCRIPTOR_BYTES: u64 = 0x910;
/// Static thread-local storage lies below the thread pointer on x86_64; searched this far.
const STATIC_TLS_BYTES: u64 = 0x400;

/// How `_Py_tss_tstate` and `_Py_tss_gilstate` are reached (3.12+).
pub(super) fn thread_local(memory: &Memory, image: &Image, has_gilstate: bool) -> Tls {
    let tls = machine_code::thread_local(memory, image, "_PyThreadState_GetCurrent");
    if !has_gilstate {
        return tls;
    }
    let gilstate = machine_code::thread_local(memory, image, "PyGILState_GetThisThreadState");
    match (tls, gilstate) {
        (Tls::Static { offset, .. }, Tls::Static { offset: gilstate_offset, .. }) => {
            Tls::Static { offset, gilstate_offset }
        }
        (Tls::Dynamic { module, offset, .. }, Tls::Dynamic { module: same, offset: gilstate_offset, .. })
            if module == same =>
        {
            Tls::Dynamic { module, offset, gilstate_offset }
        }
        _ => tls,
    }
}

/// Distance from the thread pointer to the word that holds `&tstate`, agreed on by the living threads; 0 when there is
/// none. `key` is the pthread key, which says where glibc should have it.
///
/// A thread of a sub-interpreter before 3.12 has another thread state there, so not all need to agree.
pub(super) fn slot_offset(memory: &Memory, seen: &Seen, key: Option<u32>) -> i64 {
    let hits = hits(memory, seen, 0, DESCRIPTOR_BYTES);
    let expected = key.filter(|key| *key < 32).map(|key| 0x310 + i64::from(key) * 16 + 8);
    match expected.filter(|offset| hits.contains_key(offset)) {
        Some(offset) => offset,
        None => most_hits(&hits),
    }
}

/// The same for static thread-local storage, for builds whose code could not be decoded.
pub(super) fn static_tls_offset(memory: &Memory, seen: &Seen) -> i64 {
    most_hits(&hits(memory, seen, -(STATIC_TLS_BYTES as i64), STATIC_TLS_BYTES))
}

/// How many threads have their thread state's address at which distance.
fn hits(memory: &Memory, seen: &Seen, from: i64, length: u64) -> BTreeMap<i64, usize> {
    let mut hits = BTreeMap::new();
    for thread in seen.threads.iter().filter(|thread| thread.id != 0) {
        let start = thread.id.wrapping_add_signed(from);
        // A thread that ended since, or a block at the end of its mapping, has nothing to say.
        let Ok(bytes) = memory.bytes(start, length as usize) else { continue };
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            if word == thread.address.to_le_bytes() {
                *hits.entry(from + index as i64 * 8).or_insert(0) += 1;
            }
        }
    }
    hits
}

fn most_hits(hits: &BTreeMap<i64, usize>) -> i64 {
    // Of equals the lowest, so that two runs agree.
    hits.iter().max_by_key(|(offset, count)| (**count, -**offset)).map_or(0, |(offset, _)| *offset)
}

/// `TLS fs:-0x18, TSS slot 0x318`: what the walker can use, for people.
pub(super) fn describe(layout: &Layout) -> String {
    let mut ways = Vec::new();
    match layout.tls {
        Tls::Static { offset, .. } => ways.push(format!("TLS at {}", signed_hex(offset))),
        Tls::Dynamic { module, offset, .. } => ways.push(format!("TLS module {module} at {}", signed_hex(offset))),
        Tls::None => {}
    }
    match (layout.slot_offset, layout.tss_key, layout.libc) {
        (0, 0, _) => {}
        (0, _, Libc::Glibc) => ways.push("TSS key".into()),
        (0, _, Libc::Musl) => ways.push("musl's TSS key".into()),
        (offset, _, _) => ways.push(format!("TSS slot {}", signed_hex(offset))),
    }
    if ways.is_empty() { "thread list only".into() } else { ways.join(", ") }
}

fn signed_hex(offset: i64) -> String {
    format!("{}{:#x}", if offset < 0 { "-" } else { "" }, offset.unsigned_abs())
}
