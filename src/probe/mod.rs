//! The only user of libbpf: loads objects, attaches programs, reads ring and maps, decodes bytes to records.
//!
//! A [`Probe`] lives as long as its [`Slots`]; dropping it detaches everything. Nothing is pinned, so the kernel cleans up
//! after `kill -9` as well.

mod abi;
mod config;
mod decode;
pub mod kernel;
mod maps;
mod object;
mod perf;
mod plan;
mod ring;
mod tasks;

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libbpf_rs::skel::Skel;
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, OpenObject, ProgramMut, UprobeOpts};

pub use decode::{NativeRecord, RawString, Record, StackCause, StackRecord, SymbolRecord};
pub use object::Object;
pub use perf::online_cpus;
pub use plan::{Function, Plan};
pub use ring::{Reader, Stopper};
pub use tasks::{TaskIterator, TaskRegisters};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Loss, SyscallTotals};
use crate::target::function::FunctionSite;
use crate::target::python::layout::Layout;
use plan::Attach;

/// For tests of the walker without a kernel: the value of the `processes` map for a process with this interpreter.
#[doc(hidden)]
pub fn process_config(layout: Option<&Layout>) -> Vec<u8> {
    abi::bytes_of(&config::process(layout)).to_vec()
}

/// For tests of the walker without a kernel: one record of the ring from its bytes.
#[doc(hidden)]
pub fn decode_record(bytes: &[u8]) -> Result<Record> {
    decode::decode(bytes)
}

/// Room for the loaded objects; the caller's stack frame owns it.
#[derive(Debug)]
pub struct Slots(Vec<MaybeUninit<OpenObject>>);

/// Objects at most loaded in one run: one for each file in `bpf/`.
const MAX_OBJECTS: usize = 16;

impl Default for Slots {
    fn default() -> Self {
        Self((0..MAX_OBJECTS).map(|_| MaybeUninit::uninit()).collect())
    }
}

/// One code object of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolKey {
    /// Process.
    pub tgid: u32,
    /// Address of the code object.
    pub code: u64,
    /// Its identity.
    pub hash: u32,
}

impl SymbolKey {
    fn raw(self) -> abi::symbol_key {
        abi::symbol_key { code: self.code, tgid: self.tgid, hash: self.hash }
    }
}

/// Loaded programs, attached or not, and their maps.
pub struct Probe<'o> {
    plan: Plan,
    skels: Vec<Box<dyn Skel<'o> + 'o>>,
    processes: MapHandle,
    known: Option<MapHandle>,
    undecodable: Arc<AtomicU64>,
}

/// Attached programs; dropping them detaches, and no event is made after that.
pub struct Links {
    #[expect(dead_code, reason = "held for its Drop")]
    programs: Vec<Link>,
    functions: Vec<Link>,
}

impl Links {
    /// The plan's function is observed somewhere.
    pub fn has_functions(&self) -> bool {
        !self.functions.is_empty()
    }
}

impl<'o> Probe<'o> {
    /// Loads what `plan` needs. `btf` overrides the running kernel's type information.
    pub fn load(plan: &Plan, slots: &'o mut Slots, btf: Option<&Path>) -> Result<Self> {
        let objects = plan.objects();
        let mut skels: Vec<Box<dyn Skel<'o> + 'o>> = Vec::with_capacity(objects.len());
        for (object, slot) in objects.iter().zip(slots.0.iter_mut()) {
            let mut shared = Vec::new();
            for skel in &skels {
                for (name, fd) in object::shared_maps(skel.as_ref()) {
                    if !shared.iter().any(|(seen, _)| *seen == name) {
                        shared.push((name, fd));
                    }
                }
            }
            let programs = object.programs.iter().map(|(name, _)| *name).collect();
            let loader = object::Loader { config: plan.session_config(), programs, btf, shared };
            let skel = object.object.load(&loader, slot)?;
            skels.push(skel);
        }
        let processes = map(&skels, "processes")?.ok_or_else(|| missing_map("processes"))?;
        let known = map(&skels, "known")?;
        Ok(Self { plan: plan.clone(), skels, processes, known, undecodable: Arc::default() })
    }

    /// Follows a process; `layout` is its interpreter, `None` while it has none.
    pub fn follow(&self, tgid: u32, layout: Option<&Layout>) -> Result<()> {
        let value = config::process(layout);
        self.processes
            .update(&tgid.to_ne_bytes(), abi::bytes_of(&value), MapFlags::ANY)
            .map_err(|err| Error::failed(format!("cannot follow process {tgid}: {err}")))
    }

    /// Tells what became known of the interpreter of a followed process. Nothing happens when it has ended.
    pub fn renew(&self, tgid: u32, layout: Option<&Layout>) -> Result<()> {
        let value = config::process(layout);
        // The kernel side deletes the entry at the exit: made anew, it would follow the next owner of the pid.
        match self.processes.update(&tgid.to_ne_bytes(), abi::bytes_of(&value), MapFlags::EXIST) {
            Err(err) if err.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(Error::failed(format!("cannot follow process {tgid}: {err}")))
            }
            _ => Ok(()),
        }
    }

    /// Stops following a process. Not an error when it was not followed.
    pub fn unfollow(&self, tgid: u32) -> Result<()> {
        match self.processes.delete(&tgid.to_ne_bytes()) {
            Err(err) if err.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(Error::failed(format!("cannot stop following process {tgid}: {err}")))
            }
            _ => Ok(()),
        }
    }

    /// Tells the walker that user space has the symbols of these code objects.
    pub fn mark_known(&self, symbols: &[SymbolKey]) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        for symbol in symbols {
            known
                .update(abi::bytes_of(&symbol.raw()), &[1], MapFlags::ANY)
                .map_err(|err| Error::failed(format!("cannot mark a symbol as known: {err}")))?;
        }
        Ok(())
    }

    /// User space dropped these symbols: they must be sent again.
    pub fn unmark_known(&self, symbols: &[SymbolKey]) -> Result<()> {
        let Some(known) = &self.known else { return Ok(()) };
        for symbol in symbols {
            match known.delete(abi::bytes_of(&symbol.raw())) {
                Err(err) if err.kind() != libbpf_rs::ErrorKind::NotFound => {
                    return Err(Error::failed(format!("cannot forget a symbol: {err}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Attaches every program of the plan. Events start to flow.
    ///
    /// `sites` are where the plan's function lies in each target.
    pub fn attach(&self, sites: &[FunctionSite]) -> Result<Links> {
        let (mut links, mut functions) = (Vec::new(), Vec::new());
        for object in self.plan.objects() {
            let Some(skel) = self.skels.iter().find(|skel| owns(skel.as_ref(), &object)) else { continue };
            for (name, how) in &object.programs {
                let program =
                    skel.object().progs_mut().find(|program| program.name() == OsStr::new(name)).ok_or_else(|| {
                        Error::failed(format!("probe `{}` has no program `{name}`", object.object.name()))
                    })?;
                match how {
                    Attach::Auto => links.push(program.attach().map_err(|err| explain_attach(&err, name))?),
                    Attach::Functions => {
                        for site in sites {
                            functions.push(attach_function(&program, site)?);
                        }
                    }
                    Attach::CpuClock(frequency) => {
                        for cpu in online_cpus()? {
                            links.push(perf::attach(&program, perf::Event::CpuClock(*frequency), cpu)?);
                        }
                    }
                    Attach::PageFaults(every) => {
                        for cpu in online_cpus()? {
                            links.push(perf::attach(&program, perf::Event::PageFaults(*every), cpu)?);
                        }
                    }
                }
            }
        }
        Ok(Links { programs: links, functions })
    }

    /// Attaches the plan's function in a process that was not there yet at [`Probe::attach`].
    pub fn attach_function(&self, site: &FunctionSite, links: &mut Links) -> Result<()> {
        let programs = self.skels.iter().flat_map(|skel| skel.object().progs_mut());
        for program in programs.filter(|program| program.name() == OsStr::new(plan::FUNCTION_ENTRY)) {
            links.functions.push(attach_function(&program, site)?);
        }
        Ok(())
    }

    /// Declares that these sleeping threads block since `since_ns`, so that their end of wait is seen. See `Wait::before`.
    pub fn already_blocked(&self, tids: &[u32], since_ns: u64) -> Result<()> {
        let Some(waits) = map(&self.skels, "waits")? else { return Ok(()) };
        maps::write_waits(&waits, tids, since_ns)
    }

    /// The ring's reader, for a thread of its own.
    pub fn reader(&self) -> Result<Reader> {
        let events = map(&self.skels, "events")?.ok_or_else(|| missing_map("events"))?;
        Ok(Reader::new(events, Arc::clone(&self.undecodable)))
    }

    /// What did not arrive so far.
    pub fn loss(&self) -> Result<Loss> {
        let mut loss = Loss { undecodable: self.undecodable.load(Ordering::Relaxed), ..Loss::default() };
        if let Some(outcomes) = map(&self.skels, "outcomes")? {
            maps::read_outcomes(&outcomes, &mut loss)?;
        }
        Ok(loss)
    }

    /// System call totals; empty when the plan takes none.
    pub fn syscalls(&self) -> Result<Vec<SyscallTotals>> {
        match map(&self.skels, "syscalls")? {
            Some(syscalls) if self.plan.syscall_totals => maps::read_syscalls(&syscalls),
            _ => Ok(Vec::new()),
        }
    }
}

fn owns(skel: &dyn Skel<'_>, object: &plan::ObjectPlan) -> bool {
    object.programs.iter().all(|(name, _)| skel.object().progs().any(|program| program.name() == OsStr::new(name)))
}

fn map(skels: &[Box<dyn Skel<'_> + '_>], name: &str) -> Result<Option<MapHandle>> {
    let found = skels.iter().flat_map(|skel| skel.object().maps()).find(|map| map.name() == OsStr::new(name));
    found
        .map(|map| MapHandle::try_from(&map))
        .transpose()
        .map_err(|err| Error::failed(format!("cannot use map `{name}`: {err}")))
}

fn attach_function(program: &ProgramMut<'_>, site: &FunctionSite) -> Result<Link> {
    let link =
        program.attach_uprobe_with_opts(site.tgid as i32, &site.path, site.offset as usize, UprobeOpts::default());
    link.map_err(|err| explain_attach(&err, "function_entry"))
}

fn missing_map(name: &str) -> Error {
    Error::failed(format!("the loaded probes have no map `{name}`"))
}

fn explain_attach(err: &libbpf_rs::Error, program: &str) -> Error {
    let message = format!("cannot attach `{program}`: {err}");
    match err.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => {
            Error::new(ErrorKind::NotPermitted, message).hint("run as root, or grant CAP_BPF and CAP_PERFMON")
        }
        libbpf_rs::ErrorKind::NotFound => Error::unsupported(message)
            .because("this kernel does not have the tracepoint")
            .hint("`pylow doctor` lists what this kernel has"),
        _ => Error::failed(message),
    }
}
