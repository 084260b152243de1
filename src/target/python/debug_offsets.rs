//! `_Py_DebugOffsets`: the table of offsets that CPython 3.13+ keeps at the start of `_PyRuntime` for tools like this.
//!
//! The table itself grows with every minor version (Include/internal/pycore_debug_offsets.h), so the positions of its
//! fields are known per version. It lies in writable memory of a process that may be hostile or of an unknown build:
//! every value is checked against the size of its struct before it is used.

use super::layout::Offsets;
use super::offsets;
use super::version::Version;
use crate::error::{Context, Error, Result};
use crate::target::memory::Memory;

const COOKIE: &[u8] = b"xdebugpy";
/// Longest table known (3.15).
const TABLE_BYTES: usize = 912;

/// Byte positions inside the table.
struct Positions {
    runtime_size: usize,
    interpreters_head: usize,
    interpreter_size: usize,
    interpreter_next: usize,
    interpreter_threads: usize,
    interpreter_gc: usize,
    interpreter_gil: usize,
    embedded_gil: usize,
    embedded_gil_locked: usize,
    embedded_gil_holder: usize,
    thread_size: usize,
    thread_next: usize,
    thread_interpreter: usize,
    thread_frame: usize,
    thread_id: usize,
    thread_native_id: usize,
    frame_size: usize,
    frame_previous: usize,
    frame_code: usize,
    frame_lasti: usize,
    frame_locals: usize,
    frame_owner: usize,
    code_size: usize,
    code_file: usize,
    code_name: usize,
    code_lines: usize,
    code_first_line: usize,
    code_bytecode: usize,
    string_data: usize,
    gc_size: usize,
    gc_collecting: usize,
}

const V3_13: Positions = Positions {
    runtime_size: 24,
    interpreters_head: 40,
    interpreter_size: 48,
    interpreter_next: 64,
    interpreter_threads: 72,
    interpreter_gc: 80,
    interpreter_gil: 112,
    embedded_gil: 120,
    embedded_gil_locked: 136,
    embedded_gil_holder: 144,
    thread_size: 152,
    thread_next: 168,
    thread_interpreter: 176,
    thread_frame: 184,
    thread_id: 192,
    thread_native_id: 200,
    frame_size: 224,
    frame_previous: 232,
    frame_code: 240,
    frame_lasti: 248,
    frame_locals: 256,
    frame_owner: 264,
    code_size: 272,
    code_file: 280,
    code_name: 296,
    code_lines: 304,
    code_first_line: 312,
    code_bytecode: 344,
    string_data: 560,
    gc_size: 568,
    gc_collecting: 576,
};

/// `threads_main` joins the interpreter's fields, `stackpointer` and `tlbc_index` the frame's, `co_tlbc` the code's.
const V3_14: Positions = Positions {
    interpreter_gc: 88,
    interpreter_gil: 120,
    embedded_gil: 128,
    embedded_gil_locked: 144,
    embedded_gil_holder: 152,
    thread_size: 176,
    thread_next: 192,
    thread_interpreter: 200,
    thread_frame: 208,
    thread_id: 216,
    thread_native_id: 224,
    frame_size: 248,
    frame_previous: 256,
    frame_code: 264,
    frame_lasti: 272,
    frame_locals: 280,
    frame_owner: 288,
    code_size: 312,
    code_file: 320,
    code_name: 336,
    code_lines: 344,
    code_first_line: 352,
    code_bytecode: 384,
    string_data: 640,
    gc_size: 648,
    gc_collecting: 656,
    ..V3_13
};

/// `base_frame`, `last_profiled_frame` and more join the thread's fields.
const V3_15: Positions = Positions {
    thread_id: 240,
    thread_native_id: 248,
    frame_size: 312,
    frame_previous: 320,
    frame_code: 328,
    frame_lasti: 336,
    frame_locals: 344,
    frame_owner: 352,
    code_size: 376,
    code_file: 384,
    code_name: 400,
    code_lines: 408,
    code_first_line: 416,
    code_bytecode: 448,
    string_data: 736,
    gc_size: 752,
    gc_collecting: 760,
    ..V3_14
};

/// What the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DebugOffsets {
    /// Offsets inside the structs.
    pub(super) offsets: Offsets,
    /// `interpreters.head` in `_PyRuntime`.
    pub(super) interpreters_head: u32,
    /// The build has no GIL; nothing else is read of such a table.
    pub(super) free_threaded: bool,
}

/// The version that the table at `runtime` is for; None without a table (before 3.13).
pub(super) fn version(memory: &Memory, runtime: u64) -> Result<Option<Version>> {
    let head = memory.bytes(runtime, 16)?;
    if !head.starts_with(COOKIE) {
        return Ok(None);
    }
    Ok(Version::from_hex(u64_at(&head, 8).unwrap_or(0)))
}

/// Reads and checks the table of an interpreter of `version`.
pub(super) fn read(memory: &Memory, runtime: u64, version: Version) -> Result<DebugOffsets> {
    let table = memory.bytes(runtime, TABLE_BYTES).context(|| "cannot read _Py_DebugOffsets".into())?;
    parse(&table, version)
}

fn u64_at(table: &[u8], position: usize) -> Option<u64> {
    Some(u64::from_le_bytes(table.get(position..position + 8)?.try_into().ok()?))
}

/// The bytes of one table, and checked access to them.
struct Table<'a> {
    bytes: &'a [u8],
    version: Version,
}

impl Table<'_> {
    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::unsupported(format!("the _Py_DebugOffsets table of this CPython {} can't be believed", self.version))
            .because(what)
            .hint(format!("a modified or unreleased interpreter? pylow reads released CPython {}", offsets::SUPPORTED))
    }

    fn word(&self, position: usize) -> Result<u64> {
        u64_at(self.bytes, position).ok_or_else(|| self.wrong("it is too short"))
    }

    /// The offset at `position` of a field of `width` bytes: inside its struct and at its natural alignment.
    fn field(&self, position: usize, size_position: usize, width: u64) -> Result<u32> {
        let (offset, size) = (self.word(position)?, self.word(size_position)?);
        let fits = offset.checked_add(width).is_some_and(|end| end <= size) && size < 1 << 24 && offset % width == 0;
        let offset32 = u32::try_from(offset).ok().filter(|_| fits);
        offset32.ok_or_else(|| self.wrong(format!("the field at {position} is {offset:#x}, outside its struct")))
    }

    /// The same for a field near the start of its struct.
    fn near(&self, position: usize, size_position: usize, width: u64) -> Result<u16> {
        let offset = self.field(position, size_position, width)?;
        u16::try_from(offset).map_err(|_| self.wrong(format!("the field at {position} is {offset:#x}, too far")))
    }

    /// Offset inside the GIL, from that of the same field of the GIL embedded in the interpreter.
    fn in_gil(&self, p: &Positions, position: usize) -> Result<u16> {
        let inside = self.word(position)?.checked_sub(self.word(p.embedded_gil)?).filter(|offset| *offset < 32);
        inside.map(|offset| offset as u16).ok_or_else(|| self.wrong("its GIL fields are not in the GIL"))
    }

    fn string_data(&self, p: &Positions) -> Result<u16> {
        let bytes = u16::try_from(self.word(p.string_data)?).ok().filter(|bytes| bytes % 8 == 0 && *bytes < 128);
        bytes.ok_or_else(|| self.wrong("a str header of an impossible size"))
    }

    fn offsets(&self, p: &Positions, known: &Offsets) -> Result<Offsets> {
        let thread = |position| self.near(position, p.thread_size, 8);
        let frame = |position| self.near(position, p.frame_size, 8);
        let code = |position| self.near(position, p.code_size, 8);
        let gc = self.field(p.interpreter_gc, p.interpreter_size, 8)?;
        Ok(Offsets {
            interpreter_next: self.near(p.interpreter_next, p.interpreter_size, 8)?,
            interpreter_threads: self.near(p.interpreter_threads, p.interpreter_size, 8)?,
            interpreter_gil: self.field(p.interpreter_gil, p.interpreter_size, 8)?,
            interpreter_gc_collecting: gc + self.field(p.gc_collecting, p.gc_size, 4)?,
            thread_next: thread(p.thread_next)?,
            thread_interpreter: thread(p.thread_interpreter)?,
            thread_id: thread(p.thread_id)?,
            thread_native_id: thread(p.thread_native_id)?,
            thread_frame: thread(p.thread_frame)?,
            frame_code: frame(p.frame_code)?,
            frame_previous: frame(p.frame_previous)?,
            frame_lasti: frame(p.frame_lasti)?,
            frame_locals: frame(p.frame_locals)?,
            frame_owner: self.near(p.frame_owner, p.frame_size, 1)?,
            code_first_line: self.near(p.code_first_line, p.code_size, 4)?,
            code_file: code(p.code_file)?,
            code_name: code(p.code_name)?,
            code_lines: code(p.code_lines)?,
            code_bytecode: code(p.code_bytecode)?,
            string_data: self.string_data(p)?,
            gil_locked: self.in_gil(p, p.embedded_gil_locked)?,
            gil_holder: self.in_gil(p, p.embedded_gil_holder)?,
            ..*known
        })
    }

    /// The BPF walker reads 128 bytes of a frame, and of a code object 96 from `code_hash_start`.
    fn check_reach(&self, found: &Offsets) -> Result<()> {
        if found.frame_owner.max(found.frame_lasti).max(found.frame_code).max(found.frame_previous) >= 128 {
            return Err(self.wrong("a frame of more than 128 bytes"));
        }
        if found.code_file.min(found.code_lines) < found.code_hash_start()
            || found.code_hash_words().into_iter().any(|word| word >= 12)
        {
            return Err(self.wrong("the names of a code object are too far from its first line"));
        }
        Ok(())
    }
}

fn parse(bytes: &[u8], version: Version) -> Result<DebugOffsets> {
    let table = Table { bytes, version };
    if !bytes.starts_with(COOKIE) {
        return Err(table.wrong("it does not begin with \"xdebugpy\""));
    }
    let (positions, known) = match (version.minor, offsets::of_minor(version.minor)) {
        (13, Some(known)) => (V3_13, known),
        (14, Some(known)) => (V3_14, known),
        (15, Some(known)) => (V3_15, known),
        _ => return Err(version.unsupported()),
    };
    let said = table.word(8)?;
    if Version::from_hex(said) != Some(version) {
        return Err(table.wrong(format!("it says it is of version {said:#x}")));
    }
    let free_threaded = table.word(16)? != 0;
    if free_threaded {
        // Its structs are other ones; the caller refuses it by name.
        return Ok(DebugOffsets { offsets: known.offsets, interpreters_head: 0, free_threaded });
    }
    let offsets = table.offsets(&positions, &known.offsets)?;
    table.check_reach(&offsets)?;
    let interpreters_head = table.field(positions.interpreters_head, positions.runtime_size, 8)?;
    Ok(DebugOffsets { offsets, interpreters_head, free_threaded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// The table of a build whose `_PyRuntime` was dumped: x86_64, 3.14.10 of Debian, words 0 to 99.
    const DEBIAN_3_14_10: [u64; 84] = [
        0x7970677562656478,
        0x30e0af0,
        0,
        316616,
        784,
        808,
        225864,
        7280,
        7272,
        7344,
        7360,
        7408,
        7688,
        7672,
        7680,
        16,
        7784,
        0,
        7800,
        7792,
        7992,
        0,
        832,
        0,
        8,
        16,
        72,
        152,
        160,
        232,
        32,
        88,
        8,
        0,
        56,
        80,
        74,
        64,
        0,
        216,
        112,
        120,
        128,
        136,
        68,
        52,
        96,
        104,
        208,
        0,
        16,
        8,
        416,
        24,
        88,
        168,
        40,
        32,
        16,
        40,
        24,
        16,
        200,
        24,
        40,
        32,
        48,
        32,
        40,
        24,
        16,
        32,
        16,
        24,
        40,
        16,
        32,
        64,
        32,
        16,
        40,
        264,
        192,
        160,
    ];

    fn table(change: impl FnOnce(&mut [u64])) -> Vec<u8> {
        let mut words = DEBIAN_3_14_10;
        change(&mut words);
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(TABLE_BYTES, 0);
        bytes
    }

    fn parsed(change: impl FnOnce(&mut [u64])) -> Result<DebugOffsets> {
        parse(&table(change), Version::from_hex(0x030e0af0).unwrap())
    }

    #[test]
    fn a_real_table_equals_the_offsets_from_debug_information() {
        let found = parsed(|_| {}).unwrap();
        let known = offsets::of_minor(14).unwrap();
        assert_eq!(found.offsets, known.offsets);
        assert_eq!(Some(found.interpreters_head), known.runtime.interpreters_head);
        assert!(!found.free_threaded);
        assert!(parsed(|words| words[2] = 1).unwrap().free_threaded);
    }

    #[test]
    fn a_forged_table_is_refused() {
        for position in [8, 9, 11, 15, 16, 18, 24, 25, 26, 27, 32, 33, 34, 35, 36, 40, 42, 43, 44, 48, 80, 82] {
            for value in [u64::MAX, 1 << 40, 0x10_0000, 7] {
                if value == 7 && position == 36 {
                    continue; // One byte: 7 is a possible place.
                }
                let err = parsed(|words| words[position] = value).expect_err(&format!("word {position} = {value:#x}"));
                assert_eq!(err.kind(), ErrorKind::Unsupported);
            }
        }
        assert!(parsed(|words| words[0] = 0).is_err());
        assert!(parsed(|words| words[1] = 0x030e0bf0).is_err());
        assert!(parse(&table(|_| {})[..600], Version::from_hex(0x030e0af0).unwrap()).is_err());
    }

    #[test]
    fn an_unknown_version_is_named() {
        let err = parse(&table(|_| {}), Version::from_hex(0x031000f0).unwrap()).unwrap_err();
        assert_eq!(err.message(), "CPython 3.16.0 is not supported");
        assert!(err.to_string().contains("3.6 to 3.15"));
    }
}
