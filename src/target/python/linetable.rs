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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::live_tests::interpreters;

    #[test]
    fn lnotab_with_a_backward_step() {
        // Lines 10 (bytes 0 to 5), 12 (6 to 11), 11 (from 12).
        let table = [6, 2, 6, 0xff];
        let lines: Vec<_> = [-1, 0, 5, 6, 11, 12, 99].iter().map(|lasti| line(&table, 10, *lasti, 8)).collect();
        assert_eq!(lines, [10, 10, 10, 12, 12, 11, 11].map(Some));
        assert_eq!(line(&[], 10, 4, 6), Some(10));
    }

    #[test]
    fn line_deltas_with_code_that_has_no_line() {
        // Line 10 for 4 bytes, none for 2, 10 + 127 + 1 for 2.
        let table = [4, 0, 2, 0x80, 0, 127, 2, 1];
        let lines: Vec<_> = (-1..5).map(|lasti| line(&table, 10, lasti, 10)).collect();
        assert_eq!(lines, [Some(10), Some(10), Some(10), None, Some(138), None]);
    }

    #[test]
    fn every_kind_of_location() {
        let table = [
            0x80 | 3 << 3 | 1,
            0, // short, 2 units, line 10
            0x80 | 11 << 3,
            0,
            0,              // one line on, 1 unit: 11
            0x80 | 15 << 3, // none, 1 unit
            0x80 | 13 << 3,
            0b0000_0011, // no column, -1: 10
            0x80 | 14 << 3,
            0b0100_0000,
            0b0000_0010,
            0,
            1,
            1, // long, varint 128 = +64: 74
        ];
        let lines: Vec<_> = (-1..7).map(|lasti| line(&table, 10, lasti, 11)).collect();
        assert_eq!(lines, [Some(10), Some(10), Some(10), Some(11), None, Some(10), Some(74), None]);
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        let mut state = 88172645463325252_u64;
        for round in 0..20_000 {
            let table: Vec<u8> = (0..round % 67)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            for minor in [6, 9, 10, 11, 15, u16::MAX] {
                for lasti in [i64::MIN, -1, 0, 5, 1 << 40, i64::MAX] {
                    for first_line in [i32::MIN, 0, i32::MAX] {
                        line(&table, first_line, lasti, minor);
                    }
                }
            }
        }
        assert_eq!(line(&[0x80 | 14 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1, 0, 12), None);
    }

    /// For every instruction of a few thousand code objects: the line that the interpreter itself gives for it.
    const TRUTH: &str = "
import sys, os, types, binascii
def all_code(code):
    yield code
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            for x in all_code(c): yield x
def lines(code):
    n = len(code.co_code) // 2
    if hasattr(code, 'co_lines'):
        found = [None] * n
        for start, end, line in code.co_lines():
            for i in range(start // 2, end // 2): found[i] = line
        return found
    import dis
    starts = dict(dis.findlinestarts(code))
    found, line = [], code.co_firstlineno
    for i in range(n):
        line = starts.get(2 * i, line)
        found.append(line)
    return found
lib = os.path.dirname(os.__file__)
for name in ['argparse.py', 'tokenize.py', 'typing.py', 'threading.py', 'asyncio/base_events.py', 'dataclasses.py', 'subprocess.py']:
    path = os.path.join(lib, name)
    if not os.path.exists(path): continue
    with open(path, encoding='utf-8') as f: source = f.read()
    for code in all_code(compile(source, path, 'exec')):
        table = code.co_linetable if hasattr(code, 'co_linetable') else code.co_lnotab
        print(sys.version_info[1], code.co_firstlineno, binascii.hexlify(table).decode() or '-', ' '.join(str(l) for l in lines(code)))
";

    #[test]
    fn lines_equal_the_interpreters_own() {
        for interpreter in interpreters() {
            let output = interpreter.output(TRUTH);
            let mut compared = 0;
            for record in output.lines() {
                let mut fields = record.split(' ');
                let minor = fields.next().unwrap().parse().unwrap();
                let first_line = fields.next().unwrap().parse().unwrap();
                let hex = fields.next().unwrap().trim_matches('-');
                let table: Vec<u8> =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
                for (unit, expected) in fields.enumerate() {
                    let lasti = if minor <= 9 { unit as i64 * 2 } else { unit as i64 };
                    assert_eq!(
                        line(&table, first_line, lasti, minor),
                        expected.parse().ok(),
                        "{interpreter:?} unit {unit} of {record}"
                    );
                    compared += 1;
                }
            }
            eprintln!("{interpreter:?}: {compared} instructions");
            assert!(compared > 10_000);
        }
    }
}
