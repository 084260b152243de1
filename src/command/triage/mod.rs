//! First answers.

mod cpu_bound;
mod doctor;
mod dump;
#[allow(clippy::module_inception)]
mod triage;

pub use cpu_bound::CpuBound;
pub use doctor::Doctor;
pub use dump::Dump;
pub use triage::Triage;
