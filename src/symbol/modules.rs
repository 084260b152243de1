//! The executable mappings of a process, kept up to date: which file an instruction belongs to.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::image::Image;
use super::names::Names;
use crate::target::elf;
use crate::target::memory::Memory;
use crate::target::process::{self, Mapping};

/// An address outside every known mapping makes the mappings be read again, but not more often than this.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// And any address does after this time: another file may have taken a place.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// A file as /proc/PID/maps identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: (u32, u32),
    inode: u64,
}

/// One executable mapping.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// Addresses.
    pub(super) range: Range<u64>,
    /// Offset in the file of the first of them.
    pub(super) offset: u64,
    /// Path as the process sees it, `[vdso]`, or `[anon]`.
    pub(super) path: Arc<str>,
    /// Base name of it.
    pub(super) name: Arc<str>,
    /// Which file; absent for memory without one.
    pub(super) file: Option<FileId>,
    /// The ELF file, when it could be opened and is one.
    pub(super) image: Option<Arc<Image>>,
}

impl Module {
    fn new(mapping: &Mapping, image: Option<Arc<Image>>, names: &mut Names) -> Self {
        let path = if mapping.path.is_empty() { "[anon]" } else { &mapping.path };
        Self {
            range: mapping.start..mapping.end,
            offset: mapping.offset,
            path: names.intern(path),
            name: names.intern(process::base_name(path)),
            file: file_id(mapping),
            image,
        }
    }

    /// It still is this mapping.
    fn is(&self, mapping: &Mapping) -> bool {
        self.range == (mapping.start..mapping.end) && self.offset == mapping.offset && self.file == file_id(mapping)
    }

    /// Offset in the file of an address inside.
    pub(super) fn file_offset(&self, address: u64) -> u64 {
        address - self.range.start + self.offset
    }

    /// An address inside lies in the interpreter's evaluation function.
    pub(super) fn in_evaluation(&self, address: u64) -> bool {
        self.image.as_ref().is_some_and(|image| {
            let linked = image.address_of(self.file_offset(address));
            linked.is_some_and(|linked| image.evaluation().iter().any(|part| part.contains(&linked)))
        })
    }
}

fn file_id(mapping: &Mapping) -> Option<FileId> {
    mapping.is_file().then_some(FileId { device: mapping.device, inode: mapping.inode })
}

/// ELF files by identity. They stay open: so their identity can't be reused, and a process may exit before its
/// addresses are named. Processes of one program share them.
#[derive(Debug, Default)]
pub(super) struct Images(HashMap<FileId, Option<Arc<Image>>>);

impl Images {
    fn of(&mut self, tgid: u32, mapping: &Mapping) -> Option<Arc<Image>> {
        let Some(file) = file_id(mapping) else {
            let vdso = || Memory::of(tgid).bytes(mapping.start, (mapping.end - mapping.start) as usize).ok();
            return if mapping.path == "[vdso]" { Image::from_memory(vdso()?).map(Arc::new) } else { None };
        };
        let open = || elf::open(tgid, mapping).and_then(Image::of_file).ok().map(Arc::new);
        self.0.entry(file).or_insert_with(open).clone()
    }
}

/// The executable mappings of one process, by address.
#[derive(Debug)]
pub(super) struct Modules {
    tgid: u32,
    modules: Vec<Module>,
    read_at: Option<Instant>,
    /// Counts the readings.
    generation: u32,
}

impl Modules {
    /// Of the process `tgid`; nothing is read before the first question.
    pub(super) fn of(tgid: u32) -> Self {
        Self { tgid, modules: Vec::new(), read_at: None, generation: 0 }
    }

    /// All of them, in the order of addresses, as of the last reading.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter()
    }

    /// Changes when they were read again.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// The module `address` lies in.
    pub(super) fn find(&self, address: u64) -> Option<&Module> {
        let index = self.modules.partition_point(|module| module.range.start <= address).checked_sub(1)?;
        self.modules.get(index).filter(|module| module.range.contains(&address))
    }

    /// Reads the mappings again if `address` is outside of them or they are old. A process that ended keeps what was
    /// known.
    pub(super) fn refresh_for(&mut self, address: u64, images: &mut Images, names: &mut Names) {
        let interval = if self.find(address).is_some() { STALE_AFTER } else { REFRESH_INTERVAL };
        if self.read_at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        self.read_at = Some(Instant::now());
        let Ok(mappings) = process::mappings(self.tgid) else { return };
        let code: Vec<&Mapping> = mappings.iter().filter(|mapping| mapping.executable).collect();
        if code.len() == self.modules.len() && code.iter().zip(&self.modules).all(|(now, then)| then.is(now)) {
            return;
        }
        let module = |mapping: &Mapping| Module::new(mapping, images.of(self.tgid, mapping), names);
        self.modules = code.into_iter().map(module).collect();
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_knows_its_own_code() {
        let (mut images, mut names) = (Images::default(), Names::default());
        let mut modules = Modules::of(std::process::id());
        let address = this_process_knows_its_own_code as fn() as usize as u64;
        assert!(modules.find(address).is_none());
        modules.refresh_for(address, &mut images, &mut names);
        let module = modules.find(address).unwrap();
        assert_eq!(std::env::current_exe().unwrap().to_str().unwrap(), &*module.path);
        assert!(module.image.is_some());
        assert!(modules.iter().any(|module| &*module.path == "[vdso]" && module.image.is_some()));
    }
}
