//! First answers.

mod cpu_bound;
mod doctor;
mod dump;

pub use cpu_bound::CpuBound;
pub use doctor::Doctor;
pub use dump::Dump;
