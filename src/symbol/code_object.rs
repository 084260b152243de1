//! Code objects in the memory of a process: their identity, and their names decoded (Include/cpython/code.h,
//! Include/cpython/unicodeobject.h; offsets from the process's layout).

use crate::target::memory::Memory;
use crate::target::python::layout::Offsets;

/// Bytes of a code object, from `code_hash_start`, among which the walker finds the words of the identity.
const HASHED_BYTES: usize = 96;
/// Bytes of a line table, from `ob_size`, that the identity covers.
const HASHED_TABLE_BYTES: usize = 32;
/// `PyVarObject.ob_size`, and `PyASCIIObject.length`.
const SIZE: usize = 16;
/// `PyASCIIObject.state`.
const STATE: usize = 32;
/// `PyBytesObject.ob_sval`.
const BYTES_DATA: u64 = 32;
/// Longer names and line tables are not read: no compiler makes such, a torn read may.
const LONGEST_NAME: u64 = 1 << 14;
const LONGEST_LINES: u64 = 1 << 22;

/// Everything shown of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodeFacts {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) first_line: i32,
    pub(super) lines: Vec<u8>,
}

/// Reads the code object at `code` if its identity is `hash` before and after: `None` when it is another one, or gone.
pub(super) fn read(offsets: &Offsets, memory: &Memory, code: u64, hash: u32) -> Option<CodeFacts> {
    let is_it = || hash != 0 && identity_hashes(offsets, memory, code).is_some_and(|hashes| hashes.contains(&hash));
    if !is_it() {
        return None;
    }
    let facts = read_unverified(offsets, memory, code)?;
    is_it().then_some(facts)
}

/// The hash of a code object whose line table is resident.
#[cfg(test)]
pub(super) fn identity_hash(offsets: &Offsets, memory: &Memory, code: u64) -> Option<u32> {
    identity_hashes(offsets, memory, code).map(|[whole, _]| whole)
}

/// `code_hash()` of bpf/lib/python.bpf.h over the process's memory, never 0: with the line table, and as the walker sends
/// it when the table is not resident. `None` for a freed object.
///
/// A freed object's fields may still stand in memory, but its reference count does not: the allocator keeps a pointer
/// there. 3.14 split the count into 32 bits, 16 that are 0 for all but immortal objects, and flags.
fn identity_hashes(offsets: &Offsets, memory: &Memory, code: u64) -> Option<[u32; 2]> {
    let start = usize::from(offsets.code_hash_start());
    let bytes = memory.bytes(code, start + HASHED_BYTES).ok()?;
    let count = word(&bytes, 0);
    let alive = count as u32 != 0 && (count >> 32) as u16 == 0;
    let [file, name, lines] = offsets.code_hash_words().map(|index| word(&bytes[start..], 8 * usize::from(index)));
    let table = memory.bytes(lines.wrapping_add(SIZE as u64), HASHED_TABLE_BYTES).ok()?;
    let first_line = word(&bytes[start..], 0);
    let hash = |table: &[u8]| hash_of(first_line, file, name, table);
    alive.then(|| [hash(&table), hash(&[0; HASHED_TABLE_BYTES])])
}

/// `table` begins with `ob_size`.
fn hash_of(first_line: u64, file: u64, name: u64, table: &[u8]) -> u32 {
    const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
    let size = word(table, 0);
    let head = |at: usize, left: i64| match left {
        ..=0 => 0,
        1..8 => word(table, at) & ((1 << (8 * left)) - 1),
        _ => word(table, at),
    };
    let words = [first_line, file, name, size, head(16, size as i64), head(24, (size as i64).saturating_sub(8))];
    let hash = words.iter().fold(0_u64, |hash, word| (hash ^ (hash >> 29) ^ word).wrapping_mul(PRIME));
    ((hash >> 32) as u32).max(1)
}

fn read_unverified(offsets: &Offsets, memory: &Memory, code: u64) -> Option<CodeFacts> {
    let field = |offset: u16| memory.u64(code.wrapping_add(u64::from(offset))).ok();
    Some(CodeFacts {
        name: read_string(offsets, memory, field(offsets.code_name)?)?,
        file: read_string(offsets, memory, field(offsets.code_file)?)?,
        first_line: memory.u32(code.wrapping_add(u64::from(offsets.code_first_line))).ok()? as i32,
        lines: read_bytes(memory, field(offsets.code_lines)?)?,
    })
}

fn read_bytes(memory: &Memory, object: u64) -> Option<Vec<u8>> {
    let length = memory.u64(object.wrapping_add(SIZE as u64)).ok().filter(|&length| length <= LONGEST_LINES)?;
    memory.bytes(object.wrapping_add(BYTES_DATA), length as usize).ok()
}

fn read_string(offsets: &Offsets, memory: &Memory, object: u64) -> Option<String> {
    let mut head = [0; STATE + 4];
    memory.read(object, &mut head).ok()?;
    let length = word(&head, SIZE);
    let state = StringState(u32::from_le_bytes([head[STATE], head[STATE + 1], head[STATE + 2], head[STATE + 3]]));
    if !state.is_readable() || length > LONGEST_NAME {
        return None;
    }
    let data = object.wrapping_add(state.data_offset(offsets.string_data));
    let bytes = memory.bytes(data, length as usize * state.width()).ok()?;
    Some(state.decode(&bytes))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].iter().take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// `PyASCIIObject.state`: kind in bits 2 to 4, compact in bit 5, ASCII in bit 6 (3.6 to 3.15).
#[derive(Clone, Copy, Debug)]
pub(super) struct StringState(pub(super) u32);

impl StringState {
    /// Bytes per character: 1, 2 or 4.
    pub(super) fn width(self) -> usize {
        (self.0 >> 2 & 7) as usize
    }

    /// The characters follow the head, in a known width: so for every name of a code object.
    pub(super) fn is_readable(self) -> bool {
        self.0 & 1 << 5 != 0 && matches!(self.width(), 1 | 2 | 4)
    }

    /// Where the characters start. Not ASCII: behind PyCompactUnicodeObject, which lost wstr_length in 3.12.
    fn data_offset(self, ascii_data: u16) -> u64 {
        let more = match (self.0 & 1 << 6 != 0, ascii_data) {
            (true, _) => 0,
            (false, 48) => 24,
            (false, _) => 16,
        };
        u64::from(ascii_data + more)
    }

    /// The characters; a lone surrogate, or half a character at the end, is not one.
    pub(super) fn decode(self, bytes: &[u8]) -> String {
        let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        bytes.chunks_exact(self.width()).map(|unit| character(word(unit, 0) as u32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_width() {
        let state = |kind: u32, ascii: u32| StringState(kind << 2 | 1 << 5 | ascii << 6);
        assert_eq!(state(1, 1).decode(b"run"), "run");
        assert_eq!(state(1, 0).decode(b"caf\xe9"), "caf\u{e9}");
        assert_eq!(state(2, 0).decode(&[0x3b, 0x04, 0x4f, 0x04, 0x00]), "\u{43b}\u{44f}");
        assert_eq!(state(4, 0).decode(&[0x40, 0xf4, 0x01, 0x00]), "\u{1f440}");
        assert_eq!(state(2, 0).decode(&[0x00, 0xd8]), "\u{fffd}");
        assert!(!StringState(0).is_readable());
    }

    #[test]
    fn characters_start_behind_the_head() {
        let ascii = StringState(1 << 2 | 1 << 5 | 1 << 6);
        let latin1 = StringState(1 << 2 | 1 << 5);
        assert_eq!([ascii.data_offset(48), latin1.data_offset(48)], [48, 72]);
        assert_eq!([ascii.data_offset(40), latin1.data_offset(40)], [40, 56]);
    }

    #[test]
    fn identity_covers_names_and_the_beginning_of_the_table() {
        let table = |size: u64, data: &[u8; 16]| [&size.to_le_bytes()[..], &[0xff; 8], data].concat();
        let plain = hash_of(1, 2, 3, &table(10, b"0123456789abcdef"));
        assert_ne!(hash_of(9, 2, 3, &table(10, b"0123456789abcdef")), plain);
        assert_ne!(hash_of(1, 9, 3, &table(10, b"0123456789abcdef")), plain);
        assert_ne!(hash_of(1, 2, 9, &table(10, b"0123456789abcdef")), plain);
        assert_ne!(hash_of(1, 2, 3, &table(11, b"0123456789abcdef")), plain);
        assert_ne!(hash_of(1, 2, 3, &table(10, b"012345678Xabcdef")), plain);
        // What follows a short table is not its own.
        assert_eq!(hash_of(1, 2, 3, &table(10, b"0123456789ABCDEF")), plain);
        assert_eq!(hash_of(1, 2, 3, &table(0, b"0123456789ABCDEF")), hash_of(1, 2, 3, &table(0, &[7; 16])));
    }
}
