//! All that is known of CPython outside `bpf/lib/python.bpf.h`. No other module compares a Python version.

mod debug_offsets;
mod discover;
mod gil;
pub mod layout;
pub mod linetable;
mod machine_code;
pub mod objects;
mod offsets;
mod thread_state;
mod verify;
mod version;

pub(super) use discover::{Others, Trouble, find, version_of};
