//! What a thread does at this moment, in words.

use std::fmt;

use super::files::{Direction, Files};
use super::task::{self, Activity, Look, Syscall};
use super::value::escape;
use crate::target::memory::Memory;

/// Descriptors named of a `poll` or `select`.
const MAX_POLLED: usize = 3;
/// Descriptors of a `poll` or `select` looked at.
const MAX_DESCRIPTORS: u64 = 1024;

/// What a thread waits for in a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The GIL: the futex is in it.
    Gil,
    /// That another thread takes the GIL this one just gave up on request (forced switching).
    GilHandOver,
    /// Another futex: a lock, a condition, a semaphore.
    Lock,
    /// A futex, when it is not known where the GIL is.
    LockOrGil,
    /// Files, in words: `pipe:[123]`.
    Files(String),
    /// Nothing that can be told from the arguments.
    Unknown,
}

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadState {
    /// On a CPU, or ready to run: /proc does not tell the two apart.
    Running,
    /// Asleep in a system call.
    Waiting {
        /// Its name.
        syscall: String,
        /// For what.
        on: WaitsFor,
    },
    /// Asleep for a time.
    Sleeping {
        /// Name of the call.
        syscall: String,
    },
    /// Waits in the kernel where no signal reaches it (state D).
    Uninterruptible {
        /// The kernel function it waits in; empty when the kernel does not tell.
        channel: String,
    },
    /// Asleep in the kernel, in no system call.
    Kernel {
        /// As above.
        channel: String,
    },
    /// Stopped by a signal.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// Ended.
    Ended,
}

impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |f: &mut fmt::Formatter<'_>, text: &str, channel: &str| match channel {
            "" => f.write_str(text),
            _ => write!(f, "{text} ({channel})"),
        };
        match self {
            Self::Running => f.write_str("running"),
            Self::Waiting { syscall, on } => match on {
                WaitsFor::Gil => write!(f, "waiting in {syscall} (GIL)"),
                WaitsFor::GilHandOver => write!(f, "waiting in {syscall} (GIL hand-over)"),
                WaitsFor::Lock => write!(f, "waiting in {syscall} (lock)"),
                WaitsFor::LockOrGil => write!(f, "waiting in {syscall} (lock or GIL)"),
                WaitsFor::Files(files) => write!(f, "waiting in {syscall} ({files})"),
                WaitsFor::Unknown => write!(f, "waiting in {syscall}"),
            },
            Self::Sleeping { syscall } => write!(f, "sleeping in {syscall}"),
            Self::Uninterruptible { channel } => at(f, "waiting in uninterruptible kernel code", channel),
            Self::Kernel { channel } => at(f, "waiting in kernel code", channel),
            Self::Stopped => f.write_str("stopped"),
            Self::Traced => f.write_str("stopped by a debugger"),
            Self::Ended => f.write_str("ended"),
        }
    }
}

/// Turns looks at the threads of one process into states.
#[derive(Debug)]
pub(super) struct States<'a> {
    memory: Memory,
    files: Files,
    /// Where threads wait for the GILs: ranges of condition and mutex.
    gils: &'a [(u64, u64)],
}

impl<'a> States<'a> {
    /// States of the threads of the process behind `memory`, whose GILs are at `gils`.
    pub(super) fn new(memory: Memory, gils: &'a [(u64, u64)]) -> Self {
        Self { memory, files: Files::of(memory.tgid()), gils }
    }

    /// What the thread `tid` did at that look.
    pub(super) fn of(&mut self, tid: u32, look: &Look) -> ThreadState {
        let channel = || task::wait_channel(self.memory.tgid(), tid);
        match look.state {
            'T' => ThreadState::Stopped,
            't' => ThreadState::Traced,
            'Z' | 'X' | 'x' => ThreadState::Ended,
            'D' => ThreadState::Uninterruptible { channel: channel() },
            _ => match look.activity {
                Activity::Running => ThreadState::Running,
                Activity::Kernel => ThreadState::Kernel { channel: channel() },
                Activity::Syscall(call) => self.in_call(&call),
            },
        }
    }

    fn in_call(&mut self, call: &Syscall) -> ThreadState {
        let syscall = call.name();
        let [first, second, third, ..] = call.args;
        let on = match syscall.as_str() {
            "nanosleep" | "clock_nanosleep" => return ThreadState::Sleeping { syscall },
            // Without descriptors they are a sleep: that of `time.sleep` up to 3.10.
            "select" | "pselect6" | "poll" if poll_count(&syscall, first, second) == 0 => {
                return ThreadState::Sleeping { syscall };
            }
            "ppoll" if second == 0 => return ThreadState::Sleeping { syscall },
            "futex" => self.futex(first),
            "poll" | "ppoll" => self.polled(first, second),
            "select" | "pselect6" => self.selected(first, second, third),
            "read" | "readv" | "pread64" | "preadv" | "preadv2" | "recvfrom" | "recvmsg" | "recvmmsg" | "accept"
            | "accept4" | "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "flock" | "fcntl" | "ioctl"
            | "getdents64" => WaitsFor::Files(self.files.describe(first, Direction::In)),
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "sendto" | "sendmsg" | "sendmmsg"
            | "connect" | "fsync" | "fdatasync" | "sendfile" | "ftruncate" | "fallocate" => {
                WaitsFor::Files(self.files.describe(first, Direction::Out))
            }
            _ => WaitsFor::Unknown,
        };
        ThreadState::Waiting { syscall, on }
    }

    fn futex(&self, address: u64) -> WaitsFor {
        let inside = |first: u64, length: u64| (first..first.saturating_add(length)).contains(&address);
        if self.gils.is_empty() {
            WaitsFor::LockOrGil
        } else if self.gils.iter().any(|&(start, end)| inside(start, end - start)) {
            WaitsFor::Gil
        } else if self.gils.iter().any(|&(start, end)| inside(end, end - start)) {
            // A second condition and mutex of the same size follow (struct _gil_runtime_state, pycore_gil.h).
            WaitsFor::GilHandOver
        } else {
            WaitsFor::Lock
        }
    }

    /// `struct pollfd`: int fd, short events, short revents.
    fn polled(&mut self, array: u64, count: u64) -> WaitsFor {
        let Ok(bytes) = self.memory.bytes(array, count.min(MAX_DESCRIPTORS) as usize * 8) else {
            return WaitsFor::Unknown;
        };
        let fds = bytes.chunks_exact(8).map(|entry| {
            let fd = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let input = entry[4] & (libc::POLLIN | libc::POLLPRI) as u8 != 0;
            (fd, if input { Direction::In } else { Direction::Out })
        });
        self.several(fds.filter(|&(fd, _)| fd >= 0).collect())
    }

    /// Bit sets of descriptors: those read from, those written to.
    fn selected(&mut self, count: u64, read: u64, write: u64) -> WaitsFor {
        let count = count.min(MAX_DESCRIPTORS);
        let mut fds = Vec::new();
        for (set, direction) in [(read, Direction::In), (write, Direction::Out)] {
            if set == 0 {
                continue;
            }
            let Ok(bits) = self.memory.bytes(set, count.div_ceil(64) as usize * 8) else { return WaitsFor::Unknown };
            let is_set = |fd: &u64| bits[(fd / 8) as usize] >> (fd % 8) & 1 == 1;
            fds.extend((0..count).filter(is_set).map(|fd| (fd as i32, direction)));
        }
        self.several(fds)
    }

    fn several(&mut self, fds: Vec<(i32, Direction)>) -> WaitsFor {
        let shown = fds.iter().take(MAX_POLLED).map(|&(fd, direction)| self.files.describe(fd as u64, direction));
        let mut text = shown.collect::<Vec<_>>().join(", ");
        match fds.len() {
            0 => return WaitsFor::Unknown,
            count if count > MAX_POLLED => text.push_str(&format!(", .. of {count}")),
            _ => {}
        }
        WaitsFor::Files(text)
    }
}

fn poll_count(syscall: &str, first: u64, second: u64) -> u64 {
    if syscall == "poll" { second } else { first }
}

/// The kernel's name of a thread, fit to print.
pub(super) fn comm(look: &Look) -> String {
    escape(&look.comm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_well() {
        let waiting = |on| ThreadState::Waiting { syscall: "futex".to_owned(), on }.to_string();
        assert_eq!(waiting(WaitsFor::Gil), "waiting in futex (GIL)");
        assert_eq!(waiting(WaitsFor::Lock), "waiting in futex (lock)");
        assert_eq!(waiting(WaitsFor::Unknown), "waiting in futex");
        let stuck = |channel: &str| ThreadState::Uninterruptible { channel: channel.to_owned() }.to_string();
        assert_eq!(stuck("folio_wait_bit"), "waiting in uninterruptible kernel code (folio_wait_bit)");
        assert_eq!(stuck(""), "waiting in uninterruptible kernel code");
    }

    #[test]
    fn a_futex_inside_the_gil_is_a_wait_for_it() {
        let states = |gils| States::new(Memory::of(std::process::id()), gils).futex(0x1020);
        assert_eq!(states(&[(0x1000, 0x1058)]), WaitsFor::Gil);
        assert_eq!(states(&[(0xfc8, 0x1020)]), WaitsFor::GilHandOver);
        assert_eq!(states(&[(0x2000, 0x2058)]), WaitsFor::Lock);
        assert_eq!(states(&[]), WaitsFor::LockOrGil);
    }
}
