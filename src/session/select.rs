//! From what was asked for to the processes to follow.

use super::{Monitor, Selection};
use crate::error::{Error, ErrorKind, Result};
use crate::target::start::{self, Held};
use crate::target::{Target, process, select};

/// The targets of a run.
pub(super) struct Selected {
    /// At least one; the first is the one asked for.
    pub(super) targets: Vec<Target>,
    /// The process pylow starts. Reaped when it ends during the run; otherwise it outlives it.
    held: Option<Held>,
}

impl Selected {
    /// Adds the processes below the targets.
    pub(super) fn add_descendants(&mut self, monitor: &mut dyn Monitor) -> Result<()> {
        for index in 0..self.targets.len() {
            for tgid in process::descendants(self.targets[index].tgid)? {
                if self.targets.iter().any(|target| target.tgid == tgid) {
                    continue;
                }
                match Target::follow(tgid) {
                    Ok(target) => self.targets.push(target),
                    Err(err) if err.kind() == ErrorKind::TargetGone => {}
                    // One odd child, of a Python too old say, must not hide what its parent and siblings do.
                    Err(err) => monitor.warn(&format!("process {tgid} is not followed: {}", err.message())),
                }
            }
        }
        Ok(())
    }

    /// The command line that pylow starts, if it does.
    pub(super) fn command(&self) -> Option<String> {
        self.held.as_ref().map(Held::command_line)
    }

    /// The targets that run already: not the one that waits to become a command.
    pub(super) fn running(&self) -> &[Target] {
        if self.held.is_some() { &[] } else { &self.targets }
    }

    /// Lets the command begin.
    pub(super) fn release(&mut self) -> Result<()> {
        self.held.as_mut().map_or(Ok(()), Held::release)
    }

    /// Takes the exit status of an ended child of ours, so that it does not stay a zombie.
    pub(super) fn reap(&mut self) {
        if let Some(held) = &mut self.held {
            held.try_wait();
        }
    }
}

/// Process ids of those that run.
fn tgids(selection: &Selection) -> Result<Vec<u32>> {
    match selection {
        Selection::Pid(pid) => Ok(vec![*pid]),
        Selection::Name(name) => select::by_name(name),
        Selection::Port(port) => select::by_port(*port),
        Selection::Cgroup(path) => select::by_cgroup(path),
        Selection::Command(_) => Ok(Vec::new()),
    }
}

/// Each process with the reason why it can't be opened; a command is started, and waited for until it is up.
pub(super) fn open_each(selection: &Selection) -> Result<Vec<Result<Target>>> {
    if let Selection::Command(command) = selection {
        let mut held = start::hold(command)?;
        held.release()?;
        return Ok(vec![Target::open(held.tgid())]);
    }
    Ok(tgids(selection)?.into_iter().map(Target::open).collect())
}

/// Opens what was asked for. A command is held before its first instruction until [`Selected::release`].
pub(super) fn select(selection: &Selection) -> Result<Selected> {
    if let Selection::Command(command) = selection {
        let held = start::hold(command)?;
        return Ok(Selected { targets: vec![held.target()?], held: Some(held) });
    }
    let targets = tgids(selection)?.into_iter().map(Target::open).collect::<Result<Vec<_>>>()?;
    if targets.is_empty() {
        return Err(
            Error::target_gone("no process matches").hint("`pylow doctor` lists the Python processes of this machine")
        );
    }
    Ok(Selected { targets, held: None })
}
