//! Starts a command, but holds it before its first instruction until whoever wants to see all of it is ready.

use std::ffi::{CString, OsString};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use super::{Target, process};
use crate::error::{Context, Error, Result};

/// A process that waits to become a command. Dropped before [`Held::release`], it ends and was never more than a fork.
///
/// The command keeps the terminal: what it prints goes where pylow's own output goes, unchanged and not part of any
/// report; redirect pylow's report by `--output` to keep them apart.
#[derive(Debug)]
pub struct Held {
    tgid: u32,
    command: Vec<OsString>,
    /// One byte lets it go on; closed without one, it ends. None once it was released.
    go: Option<PipeWriter>,
    /// Gives the errno of a failed exec; closed by one that works.
    failure: PipeReader,
    ended: bool,
}

/// Forks a process that will become `command`. Errors: Usage for an empty command or one with a NUL byte.
pub fn hold(command: &[OsString]) -> Result<Held> {
    if command.is_empty() {
        return Err(Error::usage("no command after --"));
    }
    let strings = command.iter().map(|argument| CString::new(argument.as_bytes()));
    let strings = strings
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::usage("an argument of the command has a NUL byte"))?;
    let arguments: Vec<_> = strings.iter().map(|argument| argument.as_ptr()).chain([ptr::null()]).collect();
    let pipe = || io::pipe().context(|| "cannot make a pipe".into());
    let (wait, go) = pipe()?;
    let (failure, failed) = pipe()?;
    let ends = [wait.as_raw_fd(), go.as_raw_fd(), failed.as_raw_fd()];
    // SAFETY: the child only calls `become_command`, which keeps to what is allowed after fork.
    match unsafe { libc::fork() } {
        -1 => Err(Error::from(io::Error::last_os_error()).context("cannot fork")),
        // SAFETY: this is the child; `arguments` are terminated strings in an array that ends with NULL.
        0 => unsafe { become_command(&arguments, ends) },
        pid => Ok(Held { tgid: pid as u32, command: command.to_vec(), go: Some(go), failure, ended: false }),
    }
}

/// The child: waits for its byte, then execs with the signals as a program expects them.
///
/// # Safety
/// For the child of a fork, where other threads may hold any lock: only async-signal-safe functions are called, and
/// execvp, which in glibc and musl allocates nothing. `arguments` ends with NULL and holds C strings otherwise.
unsafe fn become_command(arguments: &[*const libc::c_char], [wait, go, failed]: [i32; 3]) -> ! {
    // SAFETY: plain system calls on descriptors and locals of this process; see above for `arguments`.
    unsafe {
        // pylow's handlers are not the command's, and Rust programs ignore SIGPIPE.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        // With its own copy open it would never see that pylow is gone.
        libc::close(go);
        let mut byte = 0_u8;
        let got = loop {
            let got = libc::read(wait, (&raw mut byte).cast(), 1);
            if got >= 0 || *libc::__errno_location() != libc::EINTR {
                break got;
            }
        };
        if got == 1 {
            libc::execvp(arguments[0], arguments.as_ptr());
            let errno = *libc::__errno_location();
            libc::write(failed, (&raw const errno).cast(), size_of::<i32>());
        }
        libc::_exit(127)
    }
}

impl Held {
    /// Process id, before and after the exec.
    pub fn tgid(&self) -> u32 {
        self.tgid
    }

    /// The command line, arguments joined by blanks.
    pub fn command_line(&self) -> String {
        self.command.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// The process, said to be what it will become.
    pub fn target(&self) -> Result<Target> {
        let program = self.command[0].to_string_lossy();
        let mut target = Target::to_come(self.tgid)?;
        target.process.executable = process::base_name(&program).to_owned();
        target.process.command = self.command_line();
        Ok(target)
    }

    /// Lets it become the command; returns when it has.
    ///
    /// Errors: Usage when there is no such program, NotPermitted when it is not executable, TargetGone when somebody
    /// ended the process meanwhile.
    pub fn release(&mut self) -> Result<()> {
        let Some(mut go) = self.go.take() else { return Ok(()) };
        match go.write_all(&[1]) {
            Err(err) if err.kind() == ErrorKind::BrokenPipe => {
                return Err(Error::target_gone(format!("process {} was ended before it became a command", self.tgid)));
            }
            written => written.context(|| "cannot release the command".into())?,
        }
        let mut errno = [0; size_of::<i32>()];
        match self.failure.read_exact(&mut errno) {
            Ok(()) => Err(self.not_started(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))),
            Err(err) if err.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(err) => Err(Error::from(err).context("cannot see whether the command was started")),
        }
    }

    /// Takes its exit status if it has ended, so that it does not stay a zombie.
    pub fn try_wait(&mut self) {
        self.wait(libc::WNOHANG);
    }

    fn wait(&mut self, flags: i32) {
        // SAFETY: waitpid accepts NULL for the status; the pid is a child that was not waited for.
        if !self.ended && unsafe { libc::waitpid(self.tgid as libc::pid_t, ptr::null_mut(), flags) } != 0 {
            // An error means that there is nothing to wait for.
            self.ended = true;
        }
    }

    fn not_started(&self, err: io::Error) -> Error {
        let program = self.command[0].to_string_lossy();
        let message = format!("cannot start `{program}`");
        match err.kind() {
            ErrorKind::NotFound => Error::usage(message).because(err.to_string()).hint(match program.contains('/') {
                true => "is the path right, and the interpreter in its first line there?",
                false => "it is in no directory of PATH: give its path",
            }),
            _ => Error::from(err).context(message),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self.go.take() {
            // It ends now, whatever it waits for.
            Some(go) => {
                drop(go);
                self.wait(0);
            }
            None => self.try_wait(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error;

    fn held(command: &[&str]) -> Held {
        hold(&command.iter().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn runs_when_released_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("made");
        let mut held = held(&["touch", file.to_str().unwrap()]);
        assert_eq!(process::status(held.tgid()).unwrap().parent, std::process::id());
        assert!(!file.exists());
        held.release().unwrap();
        held.wait(0);
        assert!(file.exists() && held.ended);
    }

    #[test]
    fn dropped_it_never_ran() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("made");
        let held = held(&["touch", file.to_str().unwrap()]);
        let tgid = held.tgid();
        drop(held);
        assert!(!file.exists() && process::status(tgid).is_err());
    }

    #[test]
    fn what_cannot_be_started() {
        let kind = |command: &[&str]| held(command).release().unwrap_err().kind();
        assert_eq!(kind(&["no-such-command-anywhere"]), error::ErrorKind::Usage);
        assert_eq!(kind(&["/etc/passwd"]), error::ErrorKind::NotPermitted);
        assert_eq!(hold(&[]).unwrap_err().kind(), error::ErrorKind::Usage);
    }

    #[test]
    fn signals_are_a_programs() {
        let mut held = held(&["sleep", "60"]);
        held.release().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", held.tgid())).unwrap();
        for field in ["SigBlk", "SigIgn", "SigCgt"] {
            let mask = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap();
            // SIGPIPE is number 13; what the test's own parent ignores is passed on.
            assert_eq!(u64::from_str_radix(mask, 16).unwrap() >> 12 & 1, 0, "{field} {mask}");
        }
        // SAFETY: kill takes no pointers; the process is a child that was not waited for.
        unsafe { libc::kill(held.tgid() as i32, libc::SIGTERM) };
        held.wait(0);
    }
}
