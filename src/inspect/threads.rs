//! Thread states of all interpreters of a process, the threads of the kernel they belong to, and who holds the GIL.

use std::collections::{HashMap, HashSet};

use super::object::Objects;
use super::reader::{Fault, Read, Reader, Stable, TRIES};
use crate::error::{Error, Result};
use crate::target::python::layout::Layout;
use crate::target::python::objects::{self, ObjectLayout};

/// Interpreters and thread states looked at.
const MAX_INTERPRETERS: usize = 4096;
const MAX_THREADS: usize = 1 << 16;
/// Tries to read the list of thread states while threads begin and end.
const LIST_TRIES: usize = 100;
/// Reads for the list, and for the names.
const LIST_READS: usize = MAX_THREADS * 8;
const NAME_READS: usize = 1 << 20;
/// Code points shown of a thread's name.
const MAX_NAME: u64 = 200;
/// Threads named.
const MAX_NAMED: u64 = 1 << 14;
/// Where the C library's thread struct may keep the kernel's id: 0x2d0 with glibc on x86_64, near the start elsewhere.
const TID_OFFSETS: std::ops::Range<u64> = 0x20..0x400;
const GLIBC_TID_OFFSET: u64 = 0x2d0;

/// A `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PythonThread {
    /// Its address.
    pub(super) address: u64,
    /// `thread_id`: pthread_self().
    pub(super) ident: u64,
    /// `native_thread_id`; 0 where there is none.
    native_id: u64,
    /// Address of the GIL it needs; 0 when unknown.
    pub(super) gil: u64,
}

/// Thread states with their interpreters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PythonThreads {
    /// Newest interpreter first, newest thread first.
    pub(super) threads: Vec<PythonThread>,
    /// Addresses of the interpreters, the first one made last.
    pub(super) interpreters: Vec<u64>,
}

/// Lists the thread states of all interpreters.
///
/// # Errors
/// The list is not what it should be, or changed at each try.
pub(super) fn list(reader: &mut Reader, layout: &Layout) -> Result<PythonThreads> {
    for _ in 0..LIST_TRIES {
        if let Stable::Value(found) = reader.stable(LIST_READS, |reader| list_once(reader, layout)) {
            return Ok(found);
        }
    }
    Err(Error::failed("cannot read the list of Python threads")
        .because(format!("{LIST_TRIES} readings met a broken list, or one that changed meanwhile"))
        .hint("try again; threads that begin and end all the time get in the way"))
}

/// Where threads wait for the GILs of all interpreters there are now, as [`Layout::gils`] says it of those there were.
pub(super) fn gil_waits(found: &PythonThreads, layout: &Layout) -> Vec<(u64, u64)> {
    let mut waits = layout.gils.clone();
    let gils: HashSet<u64> = found.threads.iter().map(|thread| thread.gil).filter(|&gil| gil != 0).collect();
    // Distance of the range from the struct, by the interpreter whose struct is closest below it.
    let place = |&(start, end): &(u64, u64)| {
        let gil = gils.iter().filter(|&&gil| gil <= start).max()?;
        Some((start - gil, end - gil)).filter(|&(start, _)| start < 0x100)
    };
    if let Some((start, end)) = layout.gils.iter().find_map(place) {
        waits.extend(gils.iter().map(|gil| (gil + start, gil + end)));
    }
    waits
}

fn list_once(reader: &mut Reader, layout: &Layout) -> Read<PythonThreads> {
    let offsets = &layout.offsets;
    let mut found = PythonThreads::default();
    let mut met = HashSet::new();
    let mut interpreter = reader.pointer(layout.interpreters_head)?;
    while interpreter != 0 {
        if !met.insert(interpreter) || found.interpreters.len() == MAX_INTERPRETERS {
            return Err(Fault::Unreadable);
        }
        found.interpreters.push(interpreter);
        let gil = match offsets.interpreter_gil {
            0 => layout.gil,
            offset => reader.pointer(interpreter + u64::from(offset))?,
        };
        let mut thread = reader.pointer(interpreter + u64::from(offsets.interpreter_threads))?;
        while thread != 0 {
            let of = reader.pointer(thread + u64::from(offsets.thread_interpreter))?;
            if of != interpreter || !met.insert(thread) || found.threads.len() == MAX_THREADS {
                return Err(Fault::Unreadable);
            }
            found.threads.push(PythonThread {
                address: thread,
                ident: reader.u64(thread + u64::from(offsets.thread_id))?,
                native_id: match offsets.thread_native_id {
                    0 => 0,
                    offset => reader.u64(thread + u64::from(offset))?,
                },
                gil,
            });
            thread = reader.pointer(thread + u64::from(offsets.thread_next))?;
        }
        interpreter = reader.pointer(interpreter + u64::from(offsets.interpreter_next))?;
    }
    Ok(found)
}

/// Which kernel thread a thread state belongs to: by tid. `ids` maps the id a thread has in its own
/// pid namespace to its tid. A tid may have several thread states, of several interpreters.
pub(super) fn by_tid(
    reader: &mut Reader,
    found: &PythonThreads,
    ids: &HashMap<u64, u32>,
) -> HashMap<u32, Vec<PythonThread>> {
    let mut of: HashMap<u32, Vec<PythonThread>> = HashMap::new();
    // Not after a fork before 3.12, when the child still has its parent's ids; then as before 3.11.
    let native = !found.threads.is_empty() && found.threads.iter().all(|thread| ids.contains_key(&thread.native_id));
    let offset = if native { None } else { tid_offset(reader, found, ids) };
    for thread in &found.threads {
        let id = match offset {
            Some(offset) => thread.ident.checked_add(offset).and_then(|at| reader.u32(at).ok()).map(u64::from),
            None => Some(thread.native_id),
        };
        if let Some(&tid) = id.and_then(|id| ids.get(&id)) {
            of.entry(tid).or_default().push(*thread);
        }
    }
    of
}

/// Offset in the C library's thread struct at which most Python threads have an id of this process, each its own. Not
/// always all: a thread state may outlive its thread.
fn tid_offset(reader: &mut Reader, found: &PythonThreads, ids: &HashMap<u64, u32>) -> Option<u64> {
    let idents: HashSet<u64> = found.threads.iter().map(|thread| thread.ident).collect();
    let mut fits = |offset: u64| {
        let id = |ident: &u64| reader.u32(ident.checked_add(offset)?).ok().map(u64::from);
        idents.iter().filter_map(id).filter(|id| ids.contains_key(id)).collect::<HashSet<u64>>().len()
    };
    if fits(GLIBC_TID_OFFSET) == idents.len() {
        return Some(GLIBC_TID_OFFSET);
    }
    let best = TID_OFFSETS.step_by(4).max_by_key(|&offset| (fits(offset), offset == GLIBC_TID_OFFSET))?;
    (2 * fits(best) > idents.len()).then_some(best)
}

/// Names of threads by `ident`, from `threading._active`; empty when the program does not use `threading`.
pub(super) fn names(
    reader: &mut Reader,
    layout: &Layout,
    objects: &'static ObjectLayout,
    found: &PythonThreads,
) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    for &interpreter in &found.interpreters {
        // The dict as a whole may change all the time: what is read of it is only a hint, for each thread says itself who
        // it is. Read again when some thread was not in it.
        let mut active = HashSet::new();
        for _ in 0..TRIES {
            reader.restart(NAME_READS);
            active.extend(active_threads(layout, objects, reader, interpreter).unwrap_or_default());
            let named: HashSet<u64> = active.iter().map(|&(ident, _)| ident).collect();
            if found.threads.iter().all(|thread| named.contains(&thread.ident)) {
                break;
            }
        }
        for (ident, thread) in active {
            let name = reader.stable(400, |reader| {
                let mut objects = Objects::new(layout, objects, reader);
                let (own, name) = (objects.attribute(thread, "_ident")?, objects.attribute(thread, "_name")?);
                match (own, name) {
                    (Some(own), Some(name)) if objects.small_int(own)? == ident => objects.label(name, MAX_NAME),
                    _ => Err(Fault::Unreadable),
                }
            });
            // The oldest interpreter comes last: its names are those of the program.
            names.extend(name.value().map(|name| (ident, name)));
        }
    }
    names
}

/// `sys.modules['threading']._active`: ident and address of each `threading.Thread`.
fn active_threads(
    layout: &Layout,
    layouts: &'static ObjectLayout,
    reader: &mut Reader,
    interpreter: u64,
) -> Read<Vec<(u64, u64)>> {
    let mut objects = Objects::new(layout, layouts, reader);
    let modules = objects.reader().pointer(interpreter + layouts.interpreter_modules)?;
    let Some(threading) = objects.lookup(modules, "threading")? else { return Ok(Vec::new()) };
    let dict = objects.reader().pointer(threading + objects::MODULE_DICT)?;
    let Some(active) = objects.lookup(dict, "_active")? else { return Ok(Vec::new()) };
    let mut threads = Vec::new();
    for (ident, thread) in objects.dict(active, MAX_NAMED)? {
        // An entry that just went is no reason to give up the others.
        threads.extend(objects.small_int(ident).ok().map(|ident| (ident, thread)));
    }
    Ok(threads)
}

/// The thread state that holds the GIL at `gil`, read twice; none when it is free or being handed over.
pub(super) fn gil_holder(reader: &mut Reader, layout: &Layout, gil: u64) -> Option<u64> {
    let (locked, holder) = (u64::from(layout.offsets.gil_locked), u64::from(layout.offsets.gil_holder));
    let holder = reader.stable(8, |reader| {
        // Without a lock word the holder alone says it (3.6).
        let held = locked == holder || reader.u32(gil + locked)? == 1;
        if held { reader.pointer(gil + holder) } else { Ok(0) }
    });
    holder.value().filter(|&holder| holder != 0)
}
