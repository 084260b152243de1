//! Python frames: code objects by (process, address, identity hash) to names and lines.
//!
//! The walker sends a code object's names and line table with the first stack that needs them, as much as fits a record.
//! What did not fit, or got lost, is read from the process, and believed only while the identity hash still fits: the
//! allocator gives a freed code object's address to the next one. So a name may be missing, but is never another's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::code_object::{self, CodeFacts, StringState};
use super::names::Names;
use crate::event::{Frame, FrameKind};
use crate::target::memory::Memory;
use crate::target::python::layout::Layout;

/// Code objects kept; as many as the kernel's `known` map holds (bpf/lib/python.bpf.h).
const CODE_LIMIT: usize = 65_536;
/// Distinct positions of one code object whose lines are kept.
const POSITION_LIMIT: usize = 256;

/// Name of a frame whose code object was gone before anything was known of it.
pub const GONE: &str = "[gone]";

/// One code object of one process: the key of the kernel's `known` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeKey {
    /// Process.
    pub tgid: u32,
    /// Address of the code object.
    pub code: u64,
    /// Identity hash.
    pub hash: u32,
}

/// A str as a symbol record holds it.
#[derive(Clone, Copy, Debug)]
pub struct RecordString<'a> {
    /// `PyASCIIObject.state`
    pub state: u32,
    /// Length in characters.
    pub length: u64,
    /// The record's whole field: up to one byte less than it holds was copied.
    pub bytes: &'a [u8],
}

/// A symbol record, decoded.
#[derive(Clone, Copy, Debug)]
pub struct SymbolRecord<'a> {
    /// Which code object.
    pub key: CodeKey,
    /// `co_firstlineno`
    pub first_line: i32,
    /// `co_qualname`, or `co_name` before 3.11.
    pub name: RecordString<'a>,
    /// `co_filename`
    pub file: RecordString<'a>,
    /// The record's whole line table field.
    pub lines: &'a [u8],
    /// Real length of the line table.
    pub lines_length: u64,
}

/// What one walked Python frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedFrame {
    /// A function of the program.
    Known(Frame),
    /// The interpreter's own trampoline: not shown.
    Trampoline,
    /// Its code object was freed before it was known.
    Gone,
}

/// What is shown of one code object.
#[derive(Clone, Debug)]
struct CodeSymbol {
    name: Arc<str>,
    file: Arc<str>,
    first_line: i32,
    /// The whole line table; absent when only part of it was seen.
    lines: Option<Box<[u8]>>,
    /// Lines by f_lasti, sorted by it.
    positions: Vec<(u32, Option<u32>)>,
}

/// The code objects known so far; the oldest make room when there are too many.
#[derive(Debug, Default)]
pub(super) struct CodeCache {
    /// `None`: gone.
    codes: HashMap<CodeKey, Option<CodeSymbol>>,
    oldest: VecDeque<CodeKey>,
    added: Vec<CodeKey>,
    removed: Vec<CodeKey>,
}

impl CodeCache {
    /// Takes in a symbol record. `process` serves what the record has only part of.
    pub(super) fn record(&mut self, names: &mut Names, record: &SymbolRecord<'_>, process: Option<(&Layout, &Memory)>) {
        if matches!(self.codes.get(&record.key), Some(Some(_))) {
            self.added.push(record.key); // The kernel did not know yet that it is.
            return;
        }
        let (name, file) = (copied(&record.name), copied(&record.file));
        let lines = record.lines.get(..record.lines_length as usize);
        let lines = lines.filter(|lines| lines.len() < record.lines.len());
        if let (Copied::Whole(name), Copied::Whole(file), Some(lines)) = (&name, &file, lines) {
            self.insert(record.key, Some(CodeSymbol::new(names, name, file, record.first_line, Some(lines))));
            return;
        }
        let read = process
            .and_then(|(layout, memory)| code_object::read(&layout.offsets, memory, record.key.code, record.key.hash));
        let symbol = match (read, name.shown(), file.shown()) {
            (Some(facts), ..) => CodeSymbol::of(names, &facts),
            (None, Some(name), Some(file)) => CodeSymbol::new(names, &name, &file, record.first_line, lines),
            _ => return,
        };
        self.insert(record.key, Some(symbol));
    }

    /// The frame of `code` at `position` (f_lasti as the walker sent it) in the process of `memory`.
    pub(super) fn resolve(
        &mut self,
        names: &mut Names,
        layout: &Layout,
        memory: &Memory,
        code: u64,
        hash: u32,
        position: u32,
    ) -> ResolvedFrame {
        let key = CodeKey { tgid: memory.tgid(), code, hash };
        if let Some(known) = self.codes.get_mut(&key) {
            return known.as_mut().map_or(ResolvedFrame::Gone, |symbol| symbol.resolved(layout, position));
        }
        let facts = code_object::read(&layout.offsets, memory, code, hash);
        let mut symbol = facts.map(|facts| CodeSymbol::of(names, &facts));
        let resolved = symbol.as_mut().map_or(ResolvedFrame::Gone, |symbol| symbol.resolved(layout, position));
        self.insert(key, symbol);
        resolved
    }

    fn insert(&mut self, key: CodeKey, symbol: Option<CodeSymbol>) {
        if symbol.is_some() {
            self.added.push(key);
        }
        if self.codes.insert(key, symbol).is_none() {
            self.oldest.push_back(key);
        }
        while self.codes.len() > CODE_LIMIT {
            let Some(key) = self.oldest.pop_front() else { break };
            self.codes.remove(&key);
            self.removed.push(key);
        }
    }

    /// Drops everything of a process that ended or became another program.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.oldest.retain(|key| key.tgid != tgid);
        self.removed.extend(self.codes.keys().filter(|key| key.tgid == tgid));
        self.codes.retain(|key, _| key.tgid != tgid);
    }

    /// Code objects that became known since the last call: the kernel need not send them (again).
    pub(super) fn take_added(&mut self) -> Vec<CodeKey> {
        std::mem::take(&mut self.added)
    }

    /// Code objects no longer known: the kernel should send them when it meets them again.
    pub(super) fn take_removed(&mut self) -> Vec<CodeKey> {
        std::mem::take(&mut self.removed)
    }
}

impl CodeSymbol {
    fn new(names: &mut Names, name: &str, file: &str, first_line: i32, lines: Option<&[u8]>) -> Self {
        Self {
            name: names.intern(name),
            file: names.intern(file),
            first_line,
            lines: lines.map(Box::from),
            positions: Vec::new(),
        }
    }

    fn of(names: &mut Names, facts: &CodeFacts) -> Self {
        Self::new(names, &facts.name, &facts.file, facts.first_line, Some(&facts.lines))
    }

    fn resolved(&mut self, layout: &Layout, position: u32) -> ResolvedFrame {
        if layout.is_trampoline(&self.file) {
            return ResolvedFrame::Trampoline;
        }
        let line = self.line(layout, position);
        let (function, file) = (Arc::clone(&self.name), Some(Arc::clone(&self.file)));
        ResolvedFrame::Known(Frame { kind: FrameKind::Python, function, file, line })
    }

    fn line(&mut self, layout: &Layout, position: u32) -> Option<u32> {
        let index = match self.positions.binary_search_by_key(&position, |&(position, _)| position) {
            Ok(index) => return self.positions[index].1,
            Err(index) => index,
        };
        let line = self.lines.as_deref().and_then(|table| layout.line(table, self.first_line, position));
        if self.positions.len() < POSITION_LIMIT {
            self.positions.insert(index, (position, line));
        }
        line
    }
}

/// A str of a record.
enum Copied {
    Whole(String),
    Cut(String),
    Unreadable,
}

impl Copied {
    /// What may be shown: a cut name says so.
    fn shown(self) -> Option<String> {
        match self {
            Self::Whole(text) => Some(text),
            Self::Cut(text) => Some(text + "…"),
            Self::Unreadable => None,
        }
    }
}

fn copied(string: &RecordString<'_>) -> Copied {
    let state = StringState(string.state);
    if !state.is_readable() {
        return Copied::Unreadable;
    }
    let room = string.bytes.len().saturating_sub(1) as u64;
    let length = string.length.saturating_mul(state.width() as u64);
    let bytes = &string.bytes[..length.min(room) as usize];
    // A failed copy leaves zeroes.
    if !bytes.is_empty() && bytes.iter().all(|&byte| byte == 0) {
        return Copied::Unreadable;
    }
    let text = state.decode(bytes);
    if length <= room { Copied::Whole(text) } else { Copied::Cut(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCII: u32 = 1 << 2 | 1 << 5 | 1 << 6;
    const KEY: CodeKey = CodeKey { tgid: 7, code: 0x1000, hash: 9 };

    fn field<const N: usize>(text: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        let length = text.len().min(N - 1);
        bytes[..length].copy_from_slice(&text[..length]);
        bytes
    }

    fn take_in(cache: &mut CodeCache, name: &str, file: &str, key: CodeKey) {
        let (name_bytes, file_bytes) = (field::<128>(name.as_bytes()), field::<256>(file.as_bytes()));
        let record = SymbolRecord {
            key,
            first_line: 3,
            name: RecordString { state: ASCII, length: name.len() as u64, bytes: &name_bytes },
            file: RecordString { state: ASCII, length: file.len() as u64, bytes: &file_bytes },
            lines: &[0; 512],
            lines_length: 0,
        };
        cache.record(&mut Names::default(), &record, None);
    }

    fn symbol(cache: &CodeCache, key: CodeKey) -> Option<(&str, &str)> {
        let symbol = cache.codes.get(&key)?.as_ref()?;
        Some((&symbol.name, &symbol.file))
    }

    #[test]
    fn whole_records_are_taken_as_they_are() {
        let mut cache = CodeCache::default();
        take_in(&mut cache, "Shop.order", "/srv/shop.py", KEY);
        assert_eq!(symbol(&cache, KEY), Some(("Shop.order", "/srv/shop.py")));
        assert_eq!(cache.take_added(), [KEY]);
        assert!(cache.take_added().is_empty());
    }

    #[test]
    fn a_name_of_127_bytes_is_whole_and_one_of_128_is_cut() {
        let mut cache = CodeCache::default();
        let (whole, cut) = ("n".repeat(127), "n".repeat(128));
        take_in(&mut cache, &whole, "f", KEY);
        assert_eq!(symbol(&cache, KEY), Some((&*whole, "f")));
        let other = CodeKey { hash: 10, ..KEY };
        take_in(&mut cache, &cut, "f", other);
        assert_eq!(symbol(&cache, other), Some((&*format!("{whole}…"), "f")));
    }

    #[test]
    fn unreadable_names_are_not_taken() {
        let mut cache = CodeCache::default();
        take_in(&mut cache, "\0\0\0", "f", KEY);
        assert_eq!(symbol(&cache, KEY), None);
        assert!(cache.take_added().is_empty());
    }

    #[test]
    fn the_oldest_make_room_and_a_process_is_forgotten() {
        let mut cache = CodeCache::default();
        for code in 0..CODE_LIMIT as u64 + 1 {
            take_in(&mut cache, "f", "f", CodeKey { code, ..KEY });
        }
        assert_eq!(cache.codes.len(), CODE_LIMIT);
        assert_eq!(cache.take_removed(), [CodeKey { code: 0, ..KEY }]);
        let other = CodeKey { tgid: 8, ..KEY };
        take_in(&mut cache, "f", "f", other);
        cache.forget(KEY.tgid);
        assert_eq!(cache.codes.len(), 1);
        assert_eq!(cache.take_removed().len(), CODE_LIMIT);
    }
}
