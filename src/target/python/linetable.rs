//! Line tables of code objects: from a position in the bytecode to a line of source.
//!
//! Three formats: `co_lnotab` (3.6 to 3.9, Objects/lnotab_notes.txt of v3.9), `co_linetable` of 3.10
//! (Objects/lnotab_notes.txt of v3.10), and the location table of 3.11+ (Objects/locations.md, from v3.14
//! InternalDocs/code_objects.md). The bytes come from another process: nothing in them is trusted.

/// The line of the instruction at `lasti`, or None for an instruction without one. `lasti` counts as the interpreter
/// does: bytes to 3.9, code units of two bytes from 3.10. A frame that has not started (negative) is at its first line.
pub fn line(table: &[u8], first_line: i32, lasti: i64, minor: u16) -> Option<u32> {
    let first_line = i64::from(first_line);
    let line = match minor {
        _ if lasti < 0 => Some(first_line),
        ..=9 => Some(lnotab(table, first_line, lasti)),
        10 => line_deltas(table, first_line, lasti.saturating_mul(2)),
        11.. => locations(table, first_line, lasti),
    };
    line.and_then(|line| u32::try_from(line).ok())
}

/// Pairs: bytes of code, signed difference of the line that follows them.
fn lnotab(table: &[u8], first_line: i64, lasti: i64) -> i64 {
    let (mut address, mut line) = (0, first_line);
    for pair in table.chunks_exact(2) {
        address += i64::from(pair[0]);
        if address > lasti {
            break;
        }
        line += i64::from(pair[1] as i8);
    }
    line
}

/// Pairs: bytes of code, signed difference of their own line; -128 says they have none.
fn line_deltas(table: &[u8], first_line: i64, position: i64) -> Option<i64> {
    let (mut end, mut line) = (0, first_line);
    for pair in table.chunks_exact(2) {
        end += i64::from(pair[0]);
        let delta = pair[1] as i8;
        let has_line = delta != -128;
        if has_line {
            line += i64::from(delta);
        }
        if position < end {
            return has_line.then_some(line);
        }
    }
    None
}

/// Entries: a byte with the high bit set, kind in bits 3 to 6 and code units - 1 in bits 0 to 2, then what the kind has.
fn locations(table: &[u8], first_line: i64, lasti: i64) -> Option<i64> {
    const NONE: u8 = 15;
    let (mut rest, mut end, mut line) = (table, 0, first_line);
    while let Some((&head, tail)) = rest.split_first() {
        rest = tail;
        end += i64::from(head & 7) + 1;
        let kind = (head >> 3) & 15;
        match kind {
            NONE => {}
            14 => {
                line += signed_varint(&mut rest);
                // End line, column, end column.
                (0..3).for_each(|_| _ = varint(&mut rest));
            }
            13 => line += signed_varint(&mut rest),
            10..=12 => {
                line += i64::from(kind) - 10;
                rest = rest.get(2..).unwrap_or_default();
            }
            _ => rest = rest.get(1..).unwrap_or_default(),
        }
        if lasti < end {
            return (kind != NONE).then_some(line);
        }
    }
    None
}

/// Six bits a byte, least significant first; bit 6 says that more follow. What exceeds 32 bits is dropped.
fn varint(rest: &mut &[u8]) -> u32 {
    let (mut value, mut shift) = (0, 0);
    while let Some((&byte, tail)) = rest.split_first() {
        *rest = tail;
        value |= u32::from(byte & 63).checked_shl(shift).unwrap_or(0);
        shift = (shift + 6).min(32);
        if byte & 64 == 0 {
            break;
        }
    }
    value
}

/// The sign is the lowest bit.
fn signed_varint(rest: &mut &[u8]) -> i64 {
    let value = varint(rest);
    let magnitude = i64::from(value >> 1);
    if value & 1 == 1 { -magnitude } else { magnitude }
}
