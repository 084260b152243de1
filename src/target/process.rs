//! What /proc says of one process, as plain values.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::event::ProcessTotals;

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
    /// Device of the file, major and minor.
    pub device: (u32, u32),
    /// Inode of the file; 0 for anonymous memory.
    pub inode: u64,
    /// Path as the process sees it, `[stack]` and the like, or empty.
    pub path: String,
    /// The file has no name any more: removed or replaced after it was mapped.
    pub deleted: bool,
}

impl Mapping {
    /// It maps a file.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.starts_with('/')
    }

    /// Both map the same file.
    pub fn same_file(&self, other: &Self) -> bool {
        self.is_file() && (self.device, self.inode) == (other.device, other.inode)
    }

    /// Last part of the path.
    pub fn base_name(&self) -> &str {
        base_name(&self.path)
    }
}

/// What is behind the last slash.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `comm`: at most 15 bytes.
    pub name: String,
    /// The process this thread belongs to.
    pub tgid: u32,
    /// Its parent.
    pub parent: u32,
    /// `R`, `S`, `Z`, ...
    pub state: char,
    /// Threads.
    pub threads: u32,
    /// Ids of the process in each pid namespace, outermost first.
    pub namespace_pids: Vec<u32>,
    /// Resident memory, bytes; absent for kernel threads.
    pub rss_bytes: Option<u64>,
}

impl Status {
    /// It has ended and waits for its parent to notice.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// A file of `/proc/PID`. A missing one means that the process is gone; EACCES and EPERM that rights are missing.
fn read(pid: u32, file: &str) -> Result<Vec<u8>> {
    fs::read(format!("/proc/{pid}/{file}")).map_err(|err| io_error(pid, file, err))
}

fn text(pid: u32, file: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(pid, file)?).into_owned())
}

/// The error for an unusable `/proc/PID/FILE`.
pub(super) fn io_error(pid: u32, file: &str, err: io::Error) -> Error {
    match err.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Error::target_gone(format!("there is no process {pid}"))
            .hint("it may have ended or been restarted: `pylow doctor` lists the Python processes of this machine"),
        Some(libc::EACCES | libc::EPERM) => Error::not_permitted(format!("not permitted to look into process {pid}"))
            .because(format!("/proc/{pid}/{file}: {err}"))
            .hint(permission_hint()),
        _ => Error::from(err).context(format!("cannot read /proc/{pid}/{file}")),
    }
}

/// What to do about a process that may not be looked into.
pub(super) fn permission_hint() -> &'static str {
    // SAFETY: geteuid has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    match (may_trace(), is_root) {
        (true, _) => {
            "CAP_SYS_PTRACE is there: a security module, a user namespace or kernel lockdown guards the process; \
             run pylow outside of the container or sandbox that it is in"
        }
        (false, true) => "root is not enough here: CAP_SYS_PTRACE is missing, grant it",
        (false, false) => "run pylow as root, or give it CAP_SYS_PTRACE (and CAP_BPF, CAP_PERFMON to attach)",
    }
}

/// This process has CAP_SYS_PTRACE, which is bit 19 (include/uapi/linux/capability.h).
fn may_trace() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).is_some_and(|set| set >> 19 & 1 == 1)
}

/// The mapped memory, in address order.
pub fn mappings(tgid: u32) -> Result<Vec<Mapping>> {
    Ok(text(tgid, "maps")?.lines().filter_map(parse_mapping).collect())
}

fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or("").trim_start();
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let named = path.strip_suffix(" (deleted)");
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        writable: permissions.contains('w'),
        executable: permissions.contains('x'),
        device,
        inode,
        // The kernel writes a newline inside a path as `\012` and nothing else.
        path: named.unwrap_or(path).replace("\\012", "\n"),
        deleted: named.is_some(),
    })
}

/// `/proc/PID/status`; `pid` may also be a thread.
pub fn status(pid: u32) -> Result<Status> {
    Ok(parse_status(&text(pid, "status")?))
}

fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        let number = || value.parse().unwrap_or(0);
        match key {
            "Name" => status.name = value.to_owned(),
            "Tgid" => status.tgid = number(),
            "PPid" => status.parent = number(),
            "State" => status.state = value.chars().next().unwrap_or('?'),
            "Threads" => status.threads = number(),
            "NSpid" => status.namespace_pids = value.split_whitespace().filter_map(|id| id.parse().ok()).collect(),
            "VmRSS" => {
                let kib = value.split(' ').next().and_then(|digits| digits.parse::<u64>().ok());
                status.rss_bytes = kib.map(|kib| kib * 1024);
            }
            _ => {}
        }
    }
    status
}

/// Arguments; empty for kernel threads and zombies.
pub fn arguments(tgid: u32) -> Result<Vec<String>> {
    let bytes = read(tgid, "cmdline")?;
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
}

/// Path of the executable as the process sees it, without the mark of a removed file. None for kernel threads and zombies.
pub fn executable(tgid: u32) -> Result<Option<String>> {
    match fs::read_link(format!("/proc/{tgid}/exe")) {
        Ok(path) => {
            let path = path.to_string_lossy();
            Ok(Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned()))
        }
        // A kernel thread or a zombie has the link but nothing behind it.
        Err(err) if err.raw_os_error() == Some(libc::ENOENT) && fs::metadata(format!("/proc/{tgid}")).is_ok() => {
            Ok(None)
        }
        Err(err) => Err(io_error(tgid, "exe", err)),
    }
}

/// Ids of the threads.
pub fn threads(tgid: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{tgid}/task")).map_err(|err| io_error(tgid, "task", err))?;
    Ok(numbers(entries))
}

/// Ids of all processes that can be seen.
pub fn all() -> Result<Vec<u32>> {
    let mut pids = numbers(fs::read_dir("/proc").context(|| "cannot list /proc".into())?);
    pids.sort_unstable();
    Ok(pids)
}

fn numbers(entries: fs::ReadDir) -> Vec<u32> {
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether the thread still exists.
pub fn has_thread(tgid: u32, tid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{tgid}/task/{tid}")).exists()
}

/// Every process below `tgid`, parents before their children.
pub fn descendants(tgid: u32) -> Result<Vec<u32>> {
    // A process that ends during the scan is not a descendant any more.
    let parents: Vec<(u32, u32)> = all()?.into_iter().filter_map(|pid| Some((status(pid).ok()?.parent, pid))).collect();
    let mut found = vec![tgid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(of, _)| *of == parent).map(|(_, pid)| *pid));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Fields of `/proc/PID/stat` behind the name, which may hold blanks and parentheses; the first is field 3, the state.
fn stat_fields(tgid: u32) -> Result<Vec<u64>> {
    let text = text(tgid, "stat")?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

/// When the process started, in clock ticks since boot: with the pid it names a process for good.
pub fn start_ticks(tgid: u32) -> Result<u64> {
    stat_fields(tgid)?.get(19).copied().ok_or_else(|| Error::failed(format!("/proc/{tgid}/stat has no start time")))
}

/// How long ago the process started.
pub fn age(tgid: u32) -> Result<Duration> {
    let started = start_ticks(tgid)? as f64 / ticks_per_second();
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the kernel to fill.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) } != 0 {
        return Err(Error::from(io::Error::last_os_error()).context("cannot read CLOCK_BOOTTIME"));
    }
    let now = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    Ok(Duration::from_secs_f64((now - started).max(0.0)))
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// A descriptor that stays with this very process and becomes readable when it ends (pidfd_open, kernel 5.3+).
pub fn pidfd(tgid: u32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, tgid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io_error(tgid, "", io::Error::last_os_error()));
    }
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Number of the namespace `kind` (`pid`, `net`, `mnt`) of a process.
pub fn namespace(tgid: u32, kind: &str) -> Result<u64> {
    let file = format!("ns/{kind}");
    let link = fs::read_link(format!("/proc/{tgid}/{file}")).map_err(|err| io_error(tgid, &file, err))?;
    let link = link.to_string_lossy();
    let number = link.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| Error::failed(format!("/proc/{tgid}/{file} is {link}, not a namespace")))
}

/// Path of the cgroup (v2; of v1 the systemd hierarchy), `/system.slice/shop.service`.
pub fn cgroup(tgid: u32) -> Result<String> {
    let text = text(tgid, "cgroup")?;
    let of = |prefix: &str| text.lines().find_map(|line| line.split_once(prefix).map(|(_, path)| path.to_owned()));
    Ok(of("0::").or_else(|| of(":name=systemd:")).unwrap_or_default())
}

/// Where the root of the process's mount namespace can be entered.
pub fn root(tgid: u32) -> PathBuf {
    format!("/proc/{tgid}/root").into()
}

/// One reading of a process's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU and run queue nanoseconds of each living thread (schedstat).
    pub scheduled_ns: BTreeMap<u32, (u64, u64)>,
    /// User and system time of all threads, ended ones included, in whole clock ticks (stat).
    pub cpu_ticks: u64,
    /// Minor page faults (stat).
    pub minor_faults: u64,
    /// Major page faults (stat).
    pub major_faults: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u32,
    /// Read from storage, bytes (io: read_bytes).
    pub read_bytes: u64,
}

impl Counters {
    /// Reads them now.
    pub fn read(tgid: u32) -> Result<Self> {
        let stat = stat_fields(tgid)?;
        let field = |number: usize| stat.get(number - 3).copied().unwrap_or(0);
        let status = status(tgid)?;
        let mut scheduled_ns = BTreeMap::new();
        for tid in threads(tgid)? {
            // A thread that ended since it was listed has no line any more; `cpu_ticks` keeps its share.
            if let Ok(line) = text(tgid, &format!("task/{tid}/schedstat")) {
                let mut values = line.split_whitespace().map(|value| value.parse().unwrap_or(0));
                scheduled_ns.insert(tid, (values.next().unwrap_or(0), values.next().unwrap_or(0)));
            }
        }
        let io = text(tgid, "io")?;
        let read_bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok()).unwrap_or(0);
        Ok(Self {
            scheduled_ns,
            cpu_ticks: field(14) + field(15),
            minor_faults: field(10),
            major_faults: field(12),
            rss_bytes: status.rss_bytes.unwrap_or(0),
            threads: status.threads,
            read_bytes,
        })
    }

    /// What was counted between `earlier` and this reading, `wall_ns` apart.
    pub fn since(&self, earlier: &Self, tgid: u32, wall_ns: u64) -> ProcessTotals {
        let (mut cpu_ns, mut runqueue_ns) = (0, 0);
        for (tid, (cpu, runqueue)) in &self.scheduled_ns {
            let before = earlier.scheduled_ns.get(tid).copied().unwrap_or_default();
            cpu_ns += cpu.saturating_sub(before.0);
            runqueue_ns += runqueue.saturating_sub(before.1);
        }
        if earlier.scheduled_ns.keys().any(|tid| !self.scheduled_ns.contains_key(tid)) {
            // The time of threads that ended is in the ticks only: coarser, but all of it.
            let ticks = self.cpu_ticks.saturating_sub(earlier.cpu_ticks);
            cpu_ns = cpu_ns.max((ticks as f64 * 1e9 / ticks_per_second()) as u64);
        }
        ProcessTotals {
            tgid,
            wall_ns,
            cpu_ns,
            runqueue_ns,
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            rss_bytes: self.rss_bytes,
            rss_growth_bytes: self.rss_bytes as i64 - earlier.rss_bytes as i64,
            threads: self.threads,
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_maps_line_with_blanks_and_a_removed_file() {
        let line = "7f00a000-7f00b000 r-xp 00001000 fe:0a 4711                       /srv/my app/python3 (deleted)";
        let mapping = parse_mapping(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00a000, 0x7f00b000, 0x1000));
        assert_eq!((mapping.device, mapping.inode), ((0xfe, 0x0a), 4711));
        assert_eq!(mapping.path, "/srv/my app/python3");
        assert!(mapping.deleted && mapping.executable && !mapping.writable);
    }

    #[test]
    fn own_process() {
        let own = std::process::id();
        let status = status(own).unwrap();
        assert_eq!(status.tgid, own);
        assert_eq!(status.namespace_pids.last(), Some(&own));
        assert!(mappings(own).unwrap().iter().any(|mapping| mapping.executable && mapping.is_file()));
        assert!(threads(own).unwrap().contains(&own));
        assert!(age(own).unwrap() < Duration::from_secs(3600));
        assert!(!arguments(own).unwrap().is_empty());
        pidfd(own).unwrap();
        let before = Counters::read(own).unwrap();
        let totals = Counters::read(own).unwrap().since(&before, own, 1);
        assert!(totals.rss_bytes > 0 && totals.threads > 0);
    }

    #[test]
    fn no_such_process() {
        let gone = u32::MAX / 4;
        assert_eq!(status(gone).unwrap_err().kind(), ErrorKind::TargetGone);
        assert_eq!(executable(gone).unwrap_err().kind(), ErrorKind::TargetGone);
        assert!(pidfd(gone).is_err());
    }
}
