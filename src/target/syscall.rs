//! Names of system calls on this machine's architecture.

use std::sync::Arc;

use syscalls::Sysno;

/// `read` for 0 on x86_64; `syscall_4711` for a number without a name.
pub fn name(number: u32) -> Arc<str> {
    match Sysno::new(number as usize) {
        Some(call) => call.name().into(),
        None => format!("syscall_{number}").into(),
    }
}

/// Number of the call with this name.
pub fn number(name: &str) -> Option<u32> {
    name.parse::<Sysno>().ok().map(|call| call.id() as u32)
}

/// futex(2), on which locks and the GIL wait.
pub fn is_futex(number: u32) -> bool {
    Sysno::new(number as usize) == Some(Sysno::futex)
}
