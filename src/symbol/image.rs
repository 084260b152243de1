//! One ELF file as mapped by some process: sections for unwinding, segments, and where its evaluation loop is.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Object, ObjectSection, elf};

use super::eval_loop;
use crate::error::{Context, Error, Result};

/// The bytes of an ELF file.
#[derive(Debug)]
enum Storage {
    /// A file, kept open: its path in /proc/self/fd stays good after the process is gone.
    File(File, Mmap),
    /// The vDSO, copied from the process.
    Memory(Vec<u8>),
}

/// A section's bytes, shared with the unwinder without a copy.
#[derive(Clone, Debug)]
pub(super) struct SectionBytes {
    storage: Arc<Storage>,
    range: Range<usize>,
}

impl Deref for SectionBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.storage.bytes().get(self.range.clone()).unwrap_or_default()
    }
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::File(_, map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

/// A section: its addresses as linked, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) addresses: Range<u64>,
    pub(super) bytes: SectionBytes,
}

/// What unwinding needs of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct UnwindSections {
    pub(super) text: Option<Range<u64>>,
    pub(super) got: Option<Range<u64>>,
    pub(super) eh_frame: Option<Section>,
    pub(super) eh_frame_hdr: Option<Section>,
}

/// One loadable segment: file offsets and the address of the first of them.
#[derive(Clone, Debug)]
struct Segment {
    offsets: Range<u64>,
    address: u64,
    alignment: u64,
}

/// An ELF file.
#[derive(Debug)]
pub(super) struct Image {
    storage: Arc<Storage>,
    segments: Vec<Segment>,
    sections: UnwindSections,
    evaluation: OnceLock<Vec<Range<u64>>>,
}

impl Image {
    /// Maps an open file.
    pub(super) fn of_file(file: File) -> Result<Self> {
        // SAFETY: the file is mapped into a running process as code, which would crash with us if somebody cut it short;
        // changed bytes are only ever read as ELF data, with bounds checked.
        let map = unsafe { Mmap::map(&file) }.context(|| "cannot map the file".into())?;
        Self::of(Storage::File(file, map))
    }

    /// The vDSO's bytes.
    pub(super) fn from_memory(bytes: Vec<u8>) -> Option<Self> {
        Self::of(Storage::Memory(bytes)).ok()
    }

    fn of(storage: Storage) -> Result<Self> {
        let storage = Arc::new(storage);
        let elf = parse(storage.bytes())?;
        let endian = elf.endian();
        let segment = |header: &elf::ProgramHeader64<_>| Segment {
            offsets: header.p_offset(endian)..header.p_offset(endian).saturating_add(header.p_filesz(endian)),
            address: header.p_vaddr(endian),
            alignment: header.p_align(endian).max(1),
        };
        let loads = elf.elf_program_headers().iter().filter(|header| header.p_type(endian) == elf::PT_LOAD);
        let segments = loads.map(segment).collect();
        let addresses = |name| {
            let section = elf.section_by_name(name)?;
            Some(section.address()..section.address().saturating_add(section.size()))
        };
        let section = |name| {
            let (offset, size) = elf.section_by_name(name)?.file_range()?;
            let range = usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(size)?).ok()?;
            Some(Section { addresses: addresses(name)?, bytes: SectionBytes { storage: Arc::clone(&storage), range } })
        };
        let sections = UnwindSections {
            text: addresses(".text"),
            got: addresses(".got"),
            eh_frame: section(".eh_frame"),
            eh_frame_hdr: section(".eh_frame_hdr"),
        };
        Ok(Self { segments, sections, evaluation: OnceLock::new(), storage: Arc::clone(&storage) })
    }

    /// A path under which the file can be opened as long as this image lives; `None` for the vDSO.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match &*self.storage {
            Storage::File(file, _) => Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))),
            Storage::Memory(_) => None,
        }
    }

    /// Sections for unwinding.
    pub(super) fn sections(&self) -> &UnwindSections {
        &self.sections
    }

    /// The linked address of what stands at `offset` in the file. The loader maps whole pages, so `offset` may lie
    /// before the first byte of the segment on its page.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        let covers = |segment: &&Segment| {
            let first = segment.offsets.start - segment.offsets.start % segment.alignment;
            (first..segment.offsets.end).contains(&offset)
        };
        let segment = self.segments.iter().rev().find(covers)?;
        Some(segment.address.wrapping_add(offset).wrapping_sub(segment.offsets.start))
    }

    /// The bytes linked at `addresses`.
    pub(super) fn bytes_at(&self, addresses: Range<u64>) -> Option<&[u8]> {
        let length = |segment: &Segment| segment.offsets.end - segment.offsets.start;
        let covers =
            |segment: &&Segment| (segment.address..segment.address + length(segment)).contains(&addresses.start);
        let segment = self.segments.iter().find(covers)?;
        let start = segment.offsets.start + (addresses.start - segment.address);
        let end = start.checked_add(addresses.end.checked_sub(addresses.start)?)?;
        self.storage.bytes().get(start as usize..end as usize)
    }

    /// The linked addresses of `_PyEval_EvalFrameDefault`, with the part the compiler moved away as cold; empty where
    /// there is no such function.
    pub(super) fn evaluation(&self) -> &[Range<u64>] {
        self.evaluation.get_or_init(|| match parse(self.storage.bytes()) {
            Ok(elf) => eval_loop::find(self, &elf),
            Err(_) => Vec::new(),
        })
    }
}

fn parse(bytes: &[u8]) -> Result<ElfFile64<'_>> {
    ElfFile64::parse(bytes).map_err(|err| Error::failed("not a 64-bit ELF file").because(err.to_string()))
}
