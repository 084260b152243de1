//! Where `_PyEval_EvalFrameDefault` is in a file, also when the file is stripped: its hot part is in the dynamic symbol
//! table, but the part the compiler moved away as cold has a name in the full table only.
//!
//! Without that table, a cold part is a function of its own to the unwind tables, into whose middle the hot part jumps;
//! a jump to another function goes to its first instruction.

use std::ops::Range;

use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};

use super::image::Image;

const SYMBOL: &str = "_PyEval_EvalFrameDefault";

/// All parts of the evaluation function, as linked.
pub(super) fn find(image: &Image, elf: &ElfFile64<'_>) -> Vec<Range<u64>> {
    let is_part = |name: &str| name.strip_prefix(SYMBOL).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut parts: Vec<Range<u64>> = elf
        .symbols()
        .chain(elf.dynamic_symbols())
        .filter(|symbol| symbol.is_definition() && symbol.size() != 0 && symbol.name().is_ok_and(is_part))
        .map(|symbol| symbol.address()..symbol.address() + symbol.size())
        .collect();
    parts.sort_by_key(|part| part.start);
    parts.dedup();
    if let ([hot], None) = (&parts[..], elf.symbols().next()) {
        let cold = cold_parts(image, hot.clone());
        parts.extend(cold);
    }
    parts
}

fn cold_parts(image: &Image, hot: Range<u64>) -> Vec<Range<u64>> {
    let (Some(code), Some(functions)) = (image.bytes_at(hot.clone()), UnwindIndex::of(image)) else {
        return Vec::new();
    };
    let mut parts: Vec<Range<u64>> = Vec::new();
    for target in jump_targets(code, hot.start) {
        if hot.contains(&target) || parts.iter().any(|part| part.contains(&target)) {
            continue;
        }
        if let Some(function) = functions.find(target)
            && function.start != target
        {
            parts.push(function);
        }
    }
    parts
}

/// Targets of the direct jumps, conditional or not, in `code`.
#[cfg(target_arch = "x86_64")]
fn jump_targets(code: &[u8], address: u64) -> Vec<u64> {
    use iced_x86::{Decoder, DecoderOptions, FlowControl};

    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    decoder
        .into_iter()
        .filter(|at| matches!(at.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch))
        .map(|at| at.near_branch_target())
        .collect()
}

/// Targets of the direct jumps, conditional or not, in `code`: B, B.cond, CBZ and CBNZ.
#[cfg(target_arch = "aarch64")]
fn jump_targets(code: &[u8], address: u64) -> Vec<u64> {
    let target = |(index, bytes): (usize, &[u8])| {
        let word = u32::from_le_bytes(bytes.try_into().ok()?);
        // Word offsets: 26 bits of B, 19 bits of the others, sign-extended and in bytes.
        let displacement = match (word >> 26, word >> 24) {
            (0b000101, _) => (word << 6) as i32 >> 4,
            (_, 0x54 | 0x34 | 0x35 | 0xb4 | 0xb5) => ((word >> 5) << 13) as i32 >> 11,
            _ => return None,
        };
        Some(address.wrapping_add(index as u64 * 4).wrapping_add_signed(i64::from(displacement)))
    };
    code.chunks_exact(4).enumerate().filter_map(target).collect()
}

/// The binary search table of `.eh_frame_hdr` (Linux Standard Base, "Exception Frames").
struct UnwindIndex<'a> {
    image: &'a Image,
    base: u64,
    /// Pairs of 4-byte offsets from `base`: first instruction, description entry.
    table: &'a [u8],
}

impl<'a> UnwindIndex<'a> {
    fn of(image: &'a Image) -> Option<Self> {
        let section = image.sections().eh_frame_hdr.as_ref()?;
        // Version 1; pointer relative to its own address, count absolute, table relative to the section, 4 bytes each.
        let [1, 0x1b, 0x03, 0x3b, _, _, _, _, c0, c1, c2, c3, table @ ..] = &*section.bytes else { return None };
        let count = u32::from_le_bytes([*c0, *c1, *c2, *c3]) as usize;
        Some(Self { image, base: section.addresses.start, table: table.get(..count.checked_mul(8)?)? })
    }

    /// The function `address` lies in.
    fn find(&self, address: u64) -> Option<Range<u64>> {
        let (entries, _) = self.table.as_chunks::<8>();
        let pointer = |bytes: &[u8]| {
            let offset = i32::from_le_bytes(bytes.try_into().ok()?);
            Some(self.base.wrapping_add_signed(i64::from(offset)))
        };
        let start = |entry: &[u8; 8]| pointer(&entry[..4]).unwrap_or(u64::MAX);
        let index = entries.partition_point(|entry| start(entry) <= address).checked_sub(1)?;
        let start = start(&entries[index]);
        let description = pointer(&entries[index][4..])?;
        // length, CIE, first instruction, number of bytes: 4 bytes each in the encoding checked above.
        let bytes = self.image.bytes_at(description.checked_add(12)?..description.checked_add(16)?)?;
        let function = start..start + u64::from(u32::from_le_bytes(bytes.try_into().ok()?));
        function.contains(&address).then_some(function)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// The interpreter at `path`, when this machine has it.
    fn image(path: &str) -> Option<Image> {
        Some(Image::of_file(File::open(path).ok()?).unwrap())
    }

    /// The search by jumps must find, in a file with a full symbol table, what the table says. (A part of a few bytes
    /// that only calls abort() may be missing: jumps to it go to its start.)
    #[test]
    fn jumps_find_what_the_symbol_table_says() {
        for library in
            ["3.9.18/lib/libpython3.9.so.1.0", "3.10.13/lib/libpython3.10.so.1.0", "3.11.7/lib/libpython3.11.so.1.0"]
        {
            let Some(image) = image(&format!("/root/.pyenv/versions/{library}")) else { continue };
            let mut named = image.evaluation().to_vec();
            let hot = named.iter().max_by_key(|part| part.end - part.start).unwrap().clone();
            let mut found = cold_parts(&image, hot.clone());
            found.push(hot);
            found.sort_by_key(|part| part.start);
            named.retain(|part| part.end - part.start > 16);
            assert_eq!(found, named, "{library}");
        }
    }

    #[test]
    fn stripped_interpreters_have_a_cold_part() {
        for path in ["/usr/bin/python3.11", "/opt/pylow-interp/py314/usr/bin/python3.14"] {
            let Some(image) = image(path) else { continue };
            assert_eq!(image.evaluation().len(), 2, "{path}: {:x?}", image.evaluation());
        }
    }
}
