//! One look at the registers of all threads of some processes, through a task iterator.

use std::io::Read;
use std::mem::MaybeUninit;
use std::path::Path;

use libbpf_rs::{Iter, Link, MapCore, MapFlags};

use super::abi::{self, task_record};
use super::explain_attach;
use super::object::{self, Object};
use super::plan::Plan;
use crate::error::{Error, Result};

/// A thread's user registers as the kernel saved them: exact for a thread that is in the kernel, old for one that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRegisters {
    /// Thread.
    pub tid: u32,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer register.
    pub bp: u64,
    /// Link register (arm64).
    pub lr: u64,
    /// It is on a run queue or a CPU (TASK_RUNNING).
    pub runnable: bool,
}

/// Reads the registers of one process's threads, as often as asked.
pub struct TaskIterator {
    tgid: u32,
    /// Keeps program and maps in the kernel.
    link: Link,
}

impl TaskIterator {
    /// For the threads of `tgid`; `btf` replaces the running kernel's type information.
    ///
    /// # Errors
    /// Missing rights, or a kernel without task iterators (before 5.8).
    pub fn open(tgid: u32, btf: Option<&Path>) -> Result<Self> {
        let mut slot = MaybeUninit::uninit();
        let config = Plan::default().session_config();
        let loader = object::Loader { config, programs: vec!["tasks"], btf, shared: Vec::new() };
        let skel = Object::Tasks.load(&loader, &mut slot)?;
        let processes = skel
            .object()
            .maps()
            .find(|map| map.name() == "processes")
            .ok_or_else(|| super::missing_map("processes"))?;
        processes
            .update(&tgid.to_ne_bytes(), abi::bytes_of(&super::config::process(None)), MapFlags::ANY)
            .map_err(|err| Error::failed(format!("cannot select process {tgid}: {err}")))?;
        let program = skel.object().progs_mut().next().ok_or_else(|| Error::failed("probe `tasks` has no program"))?;
        Ok(Self { tgid, link: program.attach().map_err(|err| explain_attach(&err, "tasks"))? })
    }

    /// The registers of every thread at this moment.
    ///
    /// # Errors
    /// The kernel lists no thread: the process is gone, or its ids are those of another pid namespace.
    pub fn read(&self) -> Result<Vec<TaskRegisters>> {
        let mut iterator =
            Iter::new(&self.link).map_err(|err| Error::failed(format!("cannot read the task iterator: {err}")))?;
        let mut bytes = Vec::new();
        iterator.read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Err(Error::target_gone(format!("the kernel lists no thread of process {}", self.tgid))
                .because("it has ended, or pylow runs in a pid namespace in which the kernel does not number it so")
                .hint("run pylow in the host's pid namespace"));
        }
        let registers = |chunk| {
            let raw: task_record = abi::read(chunk)?;
            Ok(TaskRegisters { tid: raw.tid, ip: raw.ip, sp: raw.sp, bp: raw.bp, lr: raw.lr, runnable: raw.state == 0 })
        };
        bytes.chunks_exact(size_of::<task_record>()).map(registers).collect()
    }
}
