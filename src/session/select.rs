//! From what was asked for to the processes to follow.

use std::process::Child;

use super::Selection;
use crate::error::{Error, ErrorKind, Result};
use crate::target::{Target, process, select};

/// The targets of a run.
pub(super) struct Selected {
    /// At least one; the first is the one asked for.
    pub(super) targets: Vec<Target>,
    /// The process pylow started. Reaped when it ends during the run; otherwise it outlives it.
    child: Option<Child>,
}

impl Selected {
    /// Adds the processes below the targets.
    pub(super) fn add_descendants(&mut self) -> Result<()> {
        for index in 0..self.targets.len() {
            for tgid in process::descendants(self.targets[index].tgid)? {
                if self.targets.iter().any(|target| target.tgid == tgid) {
                    continue;
                }
                match Target::follow(tgid) {
                    Ok(target) => self.targets.push(target),
                    Err(err) if err.kind() == ErrorKind::TargetGone => {}
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(())
    }

    /// Takes the exit status of an ended child of ours, so that it does not stay a zombie.
    pub(super) fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that there is nothing to reap.
            let _ = child.try_wait();
        }
    }
}

/// Process ids, and the process if pylow started it.
pub(super) fn tgids(selection: &Selection) -> Result<(Vec<u32>, Option<Child>)> {
    Ok(match selection {
        Selection::Pid(pid) => (vec![*pid], None),
        Selection::Name(name) => (select::by_name(name)?, None),
        Selection::Port(port) => (select::by_port(*port)?, None),
        Selection::Cgroup(path) => (select::by_cgroup(path)?, None),
        Selection::Command(command) => {
            let (child, tgid) = select::spawn(command)?;
            (vec![tgid], Some(child))
        }
    })
}

/// Opens what was asked for.
pub(super) fn select(selection: &Selection) -> Result<Selected> {
    let (tgids, child) = tgids(selection)?;
    let targets = tgids.into_iter().map(Target::open).collect::<Result<Vec<_>>>()?;
    if targets.is_empty() {
        return Err(
            Error::target_gone("no process matches").hint("`pylow doctor` lists the Python processes of this machine")
        );
    }
    Ok(Selected { targets, child })
}
