//! `pylow` attaches to a running, unmodified CPython process on Linux through eBPF and says where its time goes.
//!
//! Read in this order: [`event`] (what is seen), [`target`] (of whom), `probe` (how), [`aggregate`] (folded how),
//! [`report`] (said how), `command` (put together). ARCHITECTURE.md has the map and the invariants.

pub mod aggregate;
pub mod cli;
pub mod command;
pub mod error;
pub mod event;
pub mod export;
pub mod inspect;
pub mod probe;
pub mod render;
pub mod report;
pub mod session;
pub mod symbol;
pub mod target;
pub mod units;

pub use error::{Error, ErrorKind, Result};
