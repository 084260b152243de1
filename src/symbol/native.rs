//! User-space addresses to function names, through blazesym.
//!
//! Files are named by (file, offset), so processes of one program share the work, and blazesym need not look at a
//! process, which would cost half its speed and fail once the process is gone. Only what is in no file is asked of the
//! process: perf maps (`python -X perf`) and the vDSO.

use std::collections::HashMap;
use std::sync::Arc;

use blazesym::Pid;
use blazesym::symbolize::source::{Elf, Process, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};

use super::modules::{FileId, Module};
use super::names::Names;
use crate::event::{Frame, FrameKind};

/// Names kept; then all are dropped, since naming again is cheap.
const NAME_LIMIT: usize = 100_000;

/// Native names as far as they were asked for.
#[derive(Debug)]
pub(super) struct NativeSymbols {
    files: Symbolizer,
    processes: Symbolizer,
    by_offset: HashMap<(FileId, u64), Arc<str>>,
    by_address: HashMap<(u32, u64), Arc<str>>,
}

impl Default for NativeSymbols {
    fn default() -> Self {
        // Images are never replaced under their path, but perf maps grow.
        let builder = || Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false);
        Self {
            files: builder().enable_auto_reload(false).build(),
            processes: builder().build(),
            by_offset: HashMap::new(),
            by_address: HashMap::new(),
        }
    }
}

impl NativeSymbols {
    /// The frame of `address`, which lies in `module` of the process. Without a symbol: `libfoo.so+0x1234`, an
    /// offset in the file.
    pub(super) fn frame(&mut self, names: &mut Names, tgid: u32, module: Option<&Module>, address: u64) -> Frame {
        let Some(module) = module else {
            return Frame { kind: FrameKind::Native, function: names.intern("[unknown]"), file: None, line: None };
        };
        if self.by_offset.len() + self.by_address.len() >= NAME_LIMIT {
            self.by_offset.clear();
            self.by_address.clear();
        }
        let offset = module.file_offset(address);
        let function = match module.file {
            Some(file) => {
                let files = &self.files;
                let named = || file_symbol(files, module, offset).unwrap_or_else(|| unnamed(module, offset));
                self.by_offset.entry((file, offset)).or_insert_with(|| names.intern(&named()))
            }
            None => {
                let processes = &self.processes;
                let named = || process_symbol(processes, tgid, address).unwrap_or_else(|| unnamed(module, offset));
                self.by_address.entry((tgid, address)).or_insert_with(|| names.intern(&named()))
            }
        };
        Frame {
            kind: FrameKind::Native,
            function: Arc::clone(function),
            file: Some(Arc::clone(&module.path)),
            line: None,
        }
    }

    /// Drops what is known of addresses of a process that ended or became another program.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.by_address.retain(|&(of, _), _| of != tgid);
    }
}

fn file_symbol(symbolizer: &Symbolizer, module: &Module, offset: u64) -> Option<String> {
    let mut elf = Elf::new(module.image.as_ref()?.path()?);
    elf.debug_syms = false;
    name_of(symbolizer.symbolize_single(&Source::Elf(elf), Input::FileOffset(offset)).ok()?)
}

fn process_symbol(symbolizer: &Symbolizer, tgid: u32, address: u64) -> Option<String> {
    let mut process = Process::new(Pid::from(tgid));
    process.debug_syms = false;
    name_of(symbolizer.symbolize_single(&Source::Process(process), Input::AbsAddr(address)).ok()?)
}

fn name_of(symbolized: Symbolized<'_>) -> Option<String> {
    symbolized.into_sym().map(|symbol| symbol.name.into_owned())
}

fn unnamed(module: &Module, offset: u64) -> String {
    format!("{}+{offset:#x}", module.name)
}
