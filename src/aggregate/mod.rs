//! Folds events into what reports are made of. Pure: no files, clock, threads or BPF.

pub mod completeness;
pub mod evidence;
pub mod hist;
pub mod lines;
pub mod stacks;
pub mod summary;
pub mod syscalls;
pub mod verdict;
pub mod waits;
