//! One look at all threads of a process. Each thread's frames are read between two looks at the kernel's state of it, or
//! twice: what is returned was one state of that thread, or says that it is not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::frames::{self, Code, Codes, RawFrame, Walk, WalkEnd};
use super::locals::{self, LocalValue};
use super::reader::{Reader, TRIES};
use super::state::{self, States, ThreadState};
use super::task::{self, Look};
use super::threads::{self, PythonThread};
use super::value::escape;
use crate::error::{Error, Result};
use crate::event::{Frame, FrameKind};
use crate::target::Target;
use crate::target::memory::Memory;
use crate::target::python::layout::{FrameEntry, Layout};
use crate::target::python::objects::ObjectLayout;

/// Tries to read a thread that runs.
const RUNNING_TRIES: usize = 16;
/// How often its frames are walked again to be believed.
const WALKS_AGAIN: usize = 2;

/// What to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Local variables of every frame.
    pub locals: bool,
}

/// One thread at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadSnapshot {
    /// Thread id, as the reader's pid namespace numbers it.
    pub tid: u32,
    /// `threading.Thread.name`, else the kernel's name.
    pub name: String,
    /// What it does.
    pub state: ThreadState,
    /// It holds the GIL of its interpreter.
    pub holds_gil: bool,
    /// Leaf first.
    pub frames: Vec<PythonFrame>,
    /// The outermost Python frame is among them.
    pub complete: bool,
    /// Why frames are missing or doubtful; empty when they are whole.
    pub remark: String,
    look: Look,
}

/// One Python frame.
#[derive(Clone, Debug, PartialEq)]
pub struct PythonFrame {
    /// What to show.
    pub frame: Frame,
    /// Whether C code called it, for merging with the frames of the C stack.
    pub entry: FrameEntry,
    /// Local variables, when asked for and readable.
    pub locals: Option<Vec<LocalValue>>,
}

impl ThreadSnapshot {
    /// The thread of process `tgid` has not run since this was read, so that what else is read of it belongs to the same
    /// moment. Never true of one that was running.
    ///
    /// # Errors
    /// Missing rights.
    pub fn still_holds(&self, tgid: u32) -> Result<bool> {
        Ok(task::look(tgid, self.tid)?.is_some_and(|later| self.look.still_in(&later)))
    }
}

/// A frame with its code object.
type Resolved = (RawFrame, Option<Arc<Code>>);

/// Reads the threads of one process.
struct Taker<'a> {
    memory: Memory,
    layout: &'a Layout,
    objects: &'static ObjectLayout,
    options: SnapshotOptions,
    reader: Reader,
    codes: Codes,
}

/// All threads of `target`, main thread first. The target runs on.
///
/// # Errors
/// It is gone, may not be read, has no known interpreter, or the interpreter is not what its layout says.
pub fn snapshot(target: &Target, options: SnapshotOptions) -> Result<Vec<ThreadSnapshot>> {
    let Some(layout) = &target.layout else {
        return Err(Error::unsupported(format!("process {} has no known Python interpreter", target.tgid)));
    };
    let (memory, objects) = (target.memory(), ObjectLayout::of(layout.minor_hex())?);
    Taker { memory, layout, objects, options, reader: Reader::new(memory), codes: Codes::default() }.threads()
}

/// What was made of one thread.
struct Taken {
    look: Look,
    frames: Vec<Resolved>,
    /// The thread state whose frames come first held the GIL before and after.
    holder_of: Option<u64>,
    /// The frames go to the outermost one.
    complete: bool,
    remark: String,
}

impl Taker<'_> {
    fn threads(&mut self) -> Result<Vec<ThreadSnapshot>> {
        let tgid = self.memory.tgid();
        let mut ids = HashMap::new();
        let tids = task::all(tgid)?;
        for &tid in &tids {
            if let Some(look) = task::look(tgid, tid)? {
                ids.insert(u64::from(look.ids.last().copied().unwrap_or(tid)), tid);
            }
        }
        if ids.is_empty() {
            return Err(Error::target_gone(format!("process {tgid} is gone")));
        }
        // Refused rights show here, with their reason, and not as a broken list.
        self.memory.u64(self.layout.interpreters_head)?;
        let found = threads::list(&mut self.reader, self.layout)?;
        self.reader.restart(usize::MAX);
        let by_tid = threads::by_tid(&mut self.reader, &found, &ids);
        let names = threads::names(&mut self.reader, self.layout, self.objects, &found);
        let gils = threads::gil_waits(&found, self.layout);
        let mut states = States::new(self.memory, &gils);
        let mut snapshots: Vec<(ThreadSnapshot, Option<u64>)> = Vec::new();
        for tid in tids {
            let own = by_tid.get(&tid).map_or(&[][..], Vec::as_slice);
            let Some(taken) = self.thread(tid, own)? else { continue };
            let state = states.of(tid, &taken.look);
            let name = own.iter().find_map(|thread| names.get(&thread.ident));
            let mut remark = taken.remark;
            let frames = self.frames(tid, own, &taken.look, taken.frames, &mut remark)?;
            let complete = taken.complete;
            let snapshot = ThreadSnapshot {
                tid,
                name: name.map_or_else(|| state::comm(&taken.look), |name| escape(name)),
                state,
                holds_gil: false,
                frames,
                complete,
                remark,
                look: taken.look,
            };
            snapshots.push((snapshot, taken.holder_of));
        }
        mark_holders(&mut snapshots);
        Ok(snapshots.into_iter().map(|(snapshot, _)| snapshot).collect())
    }

    /// State and frames of one thread; nothing when it ended.
    fn thread(&mut self, tid: u32, own: &[PythonThread]) -> Result<Option<Taken>> {
        let tgid = self.memory.tgid();
        if own.is_empty() {
            let look = task::look(tgid, tid)?;
            let remark = "no Python state".to_owned();
            return Ok(look.map(|look| Taken { look, frames: Vec::new(), holder_of: None, complete: true, remark }));
        }
        let mut best: Option<Taken> = None;
        for _ in 0..RUNNING_TRIES {
            let Some(before) = task::look(tgid, tid)? else { return Ok(None) };
            let holder = self.holder(own);
            let walk = self.walk(own);
            let mut frames = self.resolve(&walk);
            let holder_of = holder.filter(|_| self.holder(own) == holder);
            let Some(after) = task::look(tgid, tid)? else { return Ok(None) };
            let complete = walk.end == WalkEnd::Root;
            if before.still_in(&after) {
                let remark = end_remark(&walk);
                return Ok(Some(Taken { look: before, frames, holder_of, complete, remark }));
            }
            let again: [Walk; WALKS_AGAIN] = std::array::from_fn(|_| self.walk(own));
            let agreed = agreed_frames(&walk, &again);
            let same =
                matches!(walk.end, WalkEnd::Root | WalkEnd::Limit) && again.iter().all(|again| again.is_same(&walk));
            if same {
                let remark = end_remark(&walk);
                return Ok(Some(Taken { look: before, frames, holder_of, complete, remark }));
            }
            if best.as_ref().is_none_or(|best| agreed > best.frames.len()) {
                let frames = frames.split_off(walk.frames.len() - agreed);
                let remark = match agreed {
                    0 => "it ran on while it was read: no frame is certain".to_owned(),
                    _ => "it ran on while it was read: inner frames are missing".to_owned(),
                };
                best = Some(Taken { look: before, frames, holder_of, complete: agreed > 0, remark });
            }
        }
        Ok(best)
    }

    /// Address of a GIL that one of these thread states holds.
    fn holder(&mut self, own: &[PythonThread]) -> Option<u64> {
        let (reader, layout) = (&mut self.reader, self.layout);
        own.iter().find(|thread| threads::gil_holder(reader, layout, thread.gil) == Some(thread.address)).map(|t| t.gil)
    }

    /// Frames of all thread states of a thread: those of the newest interpreter are the inner ones.
    fn walk(&mut self, own: &[PythonThread]) -> Walk {
        let mut whole = Walk { frames: Vec::new(), end: WalkEnd::Root };
        for thread in own {
            let mut walk = frames::walk(&mut self.reader, &self.layout.offsets, thread.address);
            for _ in 1..TRIES {
                if walk.end != WalkEnd::Unreadable {
                    break;
                }
                // A frame ended under the reading.
                walk = frames::walk(&mut self.reader, &self.layout.offsets, thread.address);
            }
            whole.frames.extend(walk.frames);
            if walk.end != WalkEnd::Root {
                whole.end = walk.end;
            }
        }
        whole
    }

    fn resolve(&mut self, walk: &Walk) -> Vec<Resolved> {
        let codes = self.codes.of(&mut self.reader, self.layout, self.objects, &walk.frames, self.options.locals);
        std::iter::zip(walk.frames.iter().copied(), codes).collect()
    }

    /// The frames as they are shown, with their local variables.
    fn frames(
        &mut self,
        tid: u32,
        own: &[PythonThread],
        look: &Look,
        frames: Vec<Resolved>,
        remark: &mut String,
    ) -> Result<Vec<PythonFrame>> {
        let mut locals = self.locals(tid, own, look, &frames)?.into_iter();
        let mut gone = 0;
        let mut shown = Vec::with_capacity(frames.len());
        for (raw, code) in frames {
            let values = locals.next();
            let Some(code) = code else {
                shown.push(PythonFrame { frame: unreadable_frame(), entry: raw.entry, locals: None });
                continue;
            };
            if code.is_trampoline() {
                continue;
            }
            gone += usize::from(values == Some(None));
            let frame = code.frame(self.layout, raw.lasti);
            shown.push(PythonFrame { frame, entry: raw.entry, locals: values.flatten() });
        }
        if gone > 0 {
            let said = format!("it ran on while it was read: locals of {gone} frames are missing");
            *remark = if remark.is_empty() { said } else { format!("{remark}; {said}") };
        }
        Ok(shown)
    }

    /// Local variables of each frame; none of a frame that was left while they were read. Empty when not asked for.
    fn locals(
        &mut self,
        tid: u32,
        own: &[PythonThread],
        look: &Look,
        frames: &[Resolved],
    ) -> Result<Vec<Option<Vec<LocalValue>>>> {
        if !self.options.locals {
            return Ok(Vec::new());
        }
        let all = frames.iter().map(|frame| self.values(frame)).collect();
        let later = task::look(self.memory.tgid(), tid)?;
        if later.is_some_and(|later| look.still_in(&later)) {
            return Ok(all);
        }
        Ok(frames.iter().map(|frame| self.values_of_living(own, frame)).collect())
    }

    fn values(&mut self, (raw, code): &Resolved) -> Option<Vec<LocalValue>> {
        let values = |code: &Arc<Code>| locals::values(&mut self.reader, self.layout, self.objects, raw, code);
        Some(code.as_ref().map_or_else(Vec::new, values))
    }

    /// Values of a frame of a thread that runs: it must be among the thread's frames before and after.
    fn values_of_living(&mut self, own: &[PythonThread], frame: &Resolved) -> Option<Vec<LocalValue>> {
        let lives = |taker: &mut Self| taker.walk(own).frames.iter().any(|raw| raw.is_same_call(&frame.0));
        for _ in 0..TRIES {
            if !lives(self) {
                continue;
            }
            let values = self.values(frame);
            if lives(self) {
                return values;
            }
        }
        None
    }
}

/// How many frames, counted from the outermost, are the same calls in all walks, which must have reached it. Each of them
/// was reached from the innermost frame in each walk, so that it was on the stack all the time.
fn agreed_frames(walk: &Walk, again: &[Walk]) -> usize {
    if walk.end == WalkEnd::Limit && again.iter().all(|again| again.is_same(walk)) {
        return walk.frames.len();
    }
    if again.iter().chain([walk]).any(|walk| walk.end != WalkEnd::Root) {
        return 0;
    }
    let same = |other: &Walk| {
        let pairs = std::iter::zip(walk.frames.iter().rev(), other.frames.iter().rev());
        pairs.take_while(|(one, other)| one.is_same_call(other)).count()
    };
    again.iter().map(same).min().unwrap_or(walk.frames.len())
}

fn unreadable_frame() -> Frame {
    Frame { kind: FrameKind::Python, function: Arc::from("[unreadable]"), file: None, line: None }
}

fn end_remark(walk: &Walk) -> String {
    match walk.end {
        WalkEnd::Root if walk.frames.is_empty() => "no Python frame".to_owned(),
        WalkEnd::Root => String::new(),
        WalkEnd::Limit => format!("only the innermost {} frames", walk.frames.len()),
        WalkEnd::Unreadable => "a frame is unreadable: outer frames are missing".to_owned(),
        WalkEnd::Cycle => "the frames form a circle".to_owned(),
    }
}

/// One holder for each GIL: when it was handed on while the threads were read, the last one seen.
fn mark_holders(snapshots: &mut [(ThreadSnapshot, Option<u64>)]) {
    let mut marked = HashSet::new();
    for (snapshot, gil) in snapshots.iter_mut().rev() {
        snapshot.holds_gil = gil.is_some_and(|gil| marked.insert(gil));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_compared_from_the_root() {
        let frame = |address, code| RawFrame { address, code, lasti: 0, entry: FrameEntry::Unmarked };
        let walk = |frames: &[RawFrame]| Walk { frames: frames.to_vec(), end: WalkEnd::Root };
        let one = walk(&[frame(3, 30), frame(2, 20), frame(1, 10)]);
        let other = walk(&[frame(4, 30), frame(2, 20), frame(1, 10)]);
        let shorter = walk(&one.frames[1..]);
        assert_eq!(agreed_frames(&one, std::slice::from_ref(&one)), 3);
        assert_eq!(agreed_frames(&one, std::slice::from_ref(&other)), 2);
        assert_eq!(agreed_frames(&one, &[one.clone(), shorter]), 2);
        assert_eq!(agreed_frames(&one, &[other, walk(&[frame(3, 30)])]), 0);
    }

    #[test]
    fn only_walks_that_reached_the_root_agree() {
        let frame = |address| RawFrame { address, code: 8, lasti: 0, entry: FrameEntry::Unmarked };
        let broken = Walk { frames: vec![frame(2), frame(1)], end: WalkEnd::Unreadable };
        let whole = Walk { end: WalkEnd::Root, ..broken.clone() };
        let deep = Walk { end: WalkEnd::Limit, ..broken.clone() };
        assert_eq!(agreed_frames(&broken, std::slice::from_ref(&broken)), 0);
        assert_eq!(agreed_frames(&broken, std::slice::from_ref(&whole)), 0);
        assert_eq!(agreed_frames(&whole, &[broken]), 0);
        assert_eq!(agreed_frames(&deep, std::slice::from_ref(&deep)), 2);
    }

    #[test]
    fn a_gil_has_one_holder() {
        let thread = |tid| ThreadSnapshot {
            tid,
            name: String::new(),
            state: ThreadState::Running,
            holds_gil: false,
            frames: Vec::new(),
            complete: true,
            remark: String::new(),
            look: task::look(std::process::id(), std::process::id()).unwrap().unwrap(),
        };
        let mut all = [(thread(1), Some(8)), (thread(2), None), (thread(3), Some(8)), (thread(4), Some(16))];
        mark_holders(&mut all);
        assert_eq!(all.map(|(thread, _)| thread.holds_gil), [false, false, true, true]);
    }
}
