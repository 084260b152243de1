//! What this kernel and these rights allow: found by trying, since every other way to ask has been wrong somewhere.

use std::path::Path;

use super::{Function, Plan, Probe, Slots};
use crate::error::{Error, Result};

/// One ability of the kernel, tried.
#[derive(Debug)]
pub struct Ability {
    /// What it gives: `on-CPU samples`.
    pub name: &'static str,
    /// The commands that need it.
    pub used_by: &'static str,
    /// Loaded, verified and attached, or why not.
    pub tried: Result<()>,
}

/// Loads, attaches and detaches each group of programs once, following nobody.
pub fn abilities(btf: Option<&Path>) -> Vec<Ability> {
    let some_function = Function { file: String::new(), symbol: String::new() }; // loaded, attached nowhere
    let plans = [
        (
            "on-CPU samples",
            "flame, pycpu, cpu-bound, triage",
            Plan { samples: Some(99), kernel: true, ..Plan::default() },
        ),
        ("native stacks", "flame --native", Plan { samples: Some(99), native: true, ..Plan::default() }),
        ("off-CPU intervals", "flame --off-cpu, triage", Plan { waits: true, kernel: true, ..Plan::default() }),
        ("system calls", "syscall, triage", Plan { syscall_totals: true, ..Plan::default() }),
        ("function entries", "flame --event uprobe", Plan { function: Some(some_function), ..Plan::default() }),
        ("page faults", "flame --event faults", Plan { faults_every: Some(100), ..Plan::default() }),
    ];
    plans.into_iter().map(|(name, used_by, plan)| Ability { name, used_by, tried: attempt(&plan, btf) }).collect()
}

fn attempt(plan: &Plan, btf: Option<&Path>) -> Result<()> {
    let mut slots = Slots::default();
    Probe::load(plan, &mut slots, btf)?.attach(&[]).map(drop)
}

/// `5.10.0-32-amd64`
pub fn release() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.trim().to_owned())
}

/// Whether the kernel has its own type information.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// The capabilities pylow may need, with what each is for and whether this process has it.
pub fn capabilities() -> Result<Vec<Capability>> {
    const STATUS: &str = "/proc/self/status";
    let status = std::fs::read_to_string(STATUS)?;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .ok_or_else(|| Error::failed(format!("{STATUS} has no CapEff")))?;
    Ok(CAPABILITIES
        .iter()
        .map(|&(bit, name, purpose)| Capability { name, purpose, held: effective >> bit & 1 == 1 })
        .collect())
}

/// One capability(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// `CAP_BPF`
    pub name: &'static str,
    /// What pylow needs it for.
    pub purpose: &'static str,
    /// This process has it.
    pub held: bool,
}

/// Bits of include/uapi/linux/capability.h.
const CAPABILITIES: [(u32, &str, &str); 6] = [
    (39, "CAP_BPF", "load programs"),
    (38, "CAP_PERFMON", "attach programs that read memory"),
    (19, "CAP_SYS_PTRACE", "read memory of other users' processes"),
    (2, "CAP_DAC_READ_SEARCH", "read other users' /proc files and containers' files"),
    (34, "CAP_SYSLOG", "read the names of kernel functions"),
    (40, "CAP_CHECKPOINT_RESTORE", "open replaced binaries through /proc/PID/map_files"),
];
