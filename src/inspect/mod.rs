//! The interpreter's objects read from outside while the target runs: stacks of all threads, what each waits for, local
//! variables. Nothing is stopped, called or written; what changes under the reading is read again or said to move.
//!
//! Only `/proc` and the target's memory are needed, no BPF.

mod files;
mod frames;
mod locals;
mod object;
mod reader;
mod secret;
mod snapshot;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod threads;
mod value;

pub use locals::LocalValue;
pub use secret::is_secret;
pub use snapshot::{PythonFrame, SnapshotOptions, ThreadSnapshot, snapshot};
pub use state::{ThreadState, WaitsFor};
pub use task::kernel_frames;
