//! The ELF file behind a mapping: its symbols and segments, wherever its name went.
//!
//! Only headers and symbol tables are read from the file; code and data are read from the process itself.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use object::LittleEndian;
use object::elf::{FileHeader64, PF_W, PF_X, PT_LOAD, SHT_DYNSYM, SHT_SYMTAB, Sym64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};

use super::process::{self, Mapping};
use crate::error::{Context, Error, Result};

/// A symbol that the file defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Address in the file's own address space: add the load bias.
    pub address: u64,
    /// Bytes; 0 when the file does not say.
    pub size: u64,
}

/// One `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address in the file's own address space.
    pub address: u64,
    /// Bytes in memory.
    pub size: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// It holds code.
    pub executable: bool,
    /// It holds variables.
    pub writable: bool,
}

/// What is needed of one ELF file.
#[derive(Debug)]
pub struct Elf {
    file: File,
    dynamic: Symbols,
    /// Machine code of another kind than this machine's can't be decoded.
    pub machine: u16,
    /// Loaded segments in file order.
    pub segments: Vec<Segment>,
    /// The note the linker left, hexadecimal; empty when there is none.
    pub build_id: String,
}

impl Elf {
    /// Reads the headers and the dynamic symbols of a 64-bit little-endian file.
    pub fn read(file: File) -> Result<Self> {
        let cache = ReadCache::new(file.try_clone()?);
        let header = FileHeader64::<LittleEndian>::parse(&cache).map_err(|err| bad(&err))?;
        let endian = header.endian().map_err(|err| bad(&err))?;
        let programs = header.program_headers(endian, &cache).map_err(|err| bad(&err))?;
        let segments = programs.iter().filter(|program| program.p_type(endian) == PT_LOAD);
        let segments = segments.map(|program| Segment {
            address: program.p_vaddr(endian),
            size: program.p_memsz(endian),
            offset: program.p_offset(endian),
            file_size: program.p_filesz(endian),
            executable: program.p_flags(endian).0 & PF_X.0 != 0,
            writable: program.p_flags(endian).0 & PF_W.0 != 0,
        });
        let segments = segments.collect();
        let build_id = programs.iter().find_map(|program| {
            let mut notes = program.notes(endian, &cache).ok()??;
            while let Ok(Some(note)) = notes.next() {
                if note.name() == object::elf::ELF_NOTE_GNU && note.n_type(endian) == object::elf::NT_GNU_BUILD_ID {
                    return Some(note.desc().iter().map(|byte| format!("{byte:02x}")).collect());
                }
            }
            None
        });
        let machine = header.e_machine(endian).0;
        let dynamic = Symbols::read(&cache, SHT_DYNSYM)?;
        Ok(Self { file, dynamic, machine, segments, build_id: build_id.unwrap_or_default() })
    }

    /// A symbol of the dynamic table, which stripping leaves.
    pub fn dynamic_symbol(&self, name: &str) -> Option<Symbol> {
        self.dynamic.find(name)
    }

    /// A section by its name, as a symbol: its address and size.
    pub fn section(&self, name: &str) -> Option<Symbol> {
        let cache = ReadCache::new(self.file.try_clone().ok()?);
        let header = FileHeader64::<LittleEndian>::parse(&cache).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, &cache).ok()?;
        let (_, section) = sections.section_by_name(endian, name.as_bytes())?;
        Some(Symbol { address: section.sh_addr(endian), size: section.sh_size(endian) })
    }

    /// Symbols of the full table, local ones included; empty for a stripped file.
    pub fn full_symbols(&self) -> Result<Symbols> {
        Symbols::read(&ReadCache::new(self.file.try_clone()?), SHT_SYMTAB)
    }

    /// Load bias, from one mapping of this file: memory address = bias + address in the file. None for a mapping that
    /// the loader did not make.
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        const PAGE: u64 = 0xfff;
        let segment = self.segments.iter().find(|segment| {
            let first = segment.offset & !PAGE;
            segment.executable == mapping.executable
                && first <= mapping.offset
                && mapping.offset < segment.offset + segment.file_size
        })?;
        Some(mapping.start.wrapping_sub(mapping.offset).wrapping_sub(segment.address.wrapping_sub(segment.offset)))
    }
}

fn bad(err: &dyn std::fmt::Display) -> Error {
    Error::unsupported(format!("not a 64-bit little-endian ELF file: {err}"))
}

/// A symbol table with its names.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Offset of the name, and the symbol.
    entries: Vec<(u32, Symbol)>,
    names: Vec<u8>,
}

impl Symbols {
    fn read(cache: &ReadCache<File>, kind: object::elf::SectionType) -> Result<Self> {
        let header = FileHeader64::<LittleEndian>::parse(cache).map_err(|err| bad(&err))?;
        let endian = header.endian().map_err(|err| bad(&err))?;
        let sections = header.section_headers(endian, cache).map_err(|err| bad(&err))?;
        let Some(table) = sections.iter().find(|section| section.sh_type(endian) == kind) else {
            return Ok(Self::default());
        };
        let symbols: &[Sym64<LittleEndian>] = table.data_as_array(endian, cache).map_err(|err| bad(&err))?;
        let names = sections.get(table.sh_link(endian) as usize);
        let names = names.ok_or_else(|| bad(&"a symbol table without names"))?;
        let names = names.data(endian, cache).map_err(|err| bad(&err))?.to_vec();
        let defined = symbols.iter().filter(|symbol| !symbol.is_undefined(endian) && symbol.st_value(endian) != 0);
        let entries = defined.map(|symbol| {
            let found = Symbol { address: symbol.st_value(endian), size: symbol.st_size(endian) };
            (symbol.st_name(endian), found)
        });
        Ok(Self { entries: entries.collect(), names })
    }

    /// The first symbol of that name.
    pub fn find(&self, name: &str) -> Option<Symbol> {
        let wanted = name.as_bytes();
        let is_named = |offset: u32| {
            let rest = self.names.get(offset as usize..).unwrap_or_default();
            rest.strip_prefix(wanted).is_some_and(|rest| rest.first() == Some(&0))
        };
        self.entries.iter().find(|(offset, _)| is_named(*offset)).map(|(_, symbol)| *symbol)
    }
}

/// Opens the very file a mapping maps: by `map_files`, which finds it even when it is removed, replaced or in another
/// mount namespace; without the right for that, by `exe` or by its path when device and inode agree.
pub fn open(tgid: u32, mapping: &Mapping) -> Result<File> {
    let map_file = format!("/proc/{tgid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    let refused = match open_regular(&map_file) {
        Ok(file) => return Ok(file),
        Err(err) => err,
    };
    let named = process::root(tgid).join(mapping.path.trim_start_matches('/'));
    for path in [format!("/proc/{tgid}/exe").into(), named] {
        let same = |found: &fs::Metadata| {
            let device = (libc::major(found.dev()), libc::minor(found.dev()));
            found.ino() == mapping.inode && device == mapping.device
        };
        if fs::metadata(&path).is_ok_and(|found| found.is_file() && same(&found)) {
            return open_regular(&path).context(|| format!("cannot open {}", path.display()));
        }
    }
    Err(refused
        .context(format!("cannot open {}, mapped by process {tgid}", mapping.path))
        .because("its path leads to another file now")
        .hint("run pylow as root: /proc/PID/map_files then leads to the mapped file"))
}

/// Never blocks on a FIFO or a device that someone put where a library is expected.
fn open_regular(path: impl AsRef<std::path::Path>) -> Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(Error::unsupported("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_executable() {
        let own = std::process::id();
        let exe = process::executable(own).unwrap().unwrap();
        let mappings = process::mappings(own).unwrap();
        let mapping = mappings.iter().find(|mapping| mapping.path == exe && mapping.executable).unwrap();
        let elf = Elf::read(open(own, mapping).unwrap()).unwrap();
        let symbols = elf.full_symbols().unwrap();
        let main = symbols.find("main").unwrap();
        let address = elf.bias(mapping).unwrap() + main.address;
        assert!((mapping.start..mapping.end).contains(&address));
        assert!(elf.dynamic_symbol("no such symbol").is_none());
    }

    #[test]
    fn not_an_elf_file() {
        assert!(Elf::read(File::open("/proc/self/maps").unwrap()).is_err());
        assert!(open_regular("/dev/null").is_err());
    }
}
