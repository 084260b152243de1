//! Own and total weight of lines and functions.
//!
//! *Own* goes to the innermost Python frame: C code and kernel work below it are what this line spends its time on.
//! *Total* goes once to every line or function on the stack, however often recursion put it there. A stack without
//! Python frames counts for its leaf.

use std::collections::{HashMap, HashSet};

use super::stacks::StackFold;
use crate::event::{Frame, FrameKind, Stack};

/// A line or function with its weight, in the unit of the fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineWeight {
    /// The line; without `line` for a whole function.
    pub frame: Frame,
    /// While it was the innermost Python frame.
    pub own: u64,
    /// While it was anywhere on the stack.
    pub total: u64,
}

/// By function and line, most own weight first.
pub fn by_line(fold: &StackFold) -> Vec<LineWeight> {
    weigh(fold, Frame::clone)
}

/// By function, all its lines together, most own weight first.
pub fn by_function(fold: &StackFold) -> Vec<LineWeight> {
    weigh(fold, |frame| Frame { line: None, ..frame.clone() })
}

fn weigh(fold: &StackFold, key: impl Fn(&Frame) -> Frame) -> Vec<LineWeight> {
    let mut weights: HashMap<Frame, (u64, u64)> = HashMap::new();
    for entry in fold.entries() {
        let mut seen = HashSet::new();
        for (index, frame) in counted_frames(entry.stack).enumerate() {
            let frame = key(frame);
            let (own, total) = weights.entry(frame.clone()).or_default();
            if index == 0 {
                *own += entry.shown;
            }
            if seen.insert(frame) {
                *total += entry.shown;
            }
        }
    }
    let mut rows: Vec<LineWeight> =
        weights.into_iter().map(|(frame, (own, total))| LineWeight { frame, own, total }).collect();
    rows.sort_by(|a, b| (b.own, b.total).cmp(&(a.own, a.total)).then_with(|| a.frame.cmp(&b.frame)));
    rows
}

/// The Python frames, leaf first; of a stack without any, its leaf.
fn counted_frames(stack: &Stack) -> impl Iterator<Item = &Frame> {
    let python = stack.frames.iter().filter(|frame| frame.kind == FrameKind::Python);
    let leaf = stack.frames.first().filter(|_| stack.python_leaf().is_none());
    python.chain(leaf)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::aggregate::stacks::{Measure, Split};
    use crate::event::{StackStatus, Stamp};

    fn frame(kind: FrameKind, function: &str, line: Option<u32>) -> Frame {
        Frame { kind, function: function.into(), file: None, line }
    }

    fn fold(stacks: &[&[Frame]]) -> StackFold {
        let mut fold = StackFold::new(Measure::Cpu { period_ns: 1 }, Split::Together);
        for frames in stacks {
            let stack = Stack { frames: frames.to_vec(), status: StackStatus::ROOT };
            fold.add(&Arc::new(stack), Stamp { ktime_ns: 0, tgid: 1, tid: 1, cpu: 0 }, 1);
        }
        fold
    }

    fn rows(weights: Vec<LineWeight>) -> Vec<(String, u64, u64)> {
        let label = |frame: &Frame| match frame.line {
            Some(line) => format!("{}:{line}", frame.function),
            None => frame.function.to_string(),
        };
        weights.into_iter().map(|it| (label(&it.frame), it.own, it.total)).collect()
    }

    fn row(label: &str, own: u64, total: u64) -> (String, u64, u64) {
        (label.into(), own, total)
    }

    #[test]
    fn recursion_counts_once_in_total() {
        let fib = |line| frame(FrameKind::Python, "fib", Some(line));
        let main = frame(FrameKind::Python, "main", Some(9));
        let fold = fold(&[&[fib(1), fib(3), fib(3), main.clone()], &[fib(3), main.clone()]]);
        assert_eq!(rows(by_line(&fold)), [row("fib:3", 1, 2), row("fib:1", 1, 1), row("main:9", 0, 2)]);
        assert_eq!(rows(by_function(&fold)), [row("fib", 2, 2), row("main", 0, 2)]);
    }

    #[test]
    fn what_runs_below_a_line_is_its_own() {
        let work = frame(FrameKind::Python, "work", Some(5));
        let fold = fold(&[
            &[frame(FrameKind::Kernel, "vfs_read", None), frame(FrameKind::Native, "read", None), work.clone()],
            &[frame(FrameKind::Kernel, "swapper", None), frame(FrameKind::Kernel, "entry", None)],
            &[],
        ]);
        assert_eq!(rows(by_line(&fold)), [row("work:5", 1, 1), row("swapper", 1, 1)]);
    }
}
