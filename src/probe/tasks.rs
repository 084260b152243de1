//! One look at the registers of all threads of some processes, through a task iterator.

use std::io::Read;

use libbpf_rs::{Iter, MapCore, MapFlags};

use super::abi::{self, task_record};
use super::object::{self, Object};
use super::plan::Plan;
use super::{Slots, explain_attach};
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

/// Registers of every thread of `tgid`.
pub fn registers(tgid: u32, btf: Option<&std::path::Path>) -> Result<Vec<TaskRegisters>> {
    let mut slots = Slots::default();
    let Some(slot) = slots.0.first_mut() else { return Ok(Vec::new()) };
    let config = Plan::default().session_config();
    let loader = object::Loader { config, programs: vec!["tasks"], btf, shared: Vec::new() };
    let skel = Object::Tasks.load(&loader, slot)?;
    let processes =
        skel.object().maps().find(|map| map.name() == "processes").ok_or_else(|| super::missing_map("processes"))?;
    processes
        .update(&tgid.to_ne_bytes(), abi::bytes_of(&super::config::process(None)), MapFlags::ANY)
        .map_err(|err| Error::failed(format!("cannot select process {tgid}: {err}")))?;
    let program = skel.object().progs_mut().next().ok_or_else(|| Error::failed("probe `tasks` has no program"))?;
    let link = program.attach().map_err(|err| explain_attach(&err, "tasks"))?;
    let mut iterator =
        Iter::new(&link).map_err(|err| Error::failed(format!("cannot read the task iterator: {err}")))?;
    let mut bytes = Vec::new();
    iterator.read_to_end(&mut bytes)?;
    bytes
        .chunks_exact(size_of::<task_record>())
        .map(|chunk| {
            let raw: task_record = abi::read(chunk)?;
            Ok(TaskRegisters { tid: raw.tid, ip: raw.ip, sp: raw.sp, bp: raw.bp, lr: raw.lr, runnable: raw.state == 0 })
        })
        .collect()
}
