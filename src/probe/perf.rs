//! Perf software events: the CPU clock and page faults. Work in every VM, without a PMU.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libbpf_rs::{Link, ProgramMut, libbpf_sys};

use crate::error::{Context, Error, Result};

/// Which event, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// So many times per second of CPU time.
    CpuClock(u32),
    /// At every n-th page fault.
    PageFaults(u32),
}

/// Numbers of the online CPUs.
pub fn online_cpus() -> Result<Vec<u32>> {
    const PATH: &str = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(PATH).context(|| format!("cannot read {PATH}"))?;
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => cpus.extend(first..=last),
            _ => return Err(Error::failed(format!("cannot make out `{}` of {PATH}", text.trim()))),
        }
    }
    Ok(cpus)
}

/// Opens the event on one CPU and attaches the program; the link owns the event.
pub(super) fn attach(program: &ProgramMut<'_>, event: Event, cpu: u32) -> Result<Link> {
    let fd = open(event, cpu)?;
    let link = program.attach_perf_event(fd.as_raw_fd()).map_err(|err| super::explain_attach(&err, "perf_event"))?;
    std::mem::forget(fd); // libbpf closes it with the link
    Ok(link)
}

fn open(event: Event, cpu: u32) -> Result<OwnedFd> {
    let mut attr = libbpf_sys::perf_event_attr {
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        type_: libbpf_sys::PERF_TYPE_SOFTWARE,
        ..Default::default()
    };
    match event {
        Event::CpuClock(frequency) => {
            attr.config = libbpf_sys::PERF_COUNT_SW_CPU_CLOCK.into();
            attr.__bindgen_anon_1.sample_freq = frequency.into();
            attr.set_freq(1);
        }
        Event::PageFaults(every) => {
            attr.config = libbpf_sys::PERF_COUNT_SW_PAGE_FAULTS.into();
            attr.__bindgen_anon_1.sample_period = every.into();
        }
    }
    let (any_process, no_group) = (-1, -1);
    // SAFETY: `attr` is a whole perf_event_attr that says its size; the other arguments are integers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            any_process,
            cpu as libc::c_int,
            no_group,
            libc::c_ulong::from(libbpf_sys::PERF_FLAG_FD_CLOEXEC),
        )
    };
    if fd < 0 {
        let err = std::io::Error::last_os_error();
        let error = Error::from(err).context(format!("cannot open a perf event on CPU {cpu}"));
        return Err(error.hint("run as root, or grant CAP_PERFMON; see /proc/sys/kernel/perf_event_paranoid"));
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
