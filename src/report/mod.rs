//! A report as data: blocks with values, no formatting. `render` turns blocks into text or JSON.

use std::sync::Arc;

use serde::Serialize;

use crate::event::{Frame, Loss};

/// One piece of a report. Adding a kind means: a text form, a JSON form, a golden.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "block", rename_all = "snake_case")]
pub enum Block {
    /// The first lines of a text report; absent from JSON.
    Banner(Banner),
    /// One line with the values it was made of.
    Line(Line),
    /// Names with counts: `  sys_enter_read: 231`.
    Counts(Counts),
    /// Buckets with bars.
    Histogram(Histogram),
    /// Hottest stacks with their lines.
    Stacks(Stacks),
    /// Threads with their stacks.
    Threads(Threads),
    /// Rows under column heads.
    Table(Table),
    /// Abilities, each with yes or no, evidence, and the way out.
    Checks(Checks),
    /// The answer.
    Verdict(Verdict),
    /// What the reader must know to read the report right: loss, limits, sampling.
    Note(Note),
}

/// `Attaching <tracer> to PID 4821...`, later `✓ Attached. <doing>...`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Banner {
    /// The line, without the mark.
    pub text: String,
    /// It says what is done: marked.
    pub done: bool,
}

/// One line of text; `values` is its JSON form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Schema name, e.g. `function_cpu`.
    pub what: &'static str,
    /// The text line.
    pub text: String,
    /// The values, flattened into the JSON object.
    #[serde(flatten)]
    pub values: serde_json::Map<String, serde_json::Value>,
}

/// How a title is set; hot stacks below it are set to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TitleStyle {
    /// `--- BPF Map: @x ---`
    Map,
    /// `=== X ===`
    Section,
}

/// A title; its JSON form is the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Title {
    /// Without decoration: `@sys_counts`, `TOP STACKS`.
    pub text: String,
    /// How it is set.
    pub style: TitleStyle,
}

impl Title {
    /// `--- BPF Map: @text ---`
    pub fn map(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: TitleStyle::Map }
    }

    /// `=== text ===`
    pub fn section(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: TitleStyle::Section }
    }
}

impl Serialize for Title {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Names with counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counts {
    /// Title.
    pub title: Title,
    /// Most first.
    pub rows: Vec<CountRow>,
    /// Rows left out by `--top`.
    pub hidden: usize,
}

/// One name with its count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CountRow {
    /// Name as printed.
    pub name: String,
    /// Exact count.
    pub count: u64,
    /// Printed after the count: `12 errors, mean 4.2 us`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remark: String,
    /// More values for JSON.
    #[serde(flatten)]
    pub values: serde_json::Map<String, serde_json::Value>,
}

/// What the buckets of a histogram measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Bytes.
    Bytes,
}

/// Counts by power-of-two bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Title.
    pub title: Title,
    /// Unit of the bounds.
    pub unit: Unit,
    /// Without gaps, lowest first.
    pub buckets: Vec<Bucket>,
}

/// `[low, high]  count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Inclusive.
    pub low: u64,
    /// Inclusive.
    pub high: u64,
    /// How many.
    pub count: u64,
}

/// Hot stacks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stacks {
    /// Title.
    pub title: Title,
    /// What `weight` counts: `samples`, `us`.
    pub unit: &'static str,
    /// Weight of everything, shown or not.
    pub total: u64,
    /// Heaviest first.
    pub rows: Vec<StackRow>,
    /// Distinct stacks left out by `--top`.
    pub hidden: usize,
}

/// One stack with its weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StackRow {
    /// Leaf first.
    pub frames: Vec<Frame>,
    /// In the unit of the block.
    pub weight: u64,
    /// Said of it: `own 62 %, total 100 %`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remark: String,
}

/// The threads of a process at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Threads {
    /// Title.
    pub title: Title,
    /// By thread id; the main thread first.
    pub threads: Vec<Thread>,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thread {
    /// Thread id in the host's namespace.
    pub tid: u32,
    /// `threading.Thread.name` or the kernel's comm.
    pub name: String,
    /// `running`, `waiting in futex (GIL)`, `waiting in recvfrom (socket 127.0.0.1:5432)`.
    pub state: String,
    /// Holds the GIL at this moment.
    pub holds_gil: bool,
    /// Leaf first, with the local variables of Python frames when asked for.
    pub frames: Vec<ThreadFrame>,
    /// Why frames are missing; empty when whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remark: String,
}

/// One frame of a thread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadFrame {
    /// The frame.
    #[serde(flatten)]
    pub frame: Frame,
    /// Local variables in the order of the code object; absent when not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locals: Option<Vec<Local>>,
}

/// Without local variables.
impl From<Frame> for ThreadFrame {
    fn from(frame: Frame) -> Self {
        Self { frame, locals: None }
    }
}

/// One local variable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// Type name.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Short safe representation, or `<unreadable>`, `<moving>`.
    pub value: String,
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under column heads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// Title.
    pub title: Title,
    /// Heads and alignment.
    pub columns: Vec<(String, Align)>,
    /// One object a row in JSON, keys = heads.
    pub rows: Vec<Vec<Cell>>,
    /// Rows left out by `--top`.
    pub hidden: usize,
}

/// One cell: what is printed, and its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// As printed, unit included.
    pub text: String,
    /// As a value.
    pub value: serde_json::Value,
}

/// Lines of `doctor`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checks {
    /// `kernel`, `rights`, `PID 4821`.
    pub subject: String,
    /// Said of the subject on its line.
    pub summary: String,
    /// One line each.
    pub checks: Vec<Check>,
}

/// One ability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Short name: `stacks`.
    pub ability: String,
    /// Works.
    pub ok: bool,
    /// What was found.
    pub evidence: String,
    /// What to do when it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The evidence leaves no other class.
    High,
    /// One other class is possible.
    Medium,
    /// Said with what is missing.
    Low,
}

/// The answer of a triage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// `cpu_samples : 212   (71 % of one core)` and so on: the evidence, in columns of two.
    pub evidence: Vec<Evidence>,
    /// `CPU BOUND`.
    pub class: String,
    /// How sure.
    pub confidence: Confidence,
    /// Sentences: what, where, how much.
    pub text: Vec<String>,
    /// The line responsible.
    pub line: Option<Frame>,
    /// The exact next command.
    pub next: Option<String>,
}

/// One measured quantity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// `cpu_samples`
    pub name: String,
    /// `212   (71 % of one core)`
    pub text: String,
    /// The number itself.
    pub value: serde_json::Value,
}

/// A line at the end that says what limits the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    /// Sentences.
    pub text: String,
    /// The counters behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// Where blocks go as they become ready. Fails only on write.
pub trait Sink {
    /// Takes one block.
    fn block(&mut self, block: Block) -> std::io::Result<()>;
}

/// Shared text of a frame: `call_llm_chain @ gateway/orchestrator.py:120`.
pub fn frame_label(frame: &Frame) -> String {
    let at: Option<&Arc<str>> = frame.file.as_ref();
    match (at, frame.line) {
        (Some(file), Some(line)) => format!("{} @ {file}:{line}", frame.function),
        (Some(file), None) => format!("{} @ {file}", frame.function),
        (None, _) => frame.function.to_string(),
    }
}
