//! What a thread waited for, told by the system call it was in and the Python functions it came through.
//!
//! File names are those of the standard library of CPython 3.6 to 3.15 and of widely used servers, below whatever
//! directory they are installed in.

use crate::event::{Frame, FrameKind, StackStatus, Wait};

/// Why a thread did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The global interpreter lock.
    Gil,
    /// A lock, semaphore or file lock that something else held.
    Lock,
    /// A connection: connect, send, receive, or polling one socket.
    Socket,
    /// A file or the disk below it.
    File,
    /// A pipe, terminal or another byte stream that is no socket call.
    Pipe,
    /// A child process.
    Child,
    /// Memory: a page read from disk, or the address space locked by another thread.
    PageFault,
    /// A blocking call inside a callback of an event loop: nothing else of the loop runs.
    BlockedLoop,
    /// It asked to sleep.
    Sleep,
    /// An event loop waits for any of its sockets or timers. Whether work is awaited or absent, the wait does not tell.
    EventLoop,
    /// A server waits for a client.
    Client,
    /// A worker waits for work, or a thread for another thread: queue, condition, event, join, pool.
    Work,
    /// Nothing of the above.
    Other,
}

impl Cause {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Gil,
        Self::Lock,
        Self::Socket,
        Self::File,
        Self::Pipe,
        Self::Child,
        Self::PageFault,
        Self::BlockedLoop,
        Self::Sleep,
        Self::EventLoop,
        Self::Client,
        Self::Work,
        Self::Other,
    ];

    /// Its name in a sentence: `waits for the GIL` is the pattern.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gil => "the GIL",
            Self::Lock => "a lock",
            Self::Socket => "a socket",
            Self::File => "a file",
            Self::Pipe => "a pipe",
            Self::Child => "a child process",
            Self::PageFault => "memory",
            Self::BlockedLoop => "a sleep that blocks the event loop",
            Self::Sleep => "its own sleep",
            Self::EventLoop => "the event loop's sockets and timers",
            Self::Client => "a client",
            Self::Work => "work",
            Self::Other => "something unknown",
        }
    }

    /// Input or output that the program asked for.
    pub fn is_io(self) -> bool {
        matches!(self, Self::Socket | Self::File | Self::Pipe | Self::Child | Self::BlockedLoop)
    }

    /// The thread has nothing to do, or chose to do nothing.
    pub fn is_idle(self) -> bool {
        matches!(self, Self::Sleep | Self::EventLoop | Self::Client | Self::Work)
    }
}

/// System calls that wait alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Futex,
    Poll,
    Epoll,
    /// Receive and send.
    Stream,
    /// read and write: of a file, pipe, socket or terminal.
    Bytes,
}

/// One function that tells what a call below it waits for.
struct Rule {
    calls: &'static [Call],
    file: &'static str,
    /// Empty for every function of the file.
    function: &'static str,
    /// It must be among that many innermost Python frames.
    within: usize,
    cause: Cause,
}

const fn rule(calls: &'static [Call], file: &'static str, function: &'static str, within: usize, cause: Cause) -> Rule {
    Rule { calls, file, function, within, cause }
}

/// The first that matches decides; what matches none is judged by the call alone.
const RULES: &[Rule] = &[
    // Semaphore.acquire waits in its Condition: a lock, although its leaf is `wait`.
    rule(&[Call::Futex], "threading.py", "acquire", 2, Cause::Lock),
    // A pool's worker asks a C queue (3.7+), or queue.py's `get` (3.6).
    rule(&[Call::Futex], "concurrent/futures/thread.py", "_worker", 3, Cause::Work),
    rule(&[Call::Futex], "queue.py", "get", 3, Cause::Work),
    rule(&[Call::Futex], "queue.py", "put", 3, Cause::Work),
    rule(&[Call::Futex], "queue.py", "join", 3, Cause::Work),
    rule(&[Call::Futex], "threading.py", "wait", 1, Cause::Work),
    rule(&[Call::Futex], "threading.py", "join", 2, Cause::Work),
    rule(&[Call::Futex], "threading.py", "_wait_for_tstate_lock", 1, Cause::Work),
    rule(&[Call::Futex], "threading.py", "_shutdown", 2, Cause::Work),
    // multiprocessing: the queue's reader takes a semaphore, then reads a pipe.
    rule(&[Call::Futex, Call::Bytes, Call::Poll], "multiprocessing/queues.py", "get", 5, Cause::Work),
    rule(&[Call::Futex, Call::Bytes, Call::Poll], "multiprocessing/pool.py", "", 5, Cause::Work),
    rule(&[Call::Bytes, Call::Poll], "concurrent/futures/process.py", "", 5, Cause::Work),
    rule(&[Call::Poll], "multiprocessing/popen_fork.py", "", 4, Cause::Child),
    rule(&[Call::Poll], "multiprocessing/connection.py", "", 2, Cause::Pipe),
    rule(&[Call::Poll, Call::Bytes], "subprocess.py", "", 3, Cause::Child),
    // Servers between two requests.
    rule(&[Call::Poll, Call::Epoll], "socketserver.py", "serve_forever", 2, Cause::Client),
    rule(&[Call::Stream, Call::Bytes], "http/server.py", "handle_one_request", 3, Cause::Client),
    rule(&[Call::Poll], "gunicorn/workers/sync.py", "wait", 1, Cause::Client),
    rule(&[Call::Poll], "gunicorn/arbiter.py", "sleep", 1, Cause::Work),
    // Event loops: the selector directly below the loop. A blocking call in a coroutine has other frames in between.
    rule(&[Call::Poll, Call::Epoll], "asyncio/base_events.py", "_run_once", 2, Cause::EventLoop),
    rule(&[Call::Poll, Call::Epoll], "selectors.py", "select", 1, Cause::EventLoop),
    // TLS and buffered readers use plain read and write on their socket.
    rule(&[Call::Bytes], "ssl.py", "", 2, Cause::Socket),
    rule(&[Call::Bytes], "socket.py", "", 2, Cause::Socket),
];

/// F_SETLKW and F_OFD_SETLKW: the commands of fcntl that wait for a lock (include/uapi/asm-generic/fcntl.h).
const FCNTL_LOCK_COMMANDS: [u64; 2] = [7, 38];

/// Why this wait took place.
pub fn cause(wait: &Wait) -> Cause {
    if wait.gil {
        return Cause::Gil;
    }
    let Some(name) = wait.syscall.as_deref() else {
        // Outside of a system call only memory makes a thread wait uninterruptibly.
        return if wait.uninterruptible { Cause::PageFault } else { Cause::Other };
    };
    match name {
        "futex" | "futex_wait" | "futex_waitv" => futex(wait),
        // time.sleep is select(0, NULL, NULL, NULL, timeout) before 3.11 (Modules/timemodule.c, pysleep).
        "select" | "pselect6" if wait.args[0] == 0 => sleep(wait),
        "nanosleep" | "clock_nanosleep" => sleep(wait),
        "poll" | "ppoll" | "select" | "pselect6" => by_frames(wait, Call::Poll).unwrap_or(Cause::Socket),
        "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "epoll_wait_old" => {
            by_frames(wait, Call::Epoll).unwrap_or(Cause::EventLoop)
        }
        "recvfrom" | "recvmsg" | "recvmmsg" | "sendto" | "sendmsg" | "sendmmsg" | "sendfile" => {
            by_frames(wait, Call::Stream).unwrap_or(Cause::Socket)
        }
        "connect" | "shutdown" => Cause::Socket,
        "accept" | "accept4" => Cause::Client,
        // Files make their readers wait uninterruptibly, streams do not.
        "read" | "readv" | "write" | "writev" | "splice" | "tee" => {
            by_frames(wait, Call::Bytes).unwrap_or(if wait.uninterruptible { Cause::File } else { Cause::Pipe })
        }
        "wait4" | "waitid" | "waitpid" => Cause::Child,
        "flock" | "semop" | "semtimedop" => Cause::Lock,
        "fcntl" if FCNTL_LOCK_COMMANDS.contains(&wait.args[1]) => Cause::Lock,
        "pause" | "rt_sigsuspend" | "rt_sigtimedwait" => Cause::Work,
        "mmap" | "munmap" | "mremap" | "mprotect" | "madvise" | "brk" | "mlock" | "mlockall" => Cause::PageFault,
        // Every other call that waits uninterruptibly waits for a file system or its disk: fsync, openat, stat, unlink.
        _ if wait.uninterruptible => Cause::File,
        _ => Cause::Other,
    }
}

/// A sleep is the thread's own wish, but not that of the other tasks of an event loop.
fn sleep(wait: &Wait) -> Cause {
    let in_callback = wait.stack.frames.iter().any(|frame| names(frame, "asyncio/events.py", "_run"));
    if in_callback { Cause::BlockedLoop } else { Cause::Sleep }
}

/// A lock, unless the frames say that the thread waits for work. A thread that runs no Python at all, of a BLAS or
/// gRPC pool, has its own affairs.
fn futex(wait: &Wait) -> Cause {
    if wait.stack.status.has(StackStatus::NO_THREAD) {
        return Cause::Work;
    }
    let semaphore = wait.stack.frames.iter().take(2).any(|frame| names(frame, "threading.py", "acquire"));
    if semaphore && wait.before && wait.open {
        // Nobody released it for the whole run: so do consumers wait for work.
        return Cause::Work;
    }
    by_frames(wait, Call::Futex).unwrap_or(Cause::Lock)
}

fn by_frames(wait: &Wait, call: Call) -> Option<Cause> {
    let python: Vec<&Frame> =
        wait.stack.frames.iter().filter(|frame| frame.kind == FrameKind::Python).take(5).collect();
    let matches = |rule: &&Rule| {
        rule.calls.contains(&call)
            && python.iter().take(rule.within).any(|frame| names(frame, rule.file, rule.function))
    };
    RULES.iter().find(matches).map(|rule| rule.cause)
}

/// `function` is compared with the last part of a qualified name.
fn names(frame: &Frame, file: &str, function: &str) -> bool {
    let in_file = frame.file.as_deref().is_some_and(|path| {
        path.strip_suffix(file).is_some_and(|directory| directory.is_empty() || directory.ends_with('/'))
    });
    let last = frame.function.rsplit('.').next().unwrap_or_default();
    in_file && (function.is_empty() || last == function)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Stack, Stamp};

    const LIB: &str = "/usr/lib/python3.11/";

    fn wait(syscall: Option<&str>, frames: &[(&str, &str)]) -> Wait {
        let frames = frames.iter().map(|&(function, file)| Frame {
            kind: FrameKind::Python,
            function: function.into(),
            file: Some(file.into()),
            line: Some(1),
        });
        Wait {
            at: Stamp { ktime_ns: 0, tgid: 1, tid: 1, cpu: 0 },
            blocked_ns: 1,
            runqueue_ns: 0,
            open: false,
            before: false,
            stopped: false,
            uninterruptible: false,
            syscall: syscall.map(Into::into),
            args: [3, 0],
            gil: false,
            stack: Stack { frames: frames.collect(), status: StackStatus::ROOT }.into(),
        }
    }

    fn check(syscall: &str, frames: &[(&str, &str)], expected: Cause) {
        let frames: Vec<(&str, String)> = frames
            .iter()
            .map(|&(function, file)| {
                let library = file != "app.py";
                (function, if library { format!("{LIB}{file}") } else { file.into() })
            })
            .collect();
        let frames: Vec<(&str, &str)> = frames.iter().map(|(function, file)| (*function, file.as_str())).collect();
        assert_eq!(cause(&wait(Some(syscall), &frames)), expected, "{syscall} {frames:?}");
    }

    const APP: (&str, &str) = ("work", "app.py");

    #[test]
    fn a_futex_is_a_lock_unless_the_thread_waits_for_work() {
        check("futex", &[APP], Cause::Lock);
        check("futex", &[("Semaphore.acquire", "threading.py"), APP], Cause::Lock);
        check("futex", &[("Condition.wait", "threading.py"), ("Semaphore.acquire", "threading.py")], Cause::Lock);
        check("futex", &[("Condition.wait", "threading.py"), ("Event.wait", "threading.py"), APP], Cause::Work);
        check("futex", &[("wait", "threading.py"), ("get", "queue.py"), APP], Cause::Work);
        check("futex", &[("_worker", "concurrent/futures/thread.py"), ("run", "threading.py")], Cause::Work);
        check("futex", &[("Thread._wait_for_tstate_lock", "threading.py"), APP], Cause::Work);
        check("futex", &[("Thread.join", "threading.py"), APP], Cause::Work);
        // `run` calls user code that takes a lock: threading.py on the stack is no excuse.
        check("futex", &[APP, ("Thread.run", "threading.py"), ("Thread.join", "threading.py")], Cause::Lock);
    }

    #[test]
    fn a_thread_without_python_is_no_lock_contention() {
        let mut blas = wait(Some("futex"), &[]);
        blas.stack = Stack { frames: vec![], status: StackStatus::NO_THREAD }.into();
        assert_eq!(cause(&blas), Cause::Work);
        let gil = Wait { gil: true, ..blas };
        assert_eq!(cause(&gil), Cause::Gil);
    }

    #[test]
    fn an_idle_loop_is_told_from_a_blocking_call_in_it() {
        let select = ("EpollSelector.select", "selectors.py");
        let run_once = ("BaseEventLoop._run_once", "asyncio/base_events.py");
        check("epoll_wait", &[select, run_once], Cause::EventLoop);
        check("epoll_wait", &[("run", "asyncio/runners.py")], Cause::EventLoop);
        check("poll", &[APP, ("Handle._run", "asyncio/events.py"), run_once], Cause::Socket);
        check("recvfrom", &[APP, ("Handle._run", "asyncio/events.py"), run_once], Cause::Socket);
        check("poll", &[("PollSelector.select", "selectors.py"), APP], Cause::EventLoop);
    }

    #[test]
    fn servers_between_requests_wait_for_a_client() {
        check("accept4", &[("accept", "socket.py")], Cause::Client);
        check("poll", &[("select", "selectors.py"), ("serve_forever", "socketserver.py")], Cause::Client);
        check("recvfrom", &[("readinto", "socket.py"), ("handle_one_request", "http/server.py")], Cause::Client);
        check("select", &[("SyncWorker.wait", "gunicorn/workers/sync.py")], Cause::Client);
        check("recvfrom", &[("readinto", "socket.py"), ("begin", "http/client.py"), APP], Cause::Socket);
    }

    #[test]
    fn streams_files_and_children() {
        check("poll", &[("select", "selectors.py"), ("Popen._communicate", "subprocess.py")], Cause::Child);
        check("wait4", &[("Popen._try_wait", "subprocess.py")], Cause::Child);
        check("read", &[("SSLSocket.read", "ssl.py"), APP], Cause::Socket);
        check("read", &[APP], Cause::Pipe);
        check(
            "read",
            &[("_recv", "multiprocessing/connection.py"), ("worker", "multiprocessing/pool.py")],
            Cause::Work,
        );
        check("connect", &[APP], Cause::Socket);
        let mut disk = wait(Some("read"), &[("work", "app.py")]);
        disk.uninterruptible = true;
        assert_eq!(cause(&disk), Cause::File);
        disk.syscall = Some("fsync".into());
        assert_eq!(cause(&disk), Cause::File);
        disk.syscall = None;
        assert_eq!(cause(&disk), Cause::PageFault);
        assert_eq!(cause(&wait(None, &[])), Cause::Other);
    }

    #[test]
    fn sleeps_and_file_locks_show_in_the_arguments() {
        let with_args = |syscall: &str, args| Wait { args, ..wait(Some(syscall), &[("work", "app.py")]) };
        assert_eq!(cause(&with_args("select", [0, 0])), Cause::Sleep);
        assert_eq!(cause(&with_args("select", [4, 0])), Cause::Socket);
        assert_eq!(cause(&with_args("clock_nanosleep", [1, 0])), Cause::Sleep);
        assert_eq!(cause(&with_args("fcntl", [3, 7])), Cause::Lock);
        assert_eq!(cause(&with_args("fcntl", [3, 3])), Cause::Other);
    }

    #[test]
    fn only_whole_path_parts_match() {
        let own = wait(Some("futex"), &[("get", "/app/my_queue.py")]);
        assert_eq!(cause(&own), Cause::Lock);
    }
}
