//! Folds events into what reports are made of. Pure: no files, clock, threads or BPF.

pub mod stacks;
