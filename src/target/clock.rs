//! The one clock of all events.

/// CLOCK_MONOTONIC in nanoseconds, as bpf_ktime_get_ns() gives it.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a timespec to the pointer, which is one. Fails only for unknown clocks.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
