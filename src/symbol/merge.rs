//! One stack of two worlds: native frames with the interpreter's evaluation frames replaced by the Python frames they run.
//!
//! Pure. Which rule holds depends on the interpreter's version: `Layout::merge_rule`.

use std::collections::VecDeque;

use crate::target::python::layout::MergeRule;

/// What the walk of the interpreter's frames saw, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Walked<T> {
    /// A Python frame.
    Frame {
        /// What to show.
        frame: T,
        /// C code entered it (3.11: `is_entry`).
        entry: bool,
    },
    /// The interpreter's entry frame, which lies on the C stack at this address (3.12+).
    Shim(u64),
}

impl<T> Walked<T> {
    /// What to show, unless it is the interpreter's own.
    pub(super) fn into_frame(self) -> Option<T> {
        match self {
            Self::Frame { frame, .. } => Some(frame),
            Self::Shim(_) => None,
        }
    }
}

/// One frame of the C stack, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CFrame<T> {
    /// What to show.
    pub(super) frame: T,
    /// Stack pointer in this frame.
    pub(super) low: u64,
    /// Stack pointer in its caller (the CFA); absent when the unwinding failed here.
    pub(super) high: Option<u64>,
    /// Its instruction lies in `_PyEval_EvalFrameDefault`.
    pub(super) interpreter: bool,
}

/// How far the two walks came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The C stack was unwound to its outermost frame.
    pub(super) native: bool,
    /// The outermost Python frame was reached.
    pub(super) python: bool,
}

/// The Python frames of one C frame, and the address of their entry frame where there is one.
struct Segment<T> {
    shim: Option<u64>,
    frames: Vec<T>,
}

/// Merges by `rule`. No Python frame is ever dropped: what finds no C frame stands at the root side.
pub(super) fn merge<T>(rule: MergeRule, python: Vec<Walked<T>>, native: Vec<CFrame<T>>, reach: Reach) -> Vec<T> {
    let segments = segments(rule, python);
    match rule {
        MergeRule::ShimAddress => by_address(segments, native),
        MergeRule::EntryFlag | MergeRule::FramePerCall => by_count(segments, native, reach),
    }
}

fn segments<T>(rule: MergeRule, python: Vec<Walked<T>>) -> Vec<Segment<T>> {
    let mut segments = Vec::new();
    let mut frames = Vec::new();
    for walked in python {
        match walked {
            Walked::Shim(address) => {
                segments.push(Segment { shim: Some(address), frames: std::mem::take(&mut frames) });
            }
            Walked::Frame { frame, entry } => {
                frames.push(frame);
                if entry || rule == MergeRule::FramePerCall {
                    segments.push(Segment { shim: None, frames: std::mem::take(&mut frames) });
                }
            }
        }
    }
    if !frames.is_empty() {
        segments.push(Segment { shim: None, frames });
    }
    segments
}

/// 3.12+: the entry frame is a local variable of the C frame that runs its Python frames, so its address lies in
/// [stack pointer, CFA) of exactly that C frame. Needs no symbols.
///
/// Segments whose entry frame was stepped over go with the next one found. 3.15 ends every thread's chain in an entry
/// frame that is not on the C stack (`base_frame`): it matches nothing and brings no frames.
fn by_address<T>(segments: Vec<Segment<T>>, native: Vec<CFrame<T>>) -> Vec<T> {
    let mut merged = Vec::new();
    let mut segments = VecDeque::from(segments);
    for c_frame in native {
        match segments_of(&c_frame, &segments) {
            0 => merged.push(c_frame.frame),
            count => merged.extend(segments.drain(..count).flat_map(|segment| segment.frames)),
        }
    }
    merged.extend(segments.into_iter().flat_map(|segment| segment.frames));
    merged
}

/// How many of the next segments `c_frame` runs.
fn segments_of<T>(c_frame: &CFrame<T>, segments: &VecDeque<Segment<T>>) -> usize {
    let inside = |shim: u64| c_frame.high.is_some_and(|high| (c_frame.low..high).contains(&shim));
    if let Some(last) = segments.iter().rposition(|segment| segment.shim.is_some_and(inside)) {
        return last + 1;
    }
    // Either the Python walk ended before this entry frame, or how far this C frame reaches is not known: then the
    // instruction pointer has to do.
    let next = segments
        .front()
        .is_some_and(|segment| !segment.frames.is_empty() && (segment.shim.is_none() || c_frame.high.is_none()));
    usize::from(next && c_frame.interpreter)
}

/// Up to 3.11: each C frame of the evaluation function takes one segment, in order.
///
/// A thread interrupted in the prologue of that function has one such C frame whose Python frame is not linked yet: when
/// both walks reached their root, the surplus is at the leaf, and shown as what it is.
fn by_count<T>(segments: Vec<Segment<T>>, native: Vec<CFrame<T>>, reach: Reach) -> Vec<T> {
    let mut surplus = 0;
    if reach.native && reach.python {
        surplus = native.iter().filter(|c_frame| c_frame.interpreter).count().saturating_sub(segments.len());
    }
    let mut merged = Vec::new();
    let mut segments = segments.into_iter();
    for c_frame in native {
        let segment = match (c_frame.interpreter, surplus) {
            (false, _) => None,
            (true, 0) => segments.next(),
            (true, _) => {
                surplus -= 1;
                None
            }
        };
        match segment {
            Some(segment) => merged.extend(segment.frames),
            None => merged.push(c_frame.frame),
        }
    }
    merged.extend(segments.flat_map(|segment| segment.frames));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Reach = Reach { native: true, python: true };
    const NATIVE_CUT: Reach = Reach { native: false, python: true };
    const PYTHON_CUT: Reach = Reach { native: true, python: false };

    /// C frames of 0x100 bytes each from 0x1000 up; names that start with `eval` are the interpreter's.
    fn c_stack(names: &[&'static str]) -> Vec<CFrame<&'static str>> {
        let frame = |(index, name): (usize, &&'static str)| CFrame {
            frame: *name,
            low: 0x1000 + index as u64 * 0x100,
            high: Some(0x1100 + index as u64 * 0x100),
            interpreter: name.starts_with("eval"),
        };
        names.iter().enumerate().map(frame).collect()
    }

    fn py(frame: &'static str) -> Walked<&'static str> {
        Walked::Frame { frame, entry: false }
    }

    fn entry(frame: &'static str) -> Walked<&'static str> {
        Walked::Frame { frame, entry: true }
    }

    #[test]
    fn shim_address_selects_the_c_frame() {
        let native = c_stack(&["read", "eval1", "call", "x", "main"]);
        let python = vec![py("leaf"), py("mid"), Walked::Shim(0x1180), py("root"), Walked::Shim(0x13f8)];
        // "x" holds a shim: it is an evaluation frame although no symbol says so (.cold of a stripped binary).
        let merged = merge(MergeRule::ShimAddress, python, native, WHOLE);
        assert_eq!(merged, ["read", "leaf", "mid", "call", "root", "main"]);
    }

    #[test]
    fn shim_range_is_half_open() {
        let at_low = merge(MergeRule::ShimAddress, vec![py("f"), Walked::Shim(0x1100)], c_stack(&["a", "b"]), WHOLE);
        assert_eq!(at_low, ["a", "f"]);
    }

    #[test]
    fn empty_base_frame_of_315_vanishes() {
        let python = vec![py("f"), Walked::Shim(0x1110), Walked::Shim(0x5555_0000)];
        assert_eq!(merge(MergeRule::ShimAddress, python, c_stack(&["a", "eval", "main"]), WHOLE), ["a", "f", "main"]);
    }

    #[test]
    fn evaluation_frame_before_its_shim_is_linked_stays_native() {
        let python = vec![py("f"), Walked::Shim(0x1110)];
        let native = c_stack(&["eval_prologue", "eval", "main"]);
        assert_eq!(merge(MergeRule::ShimAddress, python, native, WHOLE), ["eval_prologue", "f", "main"]);
    }

    #[test]
    fn shims_outside_the_c_stack_keep_their_frames() {
        let python = vec![py("lost"), Walked::Shim(0x10), py("f"), Walked::Shim(0x1110)];
        assert_eq!(
            merge(MergeRule::ShimAddress, python, c_stack(&["a", "eval", "main"]), WHOLE),
            ["a", "lost", "f", "main"]
        );
    }

    #[test]
    fn cut_native_stack_gets_the_rest_at_the_root() {
        let python = vec![py("f"), Walked::Shim(0x1110), py("g"), Walked::Shim(0x9000), py("h"), Walked::Shim(0xa000)];
        let mut native = c_stack(&["a", "eval", "call"]);
        native[2].high = None;
        assert_eq!(merge(MergeRule::ShimAddress, python, native, NATIVE_CUT), ["a", "f", "call", "g", "h"]);
    }

    #[test]
    fn cut_python_walk_fills_the_next_evaluation_frame() {
        let python = vec![py("f"), Walked::Shim(0x1010), py("g")];
        let native = c_stack(&["eval1", "call", "eval2", "main"]);
        assert_eq!(merge(MergeRule::ShimAddress, python, native, PYTHON_CUT), ["f", "call", "g", "main"]);
    }

    #[test]
    fn entry_flags_end_segments() {
        let python = vec![py("leaf"), entry("callback"), py("mid"), entry("root")];
        let native = c_stack(&["read", "eval1", "sorted", "eval2", "main"]);
        assert_eq!(
            merge(MergeRule::EntryFlag, python, native, WHOLE),
            ["read", "leaf", "callback", "sorted", "mid", "root", "main"]
        );
    }

    #[test]
    fn one_python_frame_per_evaluation_frame() {
        let python = vec![py("leaf"), py("mid"), py("root")];
        let native = c_stack(&["read", "eval1", "call", "eval2", "eval3", "main"]);
        assert_eq!(
            merge(MergeRule::FramePerCall, python, native, WHOLE),
            ["read", "leaf", "call", "mid", "root", "main"]
        );
    }

    #[test]
    fn surplus_evaluation_frame_is_the_native_leaf() {
        for rule in [MergeRule::EntryFlag, MergeRule::FramePerCall] {
            let native = c_stack(&["eval_prologue", "eval", "main"]);
            assert_eq!(merge(rule, vec![entry("root")], native, WHOLE), ["eval_prologue", "root", "main"]);
        }
    }

    #[test]
    fn cut_walks_align_at_the_leaf() {
        let native = c_stack(&["eval1", "eval2", "eval3"]);
        let python = vec![py("leaf"), py("mid")];
        assert_eq!(merge(MergeRule::FramePerCall, python, native, PYTHON_CUT), ["leaf", "mid", "eval3"]);
        let native = c_stack(&["eval1", "call"]);
        let python = vec![py("leaf"), py("mid"), py("root")];
        assert_eq!(merge(MergeRule::FramePerCall, python, native, NATIVE_CUT), ["leaf", "call", "mid", "root"]);
    }

    #[test]
    fn either_world_alone_passes_through() {
        assert_eq!(merge(MergeRule::ShimAddress, vec![], c_stack(&["a", "main"]), WHOLE), ["a", "main"]);
        let python = vec![py("f"), Walked::Shim(0x1110)];
        assert_eq!(merge(MergeRule::ShimAddress, python, vec![], NATIVE_CUT), ["f"]);
    }
}
