//! The processes looked at: found by pid, name, port, cgroup or started; their maps, files, namespaces and interpreters.
//!
//! Reads /proc, ELF files and process memory; never writes, never stops. Knows nothing of BPF.

pub mod clock;
pub mod memory;
pub mod python;
pub mod syscall;
