//! Kernel addresses to names, from /proc/kallsyms.
//!
//! A table of our own rather than blazesym's: with 122,000 text symbols blazesym's first call took 95 ms and 20 MB; this
//! one takes no longer than reading the file does (the kernel formats for 39 ms), and 5 MB. Nothing is read before a
//! kernel frame is to be named, or somebody who can't wait then asks for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};

use super::names::Names;
use crate::error::{Context, Error, Result};
use crate::event::{Frame, FrameKind};

const KALLSYMS: &str = "/proc/kallsyms";

/// Functions between a tracepoint and our program: the leaf side of a stack taken there, and no work of the target.
const TRACING: [&str; 4] = ["bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_"];

/// Whether a kernel function is part of the tracing itself.
pub(super) fn is_tracing(function: &str) -> bool {
    TRACING.iter().any(|prefix| function.starts_with(prefix))
}

/// Kernel names as far as this process may know them.
#[derive(Debug, Default)]
pub(super) struct KernelSymbols {
    table: Option<Result<Table>>,
    frames: HashMap<u64, Frame>,
}

impl KernelSymbols {
    /// The frame of a kernel address; its file is the kernel module, when it is in one.
    pub(super) fn frame(&mut self, names: &mut Names, address: u64) -> Frame {
        if let Some(frame) = self.frames.get(&address) {
            return frame.clone();
        }
        let (name, module) = match self.table().as_ref().ok().and_then(|table| table.find(address)) {
            Some(entry) => entry.split_once('\t').map_or((entry, None), |(name, module)| (name, Some(module))),
            None => ("[kernel]", None),
        };
        let frame = Frame {
            kind: FrameKind::Kernel,
            function: names.intern(name),
            file: module.map(|module| names.intern(module)),
            line: None,
        };
        self.frames.insert(address, frame.clone());
        frame
    }

    /// All names; the first call reads them.
    pub(super) fn table(&mut self) -> &Result<Table> {
        self.table.get_or_insert_with(|| {
            let file = File::open(KALLSYMS).context(|| format!("cannot open {KALLSYMS}"))?;
            Table::parse(BufReader::with_capacity(1 << 16, file))
        })
    }

    /// Why kernel frames have no names; `None` while they have, or while none was asked for.
    pub(super) fn problem(&self) -> Option<&Error> {
        self.table.as_ref()?.as_ref().err()
    }
}

/// Text symbols by address.
#[derive(Debug)]
pub(super) struct Table {
    symbols: Vec<Symbol>,
    /// Their names, one after the other.
    names: String,
}

/// Where a symbol starts, and where its name is.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    name_start: u32,
    name_end: u32,
}

impl Table {
    /// Reads lines `ffffffff81000000 T name`, of modules `ffffffffc0201000 t name\t[module]`.
    fn parse(mut lines: impl BufRead) -> Result<Self> {
        let (mut symbols, mut names) = (Vec::new(), String::new());
        let mut line = String::new();
        while lines.read_line(&mut line).context(|| format!("cannot read {KALLSYMS}"))? != 0 {
            if let Some((address, name)) = text_symbol(line.trim_end()) {
                let name_start = names.len() as u32;
                names.push_str(name);
                symbols.push(Symbol { address, name_start, name_end: names.len() as u32 });
            }
            line.clear();
        }
        if symbols.iter().all(|symbol| symbol.address == 0) {
            return Err(Error::not_permitted("the kernel hides its symbols")
                .because(format!("{KALLSYMS} shows no addresses to this process"))
                .hint("run as root with /proc/sys/kernel/kptr_restrict at 0 or 1, or grant CAP_SYSLOG"));
        }
        // The sort is stable: of several names for one address the first in the file stays.
        symbols.sort_by_key(|symbol| symbol.address);
        symbols.dedup_by_key(|symbol| symbol.address);
        symbols.shrink_to_fit();
        names.shrink_to_fit();
        Ok(Self { symbols, names })
    }

    /// Name of the last symbol that starts at or before `address`.
    fn find(&self, address: u64) -> Option<&str> {
        let index = self.symbols.partition_point(|symbol| symbol.address <= address).checked_sub(1)?;
        let symbol = self.symbols[index];
        self.names.get(symbol.name_start as usize..symbol.name_end as usize)
    }
}

/// Address and name of a line about code.
fn text_symbol(line: &str) -> Option<(u64, &str)> {
    let mut fields = line.splitn(3, ' ');
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    matches!(fields.next()?, "t" | "T" | "w" | "W").then_some(())?;
    Some((address, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const LINES: &str = "ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff83000000 D jiffies\n\
                         ffffffffc0201000 t do_it\t[nf_tables]\nffffffff81000040 t futex_wait\n";

    #[test]
    fn finds_the_symbol_that_covers_an_address() {
        let table = Table::parse(LINES.as_bytes()).unwrap();
        assert_eq!(table.find(0xffffffff81000000), Some("_stext"));
        assert_eq!(table.find(0xffffffff8100003f), Some("_stext"));
        assert_eq!(table.find(0xffffffff81000041), Some("futex_wait"));
        assert_eq!(table.find(0xffffffffc0201010), Some("do_it\t[nf_tables]"));
        assert_eq!(table.find(0x1000), None);
    }

    #[test]
    fn hidden_addresses_are_said_not_guessed() {
        let hidden = Table::parse("0000000000000000 T _stext\n0000000000000000 T _text\n".as_bytes());
        assert_eq!(hidden.unwrap_err().kind(), ErrorKind::NotPermitted);
    }

    #[test]
    fn a_module_is_the_file_of_its_frames() {
        let mut kernel = KernelSymbols { table: Some(Table::parse(LINES.as_bytes())), ..KernelSymbols::default() };
        let frame = kernel.frame(&mut Names::default(), 0xffffffffc0201010);
        assert_eq!((&*frame.function, frame.file.as_deref()), ("do_it", Some("[nf_tables]")));
    }

    #[test]
    fn names_of_the_running_kernel() {
        let text = std::fs::read_to_string(KALLSYMS).unwrap();
        let address = text.lines().find(|line| line.ends_with(" T schedule")).map(|line| &line[..16]);
        let Some(address) = address.and_then(|hex| u64::from_str_radix(hex, 16).ok()).filter(|&address| address != 0)
        else {
            return;
        };
        let mut kernel = KernelSymbols::default();
        assert_eq!(&*kernel.frame(&mut Names::default(), address + 1).function, "schedule");
        assert!(kernel.problem().is_none());
    }
}
