//! The proof that the offsets fit: a walk over every interpreter and thread of the living process.
//!
//! Nothing is stopped, so lists and frames may change under the walk; what does not fit is read again, a bounded number
//! of times.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use super::layout::Layout;
use crate::error::{Error, ErrorKind, Result};
use crate::target::memory::Memory;

/// Lists longer than these are no lists.
const MAX_INTERPRETERS: usize = 4096;
const MAX_THREADS: usize = 65536;
/// Frames looked at per thread, leaf side.
const FRAMES: usize = 16;
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(2);

/// `ob_type` of every object (Include/object.h; GIL builds of all versions).
const OBJECT_TYPE: u64 = 8;
/// `PyTypeObject.tp_name`
const TYPE_NAME: u64 = 24;

/// What the walk saw of one thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadState {
    pub(super) address: u64,
    /// pthread_self() of its thread; 0 while it is not bound to one.
    pub(super) id: u64,
    pub(super) frames: Frames,
}

/// What the frames of one thread looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// It has none.
    None,
    /// Their code objects are code objects.
    Read,
    /// They are not, or changed with every look.
    Torn,
}

/// What the walk saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) interpreters: Vec<u64>,
    /// Every interpreter's.
    pub(super) threads: Vec<ThreadState>,
}

impl Seen {
    pub(super) fn thread_at(&self, address: u64) -> bool {
        self.threads.iter().any(|thread| thread.address == address)
    }

    fn count(&self, frames: Frames) -> usize {
        self.threads.iter().filter(|thread| thread.frames == frames).count()
    }

    /// No thread runs any Python code (yet).
    pub(super) fn is_idle(&self) -> bool {
        self.count(Frames::None) == self.threads.len()
    }
}

/// Why a walk proves nothing.
#[derive(Debug)]
pub(super) enum Doubt {
    /// The interpreter has not come up yet, or goes down.
    NotYet(&'static str),
    /// The offsets do not fit.
    Wrong(Error),
}

impl From<Error> for Doubt {
    fn from(err: Error) -> Self {
        Self::Wrong(err)
    }
}

fn wrong(what: impl Into<String>) -> Doubt {
    Doubt::Wrong(Error::failed(what))
}

/// Walks until one walk is whole. `code_type` is `&PyCode_Type` when the file exports it.
pub(super) fn walk(memory: &Memory, layout: &Layout, code_type: Option<u64>) -> Result<Seen, Doubt> {
    let mut doubt = Doubt::NotYet("it has no interpreter yet");
    for attempt in 0..TRIES {
        if attempt > 0 {
            thread::sleep(PAUSE);
        }
        match (Walk { memory, layout, code_type }).once() {
            Ok(seen) => return Ok(seen),
            Err(Doubt::Wrong(err)) if matches!(err.kind(), ErrorKind::NotPermitted | ErrorKind::TargetGone) => {
                return Err(Doubt::Wrong(err));
            }
            Err(Doubt::NotYet(why)) => return Err(Doubt::NotYet(why)),
            Err(wrong) => doubt = wrong,
        }
    }
    Err(doubt)
}

struct Walk<'a> {
    memory: &'a Memory,
    layout: &'a Layout,
    code_type: Option<u64>,
}

impl Walk<'_> {
    fn once(&self) -> Result<Seen, Doubt> {
        let offsets = &self.layout.offsets;
        let mut seen = Seen::default();
        let mut visited = HashSet::new();
        let mut interpreter = self.memory.u64(self.layout.interpreters_head)?;
        if interpreter == 0 {
            return Err(Doubt::NotYet("it has no interpreter yet"));
        }
        while interpreter != 0 {
            if interpreter % 8 != 0 || !visited.insert(interpreter) || visited.len() > MAX_INTERPRETERS {
                return Err(wrong("the list of interpreters is not a list"));
            }
            seen.interpreters.push(interpreter);
            self.threads(interpreter, &mut seen.threads)?;
            interpreter = self.memory.u64(interpreter + u64::from(offsets.interpreter_next))?;
        }
        if seen.threads.is_empty() {
            return Err(Doubt::NotYet("it has no thread state yet"));
        }
        if seen.threads.iter().all(|thread| thread.id == 0) {
            return Err(Doubt::NotYet("its thread states have no threads yet"));
        }
        let (read, torn) = (seen.count(Frames::Read), seen.count(Frames::Torn));
        if torn > 0 && read < torn {
            return Err(wrong(format!("the frames of {torn} of {} threads do not lead to code objects", read + torn)));
        }
        Ok(seen)
    }

    fn threads(&self, interpreter: u64, into: &mut Vec<ThreadState>) -> Result<(), Doubt> {
        let offsets = &self.layout.offsets;
        let last = offsets.thread_next.max(offsets.thread_interpreter).max(offsets.thread_id).max(offsets.thread_frame);
        let mut state = self.memory.u64(interpreter + u64::from(offsets.interpreter_threads))?;
        let mut visited = HashSet::new();
        while state != 0 {
            if state % 8 != 0 || !visited.insert(state) || visited.len() > MAX_THREADS {
                return Err(wrong("the list of thread states is not a list"));
            }
            let bytes = self.memory.bytes(state, usize::from(last) + 8)?;
            if word(&bytes, offsets.thread_interpreter) != interpreter {
                return Err(wrong(format!("the thread state at {state:#x} does not belong to its interpreter")));
            }
            let id = word(&bytes, offsets.thread_id);
            if id != 0 && !self.is_thread(id) {
                return Err(wrong(format!("{id:#x} is not a thread")));
            }
            into.push(ThreadState { address: state, id, frames: self.frames(state)? });
            state = word(&bytes, offsets.thread_next);
        }
        Ok(())
    }

    /// `id` is what pthread_self() returns: on x86_64 the thread control block, whose first word points to itself in
    /// glibc (tcbhead_t) and in musl (struct pthread).
    fn is_thread(&self, id: u64) -> bool {
        match self.memory.u64(id) {
            Ok(first) => !cfg!(target_arch = "x86_64") || first == id,
            Err(_) => false,
        }
    }

    fn frames(&self, state: u64) -> Result<Frames, Doubt> {
        for attempt in 0..TRIES {
            match self.frames_once(state) {
                Ok(frames) => return Ok(frames),
                Err(err) if err.kind() == ErrorKind::TargetGone => return Err(err.into()),
                Err(_) if attempt % 4 == 3 => thread::sleep(PAUSE / 4),
                Err(_) => {}
            }
        }
        Ok(Frames::Torn)
    }

    fn frames_once(&self, state: u64) -> Result<Frames> {
        let offsets = &self.layout.offsets;
        let mut frame = self.memory.u64(state + u64::from(offsets.thread_frame))?;
        if let Some(current) = offsets.cframe_frame {
            frame = if frame == 0 { 0 } else { self.memory.u64(frame + u64::from(current))? };
        }
        let last = offsets.frame_code.max(offsets.frame_previous);
        let mut read = 0;
        for _ in 0..FRAMES {
            if frame == 0 {
                break;
            }
            let bytes = self.memory.bytes(frame, usize::from(last) + 8)?;
            if !self.is_shim(frame)? {
                let code = word(&bytes, offsets.frame_code) & !u64::from(offsets.code_tag_mask);
                if !self.is_code(code)? {
                    return Err(Error::failed(format!("{code:#x} is not a code object")));
                }
                read += 1;
            }
            frame = word(&bytes, offsets.frame_previous);
        }
        Ok(if read == 0 { Frames::None } else { Frames::Read })
    }

    fn is_shim(&self, frame: u64) -> Result<bool> {
        let offsets = &self.layout.offsets;
        let Some(shim) = offsets.shim_owner else { return Ok(false) };
        let owner = self.memory.bytes(frame + u64::from(offsets.frame_owner), 1)?;
        Ok(u16::from(owner[0]) >= shim)
    }

    fn is_code(&self, object: u64) -> Result<bool> {
        let kind = self.memory.u64(object + OBJECT_TYPE)?;
        if let Some(code_type) = self.code_type {
            return Ok(kind == code_type);
        }
        let name = self.memory.u64(kind + TYPE_NAME)?;
        Ok(self.memory.bytes(name, 5)? == b"code\0")
    }
}

fn word(bytes: &[u8], offset: u16) -> u64 {
    let offset = usize::from(offset);
    bytes.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}
