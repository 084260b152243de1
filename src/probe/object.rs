//! The one loader: opens an object, gives it the options, shares the maps, and turns the verifier's word into an error.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, OpenObject, PrintLevel};

use super::abi;
use crate::error::{Error, ErrorKind, Result};

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// Section of the options; also the tail of its map's name.
const CONFIG_SECTION: &str = ".rodata.config";
/// Maps that every object of a run shares; the first object that has one owns it.
const SHARED_MAPS: [&str; 4] = ["processes", "events", "outcomes", "known"];
/// Lines of libbpf's log kept for an error.
const LOG_LINES: usize = 12;

/// What libbpf said since the last load: its errors hold only an errno, the reason is in its log.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn keep_log(_level: PrintLevel, text: String) {
    if let Ok(mut log) = LOG.lock() {
        log.extend(text.lines().map(str::to_owned));
    }
}

fn take_log() -> Vec<String> {
    LOG.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
}

/// Loads objects for one run.
pub(super) struct Loader<'a> {
    /// The options.
    pub(super) config: abi::session_config,
    /// Names of the programs to load.
    pub(super) programs: Vec<&'static str>,
    /// Kernel BTF to use instead of the running kernel's.
    pub(super) btf: Option<&'a Path>,
    /// Maps of earlier objects.
    pub(super) shared: Vec<(&'static str, BorrowedFd<'a>)>,
}

impl Loader<'_> {
    fn load<'o, B>(
        &self,
        mut builder: B,
        name: &str,
        slot: &'o mut MaybeUninit<OpenObject>,
    ) -> Result<Box<dyn Skel<'o> + 'o>>
    where
        B: SkelBuilder<'o>,
        B::Output: 'o,
        <B::Output as OpenSkel<'o>>::Output: 'o,
    {
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_log)));
        take_log();
        if let Some(path) = self.btf {
            builder.object_builder_mut().btf_custom_path(path).map_err(|err| explain(&err, name))?;
        }
        let mut open = builder.open(slot).map_err(|err| explain(&err, name))?;
        let object = open.open_object_mut();
        for mut map in object.maps_mut() {
            let map_name = map.name().to_string_lossy().into_owned();
            if map_name.ends_with(CONFIG_SECTION) {
                map.set_initial_value(abi::bytes_of(&self.config)).map_err(|err| explain(&err, name))?;
            }
            if let Some((_, fd)) = self.shared.iter().find(|(shared, _)| *shared == map_name) {
                map.reuse_fd(*fd).map_err(|err| explain(&err, name))?;
            }
        }
        for mut program in object.progs_mut() {
            let wanted = self.programs.iter().any(|wanted| OsStr::new(wanted) == program.name());
            program.set_autoload(wanted);
        }
        let loaded = open.load().map_err(|err| explain(&err, name))?;
        Ok(Box::new(loaded))
    }
}

/// File descriptors of the maps of `skel` that later objects share.
pub(super) fn shared_maps<'s>(skel: &'s dyn Skel<'_>) -> Vec<(&'static str, BorrowedFd<'s>)> {
    let mut shared = Vec::new();
    for map in skel.object().maps() {
        if let Some(name) = SHARED_MAPS.iter().find(|name| OsStr::new(name) == map.name()) {
            shared.push((*name, map_fd(&map)));
        }
    }
    shared
}

fn map_fd<'s>(map: &libbpf_rs::Map<'s>) -> BorrowedFd<'s> {
    use std::os::fd::AsRawFd;
    let raw = map.as_fd().as_raw_fd();
    // SAFETY: the descriptor belongs to the object that `map` borrows for 's, which keeps it open.
    unsafe { BorrowedFd::borrow_raw(raw) }
}

/// The cause of a failed open or load, with the tail of libbpf's log.
fn explain(err: &libbpf_rs::Error, name: &str) -> Error {
    let log = take_log();
    let text = log.join("\n");
    let message = format!("cannot load probe `{name}`: {err}");
    let error = if err.kind() == libbpf_rs::ErrorKind::PermissionDenied || text.contains("Operation not permitted") {
        let error = Error::new(ErrorKind::NotPermitted, message)
            .hint("run as root, or grant CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE");
        if text.contains("bpf_object__probe_loading()") {
            // libbpf guesses at the kernel's options and at resource limits, which would lead astray.
            return error.because("the kernel refuses these rights even a program that does nothing");
        }
        error
    } else if text.contains("kernel BTF") || text.contains("failed to parse target BTF") || text.contains("vmlinux BTF")
    {
        Error::unsupported(message)
            .because("the kernel's type information (BTF) is missing or unreadable")
            .hint("pylow needs a kernel of 5.10 or newer with CONFIG_DEBUG_INFO_BTF=y; see /sys/kernel/btf/vmlinux")
    } else {
        Error::unsupported(message)
            .hint("this looks like a kernel pylow was not tested on: please report the lines above with `uname -r`")
    };
    let skip = log.len().saturating_sub(LOG_LINES);
    log.into_iter().skip(skip).fold(error, Error::because)
}
