//! From what was asked for to the processes to follow.

use std::process::Child;

use super::Selection;
use crate::error::{Error, Result};
use crate::target::{self, Target};

/// The targets of a run.
pub(super) struct Selected {
    /// At least one; the first is the one asked for.
    pub(super) targets: Vec<Target>,
    /// The process pylow started; waited for when it ends first, otherwise it outlives the run.
    pub(super) child: Option<Child>,
}

pub(super) fn select(selection: &Selection) -> Result<Selected> {
    let (tgids, child) = match selection {
        Selection::Pid(pid) => (vec![*pid], None),
        Selection::Name(name) => (target::select::by_name(name)?, None),
        Selection::Port(port) => (target::select::by_port(*port)?, None),
        Selection::Cgroup(path) => (target::select::by_cgroup(path)?, None),
        Selection::Command(command) => {
            let (child, tgid) = target::select::spawn(command)?;
            (vec![tgid], Some(child))
        }
    };
    let targets = tgids.into_iter().map(Target::open).collect::<Result<Vec<_>>>()?;
    if targets.is_empty() {
        return Err(Error::target_gone("no process matches").hint("`pylow doctor` lists the Python processes of this machine"));
    }
    Ok(Selected { targets, child })
}
