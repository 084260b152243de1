//! Kernel and machine.

mod flame;
mod syscall;

pub use flame::Flame;
pub use syscall::Syscall;
