//! Weight by stack: what flame graphs, hot stacks, line tables and exports are made of.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Frame, FrameKind, Stack, StackStatus, StackTable, Stamp};
use crate::report::StackRow;

/// What the weight of a stack measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// On-CPU samples; each stands for `period_ns` of CPU time.
    Cpu {
        /// Nanoseconds between two samples of one CPU.
        period_ns: u64,
    },
    /// Waits, each with its length in nanoseconds.
    OffCpu,
    /// Samples and waits together: nanoseconds of wall-clock time of each thread.
    Wall {
        /// Nanoseconds between two samples of one CPU.
        period_ns: u64,
    },
    /// Page faults; one event may stand for several.
    Faults,
    /// Calls of one system call or function.
    Calls,
}

impl Measure {
    /// What [`Entry::shown`] counts: `samples`, `us`, `faults`, `calls`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu { .. } => "samples",
            Self::OffCpu | Self::Wall { .. } => "us",
            Self::Faults => "faults",
            Self::Calls => "calls",
        }
    }
}

/// A thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId {
    /// Process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
}

impl From<Stamp> for ThreadId {
    fn from(at: Stamp) -> Self {
        Self { tgid: at.tgid, tid: at.tid }
    }
}

/// Whether threads are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One weight per stack.
    Together,
    /// One weight per stack and thread.
    ByThread,
}

/// Events and their sum, of one stack (and thread).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Events seen.
    pub events: u64,
    /// Sum of their values: nanoseconds of CPU or waiting, faults, calls.
    pub value: u64,
}

/// One stack with its weight.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The thread, where threads are kept apart.
    pub thread: Option<ThreadId>,
    /// The stack.
    pub stack: &'a Arc<Stack>,
    /// How often and how much.
    pub weight: Weight,
    /// The weight in the unit people read, [`Measure::unit`]. Waits under half a microsecond show as 0.
    pub shown: u64,
}

/// Weight by stack. Memory grows with distinct stacks (times threads, when split).
#[derive(Clone, Debug)]
pub struct StackFold {
    measure: Measure,
    split: Split,
    stacks: StackTable,
    /// By address of a stack taken while it held the GIL or the like: itself, which keeps the address its own, and the
    /// number of the same stack without that.
    momentary: HashMap<usize, (Arc<Stack>, u32)>,
    weights: HashMap<(Option<ThreadId>, u32), Weight>,
}

impl StackFold {
    /// An empty fold.
    pub fn new(measure: Measure, split: Split) -> Self {
        Self { measure, split, stacks: StackTable::default(), momentary: HashMap::new(), weights: HashMap::new() }
    }

    /// What the weights measure.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Adds one event. `value` is nanoseconds waited, or the faults the event stands for; CPU samples and system calls
    /// take 1.
    pub fn add(&mut self, stack: &Arc<Stack>, at: Stamp, value: u64) {
        let id = self.number(stack);
        let thread = (self.split == Split::ByThread).then(|| at.into());
        let weight = self.weights.entry((thread, id)).or_default();
        weight.events += 1;
        weight.value += match self.measure {
            Measure::Cpu { period_ns } => value * period_ns,
            Measure::OffCpu | Measure::Wall { .. } | Measure::Faults | Measure::Calls => value,
        };
    }

    /// Stacks that differ only in what happened at that moment are one.
    fn number(&mut self, stack: &Arc<Stack>) -> u32 {
        if !stack.status.has_any(StackStatus::MOMENTARY) {
            return self.stacks.insert(stack).0;
        }
        let address = Arc::as_ptr(stack) as usize;
        if let Some((_, id)) = self.momentary.get(&address) {
            return *id;
        }
        let lasting = Stack { frames: stack.frames.clone(), status: stack.status.without(StackStatus::MOMENTARY) };
        let (id, _) = self.stacks.insert(&Arc::new(lasting));
        self.momentary.insert(address, (Arc::clone(stack), id));
        id
    }

    /// The sampling period of the run, where it is not what was asked for (a replay).
    pub fn sampled_at(&mut self, frequency: u32) {
        let Some(real_ns) = 1_000_000_000_u64.checked_div(frequency.into()) else { return };
        if let Measure::Cpu { period_ns } | Measure::Wall { period_ns } = &mut self.measure {
            *period_ns = real_ns;
        }
    }

    /// Nothing was added.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// All entries, heaviest first; equal weights in the order of thread and frames, so that reports repeat.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let mut entries: Vec<Entry<'_>> = self
            .weights
            .iter()
            .filter_map(|(&(thread, id), &weight)| {
                let stack = self.stacks.get(id)?;
                Some(Entry { thread, stack, weight, shown: self.shown(weight) })
            })
            .collect();
        entries.sort_by(|a, b| {
            b.weight.value.cmp(&a.weight.value).then_with(|| (a.thread, a.stack).cmp(&(b.thread, b.stack)))
        });
        entries
    }

    /// Everything added, in the unit people read.
    pub fn total(&self) -> u64 {
        self.entries().iter().map(|entry| entry.shown).sum()
    }

    /// The `top` heaviest rows for a report, and how many distinct stacks are left out.
    pub fn top(&self, top: usize) -> (Vec<StackRow>, usize) {
        let entries = self.entries();
        let rows = entries.iter().take(top).map(|entry| StackRow {
            frames: entry.stack.frames.clone(),
            weight: entry.shown,
            remark: String::new(),
        });
        (rows.collect(), entries.len().saturating_sub(top))
    }

    /// `root;...;leaf weight`, one line per distinct stack and thread, sorted. Kernel frames end in `_[k]`.
    pub fn folded_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .entries()
            .iter()
            .filter(|entry| entry.shown > 0)
            .map(|entry| folded_line(entry, kernel_suffix))
            .collect();
        lines.sort_unstable();
        lines
    }

    fn shown(&self, weight: Weight) -> u64 {
        match self.measure {
            Measure::Cpu { .. } => weight.events,
            Measure::OffCpu | Measure::Wall { .. } => (weight.value + 500) / 1_000,
            Measure::Faults | Measure::Calls => weight.value,
        }
    }
}

/// One folded line; `suffix` is put behind each frame and says its kind.
pub fn folded_line(entry: &Entry<'_>, suffix: fn(FrameKind) -> &'static str) -> String {
    let mut line = String::new();
    if let Some(thread) = entry.thread {
        line.push_str(&thread_label(thread));
        line.push(';');
    }
    if entry.stack.frames.is_empty() {
        line.push_str("[no frames]");
    }
    for (index, frame) in entry.stack.frames.iter().rev().enumerate() {
        if index > 0 {
            line.push(';');
        }
        push_folded(&mut line, &frame_text(frame));
        line.push_str(suffix(frame.kind));
    }
    line.push_str(&format!(" {}", entry.shown));
    line
}

/// `func (app.py:7)`, `func (libc.so.6)`, `do_futex`: the form of a frame in thread dumps, flame graphs and exports.
pub fn frame_text(frame: &Frame) -> String {
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
        (Some(file), None) => format!("{} ({file})", frame.function),
        (None, _) => frame.function.to_string(),
    }
}

/// `thread 10234 of 10230`; the main thread is `thread 10230`.
pub fn thread_label(thread: ThreadId) -> String {
    if thread.tid == thread.tgid {
        return format!("thread {}", thread.tid);
    }
    format!("thread {} of {}", thread.tid, thread.tgid)
}

fn kernel_suffix(kind: FrameKind) -> &'static str {
    if kind == FrameKind::Kernel { "_[k]" } else { "" }
}

/// A semicolon separates frames and a newline lines, so neither may stand in a name.
fn push_folded(line: &mut String, frame: &str) {
    line.extend(frame.chars().map(|c| match c {
        ';' => ':',
        c if c.is_control() => ' ',
        c => c,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_at_the_moment_makes_no_other_stack() {
        let plain = python("run");
        let holding =
            Arc::new(Stack { status: StackStatus(plain.status.0 | StackStatus::HOLDS_GIL.0), ..(*plain).clone() });
        let mut fold = StackFold::new(Measure::Cpu { period_ns: 1 }, Split::Together);
        for stack in [&plain, &holding, &holding, &Arc::new((*holding).clone())] {
            fold.add(stack, at(1), 1);
        }
        let shown: Vec<u64> = fold.entries().iter().map(|entry| entry.shown).collect();
        assert_eq!(shown, [4]);
    }

    fn at(tid: u32) -> Stamp {
        Stamp { ktime_ns: 0, tgid: 10, tid, cpu: 0 }
    }

    fn frame(kind: FrameKind, function: &str, file: Option<&str>, line: Option<u32>) -> Frame {
        Frame { kind, function: function.into(), file: file.map(Into::into), line }
    }

    fn stack(leaf: Frame) -> Arc<Stack> {
        let root = frame(FrameKind::Python, "<module>", Some("app.py"), Some(1));
        Arc::new(Stack { frames: vec![leaf, root], status: StackStatus::ROOT })
    }

    fn python(function: &str) -> Arc<Stack> {
        stack(frame(FrameKind::Python, function, Some("app.py"), Some(7)))
    }

    #[test]
    fn equal_stacks_add_up_wherever_they_are_kept() {
        let mut fold = StackFold::new(Measure::Cpu { period_ns: 10 }, Split::Together);
        let shared = python("work");
        fold.add(&shared, at(10), 1);
        fold.add(&shared, at(11), 1);
        fold.add(&python("work"), at(11), 1);
        fold.add(&python("rest"), at(11), 1);
        let entries = fold.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].weight, Weight { events: 3, value: 30 });
        assert_eq!(fold.total(), 4);
        let (rows, hidden) = fold.top(1);
        assert_eq!((rows[0].weight, rows[0].frames[0].function.as_ref(), hidden), (3, "work", 1));
    }

    #[test]
    fn folded_lines_run_from_root_to_leaf() {
        let mut fold = StackFold::new(Measure::OffCpu, Split::Together);
        fold.add(&stack(frame(FrameKind::Kernel, "do_futex", None, None)), at(10), 1_400_000);
        fold.add(&stack(frame(FrameKind::Native, "take_gil", Some("libpython3.11.so"), None)), at(10), 2_000);
        fold.add(&python("a;b\nc"), at(10), 1_000);
        fold.add(&python("below the unit"), at(10), 400);
        assert_eq!(
            fold.folded_lines(),
            [
                "<module> (app.py:1);a:b c (app.py:7) 1",
                "<module> (app.py:1);do_futex_[k] 1400",
                "<module> (app.py:1);take_gil (libpython3.11.so) 2",
            ]
        );
    }

    #[test]
    fn threads_can_be_kept_apart() {
        let mut fold = StackFold::new(Measure::Cpu { period_ns: 1 }, Split::ByThread);
        fold.add(&python("work"), at(10), 1);
        fold.add(&python("work"), at(11), 1);
        assert_eq!(
            fold.folded_lines(),
            [
                "thread 10;<module> (app.py:1);work (app.py:7) 1",
                "thread 11 of 10;<module> (app.py:1);work (app.py:7) 1"
            ]
        );
    }

    #[test]
    fn a_stack_without_frames_is_shown_as_such() {
        let mut fold = StackFold::new(Measure::Calls, Split::Together);
        fold.add(&Arc::new(Stack::default()), at(10), 1);
        assert_eq!(fold.folded_lines(), ["[no frames] 1"]);
    }
}
