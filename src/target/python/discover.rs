//! From a process to the layout of its interpreter: which mapped file holds it, which version it is, where its globals
//! are, and the walk that proves it.

use std::cell::OnceCell;
use std::collections::HashSet;

use super::layout::{Layout, Libc, Tls};
use super::offsets::{self, Known};
use super::verify::{self, Doubt, Seen};
use super::version::Version;
use super::{debug_offsets, gil, machine_code, thread_state};
use crate::error::{Error, ErrorKind, Result};
use crate::target::elf::{self, Elf, Symbol, Symbols};
use crate::target::memory::Memory;
use crate::target::process::{self, Mapping};

/// Why a process has no layout.
#[derive(Debug)]
pub(in crate::target) enum Trouble {
    /// No mapped file holds a CPython.
    NotPython,
    /// It has one that has not come up yet.
    TooYoung(&'static str),
    /// It has one that can be walked, but misses something that every interpreter has once it runs.
    Unsettled(Box<Layout>),
    /// It can't be read.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

/// A mapped file that holds an interpreter.
pub(super) struct Image {
    path: String,
    deleted: bool,
    pub(super) elf: Elf,
    pub(super) bias: u64,
    text: (u64, u64),
    full: OnceCell<Symbols>,
}

impl Image {
    /// The file behind `mapping`, with all of its mappings.
    fn open(tgid: u32, mappings: &[Mapping], mapping: &Mapping) -> Result<Self> {
        let elf = Elf::read(elf::open(tgid, mapping)?)?;
        let code = mappings.iter().filter(|other| other.same_file(mapping) && other.executable);
        let text = code.fold((u64::MAX, 0), |(start, end), code| (start.min(code.start), end.max(code.end)));
        let bias = elf
            .bias(mapping)
            .ok_or_else(|| Error::unsupported(format!("{} is not mapped as its program headers say", mapping.path)))?;
        let (path, deleted) = (mapping.path.clone(), mapping.deleted);
        Ok(Self { path, deleted, elf, bias, text, full: OnceCell::new() })
    }

    /// An exported symbol, or in a file that exports nothing and is not stripped, a local one.
    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.elf.dynamic_symbol(name).or_else(|| {
            // A symbol table that can't be read is like none: what matters is found otherwise or reported missing.
            self.full.get_or_init(|| self.elf.full_symbols().unwrap_or_default()).find(name)
        })
    }

    fn address(&self, name: &str) -> Option<u64> {
        Some(self.bias.wrapping_add(self.symbol(name)?.address))
    }

    /// `_PyRuntime`, or of 3.6 the current thread state: what makes a file an interpreter.
    fn interpreter(&self, thorough: bool) -> Option<Marker> {
        let find = |name| if thorough { self.symbol(name) } else { self.elf.dynamic_symbol(name) };
        let at = |symbol: Symbol| (self.bias.wrapping_add(symbol.address), symbol.size);
        find("_PyRuntime")
            .or_else(|| self.elf.section(".PyRuntime"))
            .map(|symbol| Marker::Runtime(at(symbol).0, at(symbol).1))
            .or_else(|| find("_PyThreadState_Current").map(|symbol| Marker::CurrentThreadState(at(symbol).0)))
    }
}

/// What an interpreter is recognised by.
#[derive(Clone, Copy, Debug)]
enum Marker {
    /// Address and size of `_PyRuntime`.
    Runtime(u64, u64),
    /// Address of `_PyThreadState_Current` (3.6).
    CurrentThreadState(u64),
}

/// Files without an interpreter, by device, inode and how thoroughly they were searched: a scan of many processes
/// opens each one once.
#[derive(Debug, Default)]
pub(in crate::target) struct Others(HashSet<((u32, u32), u64, bool)>);

/// Every mapped file that holds an interpreter, files named python first. The executable is searched thoroughly: a
/// program that embeds Python need not export it.
fn images(tgid: u32, mappings: &[Mapping], others: &mut Others) -> Result<Vec<(Image, Marker)>> {
    let mut files: Vec<&Mapping> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.is_file() && mapping.executable) {
        if !files.iter().any(|file| file.same_file(mapping)) {
            files.push(mapping);
        }
    }
    let executable = process::executable(tgid)?;
    let is_named = |file: &Mapping| file.base_name().contains("python");
    let mut refused = None;
    for named in [true, false] {
        let mut found = Vec::new();
        for file in files.iter().filter(|file| is_named(file) == named) {
            let thorough = named || executable.as_deref() == Some(&file.path);
            let key = (file.device, file.inode, thorough);
            if others.0.contains(&key) {
                continue;
            }
            match Image::open(tgid, mappings, file) {
                Ok(image) => match image.interpreter(thorough) {
                    Some(marker) => found.push((image, marker)),
                    None => _ = others.0.insert(key),
                },
                // Of other files, those that are no ELF files (JIT dumps, fonts mapped executable, ...) don't matter.
                Err(err) if thorough => refused = refused.or(Some(err)),
                Err(_) => {}
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    match refused {
        Some(err) => Err(err),
        None => Ok(Vec::new()),
    }
}

fn version(memory: &Memory, image: &Image, marker: Marker) -> Result<Version> {
    if let Marker::Runtime(runtime, _) = marker
        && let Some(version) = debug_offsets::version(memory, runtime)?
    {
        return Ok(version);
    }
    let constant = image.address("Py_Version").and_then(|address| memory.u32(address).ok());
    constant
        .and_then(|hex| Version::from_hex(hex.into()))
        .or_else(|| machine_code::version(memory, image))
        .or_else(|| Version::from_file_name(process::base_name(&image.path)))
        .ok_or_else(|| {
            Error::unsupported(format!("{} holds a CPython of unknown version", image.path))
                .because("it exports no Py_Version, Py_GetVersion() could not be decoded, and its name has no version")
        })
}

/// The version of the interpreter in a process, without proof by a walk; None when it is not Python.
pub(in crate::target) fn version_of(tgid: u32, others: &mut Others) -> Result<Option<String>> {
    let memory = Memory::of(tgid);
    match images(tgid, &process::mappings(tgid)?, others)?.first() {
        Some((image, marker)) => Ok(Some(version(&memory, image, *marker)?.to_string())),
        None => Ok(None),
    }
}

/// Finds and verifies the interpreter of a process.
pub(in crate::target) fn find(tgid: u32) -> Result<Layout, Trouble> {
    let memory = Memory::of(tgid);
    let mappings = process::mappings(tgid)?;
    let mut trouble = Trouble::NotPython;
    for (image, marker) in images(tgid, &mappings, &mut Others::default())? {
        let libc = if mappings.iter().any(|mapping| mapping.base_name().contains("ld-musl")) {
            Libc::Musl
        } else {
            Libc::Glibc
        };
        match (Candidate { memory: &memory, image: &image, marker, libc }).verified() {
            Ok(layout) => return Ok(layout),
            Err(found) => trouble = found,
        }
    }
    Err(trouble)
}

struct Candidate<'a> {
    memory: &'a Memory,
    image: &'a Image,
    marker: Marker,
    libc: Libc,
}

impl Candidate<'_> {
    fn verified(&self) -> Result<Layout, Trouble> {
        let version = version(self.memory, self.image, self.marker)?;
        let known =
            offsets::of_minor(version.minor).filter(|_| version.major == 3).ok_or_else(|| version.unsupported())?;
        let code_type = self.image.address("PyCode_Type");
        let mut doubt = None;
        for mut layout in self.layouts(version, known)? {
            match verify::walk(self.memory, &layout, code_type) {
                Ok(seen) => {
                    self.complete(&mut layout, known, &seen);
                    let settled = !seen.is_idle() && self.is_complete(&layout, known);
                    return if settled { Ok(layout) } else { Err(Trouble::Unsettled(Box::new(layout))) };
                }
                Err(found) => doubt = doubt.or(Some(found)),
            }
        }
        match doubt {
            Some(Doubt::NotYet(why)) => Err(Trouble::TooYoung(why)),
            Some(Doubt::Wrong(err)) if err.kind() != ErrorKind::Failed => Err(err.into()),
            Some(Doubt::Wrong(err)) => Err(Trouble::Failed(self.unfit(version).because(err.message()))),
            None => Err(Trouble::Failed(self.unfit(version).because("the head of its interpreters was not found"))),
        }
    }

    fn unfit(&self, version: Version) -> Error {
        Error::unsupported(format!("the CPython {version} in {} is laid out in an unknown way", self.image.path))
            .hint("a debug, patched or unusual build? please report it with the output of `python -VV`")
    }

    /// Layouts to try, best first: they differ where the running build was asked and where the table is the only hint.
    fn layouts(&self, version: Version, known: &Known) -> Result<Vec<Layout>> {
        let runtime = match self.marker {
            Marker::Runtime(address, _) => address,
            Marker::CurrentThreadState(_) => 0,
        };
        let mut layout = Layout {
            version_hex: version.hex(),
            version: version.to_string(),
            image_path: self.image.path.clone(),
            image_bias: self.image.bias,
            image_text: self.image.text,
            runtime,
            current_thread_state: 0,
            tss_key: 0,
            interpreters_head: 0,
            gil: 0,
            gc_collecting: 0,
            tls: Tls::None,
            slot_offset: 0,
            libc: self.libc,
            offsets: known.offsets,
            gils: Vec::new(),
            evidence: String::new(),
        };
        let mut heads = Vec::new();
        if version.minor >= 13 {
            let table = debug_offsets::read(self.memory, runtime, version)?;
            if table.free_threaded {
                return Err(Error::unsupported(format!("this CPython {version} is a free-threaded build"))
                    .because(format!("{} says so in _Py_DebugOffsets", self.image.path))
                    .because("its objects are laid out differently, and no such build was there to verify them on")
                    .hint("run the service with the standard build of the same version"));
            }
            layout.offsets = table.offsets;
            heads.push(runtime + u64::from(table.interpreters_head));
        } else {
            heads.extend(machine_code::returned_global(self.memory, self.image, "PyInterpreterState_Head"));
            heads.extend(known.runtime.interpreters_head.map(|offset| runtime + u64::from(offset)));
            heads.dedup();
        }
        Ok(heads.into_iter().map(|interpreters_head| Layout { interpreters_head, ..layout.clone() }).collect())
    }

    /// Fills in what the living threads tell, and what can only be judged with them.
    fn complete(&self, layout: &mut Layout, known: &Known, seen: &Seen) {
        layout.current_thread_state = self.current_thread_state(known, seen);
        layout.tss_key = self.tss_key(known);
        // 3.12 made the current thread state a thread-local variable; 3.15 added one that survives a detach.
        if known.runtime.current_thread_state.is_none() && layout.runtime != 0 {
            let has_gilstate = known.runtime.tss_key.is_none();
            layout.tls = thread_state::thread_local(self.memory, self.image, has_gilstate);
            if layout.tls == Tls::None {
                let offset = thread_state::static_tls_offset(self.memory, seen);
                layout.tls = if offset == 0 { Tls::None } else { Tls::Static { offset, gilstate_offset: 0 } };
            }
        }
        if layout.tss_key != 0 && self.libc == Libc::Glibc {
            layout.slot_offset = thread_state::slot_offset(self.memory, seen, self.memory.u32(layout.tss_key).ok());
        }
        let mut notes = Vec::new();
        gil::complete(self.memory, self.image, layout, known, seen, &mut notes);
        layout.gc_collecting = self.gc_collecting(layout, known);
        layout.evidence = evidence(layout, seen, self.image.deleted, &notes);
    }

    /// Every way that this version has is known: an interpreter that starts creates its key, its GIL and its thread-local
    /// variables one after the other.
    fn is_complete(&self, layout: &Layout, known: &Known) -> bool {
        let has_key = layout.runtime == 0 || known.runtime.tss_key.is_some();
        let has_current = layout.runtime == 0 || known.runtime.current_thread_state.is_some();
        let key_found = layout.tss_key != 0 && (layout.slot_offset != 0 || self.libc == Libc::Musl);
        let current_found = if has_current { layout.current_thread_state != 0 } else { layout.tls != Tls::None };
        (!has_key || key_found) && current_found && !layout.gils.is_empty()
    }

    /// An address inside `_PyRuntime`: the running build's own, else the table's.
    fn in_runtime(&self, decoded: Option<u64>, table: Option<u32>) -> Option<u64> {
        let Marker::Runtime(runtime, size) = self.marker else { return decoded };
        let inside = |address: &u64| (runtime..runtime + size.max(1)).contains(address);
        decoded.filter(inside).or(table.map(|offset| runtime + u64::from(offset)).filter(inside))
    }

    fn current_thread_state(&self, known: &Known, seen: &Seen) -> u64 {
        let found = match self.marker {
            Marker::CurrentThreadState(address) => Some(address),
            Marker::Runtime(..) if known.runtime.current_thread_state.is_none() => None,
            Marker::Runtime(..) => {
                let decoded = machine_code::returned_global(self.memory, self.image, "_PyThreadState_UncheckedGet");
                self.in_runtime(decoded, known.runtime.current_thread_state)
            }
        };
        // It is NULL or a thread state; a thread that came since the walk is worth another look.
        let fits = |address: &u64| {
            (0..16).any(|_| self.memory.u64(*address).is_ok_and(|state| state == 0 || seen.thread_at(state)))
        };
        found.filter(fits).unwrap_or(0)
    }

    fn tss_key(&self, known: &Known) -> u64 {
        let is_36 = matches!(self.marker, Marker::CurrentThreadState(_));
        if known.runtime.tss_key.is_none() && !is_36 {
            return 0;
        }
        let decoded = machine_code::tss_key(self.memory, self.image);
        let key = self.in_runtime(decoded, known.runtime.tss_key);
        // Py_tss_t begins with `_is_initialized`; a process has at most PTHREAD_KEYS_MAX keys.
        let is_key = |address: &u64| {
            self.memory.u32(*address).is_ok_and(|key| key < 1024)
                && (is_36 || self.memory.u32(*address - 4).is_ok_and(|initialized| initialized == 1))
        };
        key.filter(is_key).unwrap_or(0)
    }

    fn gc_collecting(&self, layout: &Layout, known: &Known) -> u64 {
        if layout.offsets.interpreter_gc_collecting != 0 {
            return 0;
        }
        let decoded = machine_code::gc_collecting(self.memory, self.image);
        // The table's place is right only for the patch levels whose GIL lies where the table says.
        let table = known
            .runtime
            .gc_collecting
            .filter(|_| known.runtime.gil.is_some_and(|offset| layout.gil == layout.runtime + u64::from(offset)));
        let found = self.in_runtime(decoded, table);
        found.filter(|address| self.memory.u32(*address).is_ok_and(|flag| flag <= 1)).unwrap_or(0)
    }
}

/// `walked 8 threads (TSS slot 0x318)` and what a person should know besides.
fn evidence(layout: &Layout, seen: &Seen, deleted: bool, notes: &[String]) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut text = format!("walked {}", plural(seen.threads.len(), "thread"));
    if seen.interpreters.len() > 1 {
        text += &format!(" of {}", plural(seen.interpreters.len(), "interpreter"));
    }
    text += &format!(" ({})", thread_state::describe(layout));
    if seen.is_idle() {
        text += ", none runs Python code";
    }
    if deleted {
        text += ", its file was removed or replaced on disk";
    }
    for note in notes {
        text += ", ";
        text += note;
    }
    text
}
