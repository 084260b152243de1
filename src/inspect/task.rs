//! What the kernel says of one thread: its state, the system call it sleeps in, and how often it was switched.

use std::fs;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};
use crate::event::{Frame, FrameKind};

/// A system call a thread sleeps in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syscall {
    /// Its number on this architecture.
    pub(super) number: u64,
    /// Its arguments.
    pub(super) args: [u64; 6],
}

impl Syscall {
    /// `read`; `syscall_500` when unknown.
    pub(super) fn name(&self) -> String {
        let known = usize::try_from(self.number).ok().and_then(syscalls::Sysno::new);
        known.map_or_else(|| format!("syscall_{}", self.number), |call| call.name().to_owned())
    }
}

/// `/proc/TID/syscall`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// On a CPU, or ready for one.
    Running,
    /// Off the CPU, in a system call.
    Syscall(Syscall),
    /// Off the CPU, in kernel code that no system call led to: a page fault, a stop.
    Kernel,
}

/// One look at a thread. Two equal looks at a thread that does not run mean that it did not run in between: each time it
/// leaves the CPU one of the counts grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// State letter of proc(5): `R`, `S`, `D`, `T`, `t`, `Z`, ...
    pub(super) state: char,
    /// What it does.
    pub(super) activity: Activity,
    switches: [u64; 2],
    /// Ids in each pid namespace, outermost first.
    pub(super) ids: Vec<u32>,
    /// The kernel's name of the thread.
    pub(super) comm: String,
}

impl Look {
    /// It did not run between this look and `later`.
    pub(super) fn still_in(&self, later: &Self) -> bool {
        self.activity != Activity::Running && self == later
    }
}

/// Directory of a thread.
fn directory(tgid: u32, tid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{tgid}/task/{tid}"))
}

/// Looks at a thread; nothing when it ended.
///
/// # Errors
/// Missing rights: `syscall` needs those of ptrace, as reading the memory does.
pub(super) fn look(tgid: u32, tid: u32) -> Result<Option<Look>> {
    let Some(status) = file(tgid, tid, "status")? else { return Ok(None) };
    let Some(syscall) = file(tgid, tid, "syscall")? else { return Ok(None) };
    Ok(Some(parse(&status, &syscall)))
}

/// Where in the kernel a sleeping thread is; empty when the kernel does not tell.
pub(super) fn wait_channel(tgid: u32, tid: u32) -> String {
    let text = fs::read_to_string(directory(tgid, tid).join("wchan")).unwrap_or_default();
    if text == "0" { String::new() } else { text }
}

/// Kernel frames of a thread that is in the kernel, leaf first; none of one that runs or has ended. The file of a frame is
/// its kernel module, when it is in one.
///
/// # Errors
/// Missing rights (`CAP_SYS_ADMIN`), or a kernel that does not tell (`CONFIG_STACKTRACE`).
pub fn kernel_frames(tgid: u32, tid: u32) -> Result<Vec<Frame>> {
    let directory = directory(tgid, tid);
    let text = file(tgid, tid, "stack")?;
    if text.is_none() && directory.exists() {
        return Err(Error::unsupported("this kernel tells no kernel frames").because("it has no /proc/PID/stack"));
    }
    Ok(text.unwrap_or_default().lines().filter_map(kernel_frame).collect())
}

/// `[<0>] futex_wait+0x5e/0x110`, with `[module]` behind it where it is in one.
fn kernel_frame(line: &str) -> Option<Frame> {
    let mut words = line.split_whitespace().skip(1);
    let function = words.next()?.split('+').next()?;
    Some(Frame { kind: FrameKind::Kernel, function: function.into(), file: words.next().map(Into::into), line: None })
}

/// Thread ids of a process, the main thread first; empty when it is gone.
pub(super) fn all(tgid: u32) -> Result<Vec<u32>> {
    let entries = match fs::read_dir(format!("/proc/{tgid}/task")) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("cannot list the threads of process {tgid}"))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut tids: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    tids.sort_by_key(|&tid| (tid != tgid, tid));
    Ok(tids)
}

/// The file as text; nothing when the thread ended.
fn file(tgid: u32, tid: u32, name: &str) -> Result<Option<String>> {
    let path = directory(tgid, tid).join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound || err.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(err) => Err(err).context(|| format!("cannot read {}", path.display())),
    }
}

fn parse(status: &str, syscall: &str) -> Look {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default()
    };
    let count = |name| field(name).parse().unwrap_or(0);
    Look {
        state: field("State").chars().next().unwrap_or('?'),
        activity: activity(syscall),
        switches: [count("voluntary_ctxt_switches"), count("nonvoluntary_ctxt_switches")],
        ids: field("NSpid").split_whitespace().filter_map(|id| id.parse().ok()).collect(),
        comm: field("Name").to_owned(),
    }
}

/// `running`; `-1 sp pc`; or number, six arguments, sp and pc.
fn activity(text: &str) -> Activity {
    let mut fields = text.split_whitespace();
    let Some(Ok(number)) = fields.next().map(str::parse::<i64>) else { return Activity::Running };
    let Ok(number) = u64::try_from(number) else { return Activity::Kernel };
    let mut args = [0; 6];
    for (arg, field) in args.iter_mut().zip(fields) {
        *arg = u64::from_str_radix(field.trim_start_matches("0x"), 16).unwrap_or(0);
    }
    Activity::Syscall(Syscall { number, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_frames_are_names() {
        let frame = kernel_frame("[<0>] nft_do_chain+0x12/0x340 [nf_tables]").unwrap();
        assert_eq!((&*frame.function, frame.file.as_deref()), ("nft_do_chain", Some("[nf_tables]")));
        let frame = kernel_frame("[<0>] do_syscall_64+0x5d/0x90").unwrap();
        assert_eq!((frame.kind, &*frame.function, frame.file), (FrameKind::Kernel, "do_syscall_64", None));
    }

    #[test]
    fn looks_are_compared() {
        let status = "Name:\tmy worker\nState:\tS (sleeping)\nNSpid:\t9389\t1\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        let look = parse(status, "202 0x7f10 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f11\n");
        assert_eq!((look.state, look.comm.as_str(), look.ids.as_slice()), ('S', "my worker", &[9389, 1][..]));
        let Activity::Syscall(call) = look.activity else { panic!("{look:?}") };
        assert_eq!((call.number, call.args[0], call.args[5]), (202, 0x7f10, 0xffff_ffff));
        assert!(look.still_in(&look.clone()));
        let later = parse(&status.replace("12", "13"), "202 0x7f10 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f11\n");
        assert!(!look.still_in(&later));
        let running = parse(status, "running\n");
        assert_eq!(running.activity, Activity::Running);
        assert!(!running.still_in(&running.clone()));
        assert_eq!(activity("-1 0x7ffd 0x7f11"), Activity::Kernel);
        assert_eq!(Syscall { number: 100_000, args: [0; 6] }.name(), "syscall_100000");
    }
}
