//! Functions of mapped files as places for probes: file and offset, whatever the file is called by now.

use std::path::PathBuf;

use super::elf::{self, Elf};
use super::process;
use crate::error::{Error, Result};

/// A function of a file that a process maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSite {
    /// The process.
    pub tgid: u32,
    /// Leads to the mapped file even when it is replaced or in another mount namespace.
    pub path: PathBuf,
    /// First instruction, as an offset in the file.
    pub offset: u64,
}

/// Finds `symbol` in the mapping of `tgid` whose base name is `file`, or begins with it (`libc` for `libc.so.6`).
pub fn find(tgid: u32, file: &str, symbol: &str) -> Result<FunctionSite> {
    let mappings = process::mappings(tgid)?;
    let code = || mappings.iter().filter(|mapping| mapping.executable && mapping.is_file());
    let exact = code().find(|mapping| mapping.base_name() == file);
    let begins = |name: &str| name.strip_prefix(file).is_some_and(|rest| rest.starts_with(['.', '-']));
    let mapping = exact.or_else(|| code().find(|mapping| begins(mapping.base_name()))).ok_or_else(|| {
        let mut names: Vec<&str> = code().map(|mapping| mapping.base_name()).collect();
        names.sort_unstable();
        names.dedup();
        Error::usage(format!("process {tgid} maps no file named `{file}`"))
            .because(format!("it maps {}", names.join(", ")))
    })?;
    let elf = Elf::read(elf::open(tgid, mapping)?)?;
    let found = match elf.dynamic_symbol(symbol) {
        Some(found) => found,
        None => elf.full_symbols()?.find(symbol).ok_or_else(|| {
            Error::usage(format!("{} has no function `{symbol}`", mapping.path))
                .hint(format!("`nm -D {}` lists what it exports", mapping.path))
        })?,
    };
    let segment = elf.segments.iter().find(|segment| {
        segment.executable && (segment.address..segment.address + segment.file_size).contains(&found.address)
    });
    let segment = segment.ok_or_else(|| Error::usage(format!("`{symbol}` of {} is not code", mapping.path)))?;
    let path = PathBuf::from(format!("/proc/{tgid}/map_files/{:x}-{:x}", mapping.start, mapping.end));
    Ok(FunctionSite { tgid, path, offset: found.address - segment.address + segment.offset })
}
