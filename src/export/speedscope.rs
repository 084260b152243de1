//! speedscope's JSON, as <https://www.speedscope.app/file-format-schema.json> defines it: sampled profiles over shared
//! frames, one profile per thread where the fold keeps threads apart.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::{Recording, not_empty, value_type};
use crate::aggregate::stacks::{Entry, StackFold, ThreadId, thread_label};
use crate::error::{Error, Result};
use crate::event::{Frame, FrameKind};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: String,
    name: &'a str,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: usize,
    shared: Shared,
    profiles: Vec<Profile>,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<SharedFrame>,
}

#[derive(Serialize)]
struct SharedFrame {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
struct Profile {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    #[serde(rename = "startValue")]
    start_value: u64,
    #[serde(rename = "endValue")]
    end_value: u64,
    /// Frame numbers, root first.
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

/// Writes the fold. The thread with most weight comes first and is shown first.
pub fn write_speedscope(fold: &StackFold, recording: &Recording<'_>, out: impl Write) -> Result<()> {
    not_empty(fold)?;
    let mut frames = FrameTable::default();
    let mut by_thread: BTreeMap<Option<ThreadId>, Vec<Entry<'_>>> = BTreeMap::new();
    for entry in fold.entries() {
        by_thread.entry(entry.thread).or_default().push(entry);
    }
    let unit = match value_type(fold.measure()).1 {
        "nanoseconds" => "nanoseconds",
        _ => "none",
    };
    let mut profiles: Vec<Profile> = by_thread
        .iter()
        .map(|(thread, entries)| {
            profile(thread.map_or(recording.name.into(), thread_label), unit, entries, &mut frames)
        })
        .collect();
    profiles.sort_by_key(|profile| std::cmp::Reverse(profile.end_value));
    let file = File {
        schema: SCHEMA,
        exporter: format!("pylow {}", env!("CARGO_PKG_VERSION")),
        name: recording.name,
        active_profile_index: 0,
        shared: Shared { frames: frames.shared },
        profiles,
    };
    serde_json::to_writer(out, &file).map_err(|err| Error::from(std::io::Error::from(err)))
}

fn profile(name: String, unit: &'static str, entries: &[Entry<'_>], frames: &mut FrameTable) -> Profile {
    let samples = entries.iter().map(|it| it.stack.frames.iter().rev().map(|frame| frames.number(frame)).collect());
    let samples = samples.collect();
    let weights: Vec<u64> = entries.iter().map(|entry| entry.weight.value).collect();
    Profile { kind: "sampled", name, unit, start_value: 0, end_value: weights.iter().sum(), samples, weights }
}

#[derive(Default)]
struct FrameTable {
    shared: Vec<SharedFrame>,
    numbers: HashMap<Frame, usize>,
}

impl FrameTable {
    fn number(&mut self, frame: &Frame) -> usize {
        if let Some(&number) = self.numbers.get(frame) {
            return number;
        }
        let number = self.shared.len();
        self.numbers.insert(frame.clone(), number);
        let name = match frame.kind {
            FrameKind::Kernel => format!("{} [kernel]", frame.function),
            FrameKind::Python | FrameKind::Native => frame.function.to_string(),
        };
        self.shared.push(SharedFrame { name, file: frame.file.clone(), line: frame.line });
        number
    }
}
