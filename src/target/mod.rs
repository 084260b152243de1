//! The processes looked at: found by pid, name, port, cgroup or started; their maps, files, namespaces and interpreters.
//!
//! Reads /proc, ELF files and process memory; never writes, never stops. Knows nothing of BPF.

pub mod clock;
pub mod elf;
pub mod function;
pub mod memory;
pub mod process;
pub mod python;
pub mod select;
pub mod start;
pub mod syscall;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::event;
use memory::Memory;
use python::Trouble;
use python::layout::Layout;

/// How long a process that was just started may take to bring its interpreter up.
pub const START_UP: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One process, and its interpreter if it has one.
#[derive(Clone, Debug)]
pub struct Target {
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// What reports say of it.
    pub process: event::Process,
    /// Where its interpreter keeps what the walker reads; None when it has none (yet).
    pub layout: Option<Arc<Layout>>,
    start_ticks: u64,
}

/// What one look at a process showed.
#[derive(Debug)]
pub enum Look {
    /// A Python that can be walked.
    Python(Target),
    /// One that can be walked, but is perhaps still coming up.
    Unsettled(Target),
    /// One that can't be walked yet, and why.
    Young(&'static str),
    /// It has no interpreter, at least not yet: the dynamic linker may still be mapping it.
    NotPython,
    /// Its interpreter can't be read; of a process that was just started that may change.
    Failed(Error),
}

impl Target {
    /// The Python process `tgid`, verified by a walk. Waits up to [`START_UP`] for a process that was just started.
    ///
    /// Errors: TargetGone when there is no such process; Usage for a thread id; NotPermitted; Unsupported when it is
    /// not a CPython or one that can't be read.
    pub fn open(tgid: u32) -> Result<Self> {
        Self::open_within(tgid, START_UP)
    }

    /// Like [`Target::open`], waiting at most `patience`.
    pub fn open_within(tgid: u32, patience: Duration) -> Result<Self> {
        check_pid_namespace()?;
        check_is_process(tgid)?;
        let deadline = Instant::now() + patience;
        loop {
            let looked = Self::look(tgid)?;
            let waited = Instant::now() >= deadline;
            match looked {
                Look::Python(target) => return Ok(target),
                Look::NotPython if waited || process::age(tgid)? > patience => return Err(not_python(tgid)),
                Look::Young(why) if waited => return Err(not_up(tgid, why, patience)),
                // It will not change any more: an idle embedded interpreter, or one whose evidence says what is missing.
                Look::Unsettled(target) if waited => return Ok(target),
                Look::Failed(err) => return Err(err),
                Look::NotPython | Look::Young(_) | Look::Unsettled(_) => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Looks once, without waiting. Error: TargetGone, or Usage for a thread id.
    pub fn look(tgid: u32) -> Result<Look> {
        let start_ticks = process::start_ticks(tgid)?;
        let open = |layout| Self::new(tgid, start_ticks, Some(Arc::new(layout)));
        let trouble = match python::find(tgid) {
            Ok(layout) => return open(layout).map(Look::Python),
            Err(trouble) => trouble,
        };
        // Ended meanwhile: that, not what half a process looked like, is the answer.
        check_is_process(tgid)?;
        Ok(match trouble {
            Trouble::NotPython => Look::NotPython,
            Trouble::TooYoung(why) => Look::Young(why),
            Trouble::Unsettled(layout) => Look::Unsettled(open(*layout)?),
            Trouble::Failed(err) => Look::Failed(err),
        })
    }

    /// A process that was forked to become a command: of no interest before its exec.
    fn to_come(tgid: u32) -> Result<Self> {
        check_pid_namespace()?;
        Self::new(tgid, process::start_ticks(tgid)?, None)
    }

    /// A process that appeared below a target: without waiting, and with no layout when it is no Python, or one that is
    /// still coming up: follow it again, until it is older than [`START_UP`]. Errors
    /// are those of [`Target::open`] for a process that is gone, can't be looked into, or holds a CPython that can't be
    /// read.
    pub fn follow(tgid: u32) -> Result<Self> {
        let start_ticks = process::start_ticks(tgid)?;
        match python::find(tgid) {
            Ok(layout) => Self::new(tgid, start_ticks, Some(Arc::new(layout))),
            Err(Trouble::Unsettled(layout)) if process::age(tgid)? > START_UP => {
                Self::new(tgid, start_ticks, Some(Arc::from(layout)))
            }
            Err(Trouble::NotPython | Trouble::TooYoung(_) | Trouble::Unsettled(_)) => {
                Self::new(tgid, start_ticks, None)
            }
            Err(Trouble::Failed(err)) => Err(err),
        }
    }

    /// The child that this process just forked: it has the same memory, so the same layout.
    pub fn forked(&self, child: u32) -> Result<Self> {
        Self::new(child, process::start_ticks(child)?, self.layout.clone())
    }

    fn new(tgid: u32, start_ticks: u64, layout: Option<Arc<Layout>>) -> Result<Self> {
        let mut process = describe(tgid)?;
        process.python = layout.as_ref().map(|layout| layout.version.clone());
        Ok(Self { tgid, process, layout, start_ticks })
    }

    /// The pid still names this very process, though perhaps another program (exec).
    pub fn still_same(&self) -> bool {
        process::start_ticks(self.tgid).is_ok_and(|ticks| ticks == self.start_ticks)
            && process::status(self.tgid).is_ok_and(|status| !status.is_zombie())
    }

    /// Its memory.
    pub fn memory(&self) -> Memory {
        Memory::of(self.tgid)
    }
}

/// What reports say of a process, whatever it runs.
fn describe(tgid: u32) -> Result<event::Process> {
    let status = process::status(tgid)?;
    let executable = process::executable(tgid)?;
    Ok(event::Process {
        tgid,
        executable: executable.map_or(status.name, |path| process::base_name(&path).to_owned()),
        command: process::arguments(tgid)?.join(" "),
        python: None,
        threads: status.threads,
    })
}

/// BPF programs see ids of the initial pid namespace; a pid of another one would name another process.
fn check_pid_namespace() -> Result<()> {
    /// PROC_PID_INIT_INO (include/linux/proc_ns.h).
    const INITIAL: u64 = 0xEFFF_FFFC;
    if process::namespace(std::process::id(), "pid")? == INITIAL {
        return Ok(());
    }
    Err(Error::unsupported("pylow runs inside a pid namespace")
        .because("the kernel reports the ids of the host, which can't be matched with the ids in here")
        .hint("run pylow on the host, or the container with the host's pid namespace (--pid=host, hostPID: true)"))
}

fn check_is_process(pid: u32) -> Result<()> {
    let status = process::status(pid)?;
    if status.is_zombie() {
        return Err(Error::target_gone(format!("process {pid} has ended"))
            .because(format!("it is a zombie: its parent {} has not waited for it", status.parent)));
    }
    if status.tgid != pid {
        return Err(Error::usage(format!("{pid} is a thread of process {}", status.tgid)).hint(format!(
            "give the process: {}; dump, flame and others take the thread by --tid {pid}",
            status.tgid
        )));
    }
    Ok(())
}

/// The error for a process without an interpreter.
pub fn not_python(tgid: u32) -> Error {
    let reason = match process::executable(tgid) {
        Ok(Some(path)) => format!("its executable is {path} and nothing named libpython is mapped"),
        Ok(None) => "it is a thread of the kernel".into(),
        Err(_) => return Error::target_gone(format!("there is no process {tgid}")),
    };
    Error::unsupported(format!("PID {tgid} is not a Python process"))
        .because(reason)
        .hint("`pylow doctor` lists the Python processes of this machine")
}

/// The error for an interpreter that can't be walked after all this time.
pub fn not_up(tgid: u32, why: &str, patience: Duration) -> Error {
    Error::unsupported(format!("the Python in PID {tgid} has not come up"))
        .because(format!("{why}, after {} s", patience.as_secs_f64()))
        .hint("try again once it runs; a program that embeds Python may start it late")
}

#[cfg(test)]
mod live_tests;
