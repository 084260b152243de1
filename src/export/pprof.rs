//! pprof: the gzipped protocol buffer `perftools.profiles.Profile` of `proto/profile.proto` in google/pprof.

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::{Recording, not_empty, value_type};
use crate::aggregate::stacks::{Measure, StackFold};
use crate::error::Result;
use crate::event::{Frame, FrameKind};

/// The messages, with the field numbers of profile.proto; fields that are never set are left out, as the format allows.
mod proto {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub(super) sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(super) sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(super) mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub(super) location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(super) function: Vec<Function>,
        /// The first one must be empty.
        #[prost(string, repeated, tag = "6")]
        pub(super) string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub(super) time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub(super) duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub(super) period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub(super) period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub(super) comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub(super) default_sample_type: i64,
    }

    /// Both are numbers of strings.
    #[derive(Clone, Copy, PartialEq, Eq, Message)]
    pub(super) struct ValueType {
        #[prost(int64, tag = "1")]
        pub(super) r#type: i64,
        #[prost(int64, tag = "2")]
        pub(super) unit: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Sample {
        /// Leaf first.
        #[prost(uint64, repeated, tag = "1")]
        pub(super) location_id: Vec<u64>,
        /// One per sample type.
        #[prost(int64, repeated, tag = "2")]
        pub(super) value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub(super) label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Message)]
    pub(super) struct Label {
        #[prost(int64, tag = "1")]
        pub(super) key: i64,
        #[prost(int64, tag = "3")]
        pub(super) num: i64,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Message)]
    pub(super) struct Mapping {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "5")]
        pub(super) filename: i64,
        #[prost(bool, tag = "7")]
        pub(super) has_functions: bool,
        #[prost(bool, tag = "8")]
        pub(super) has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub(super) has_line_numbers: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Location {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(uint64, tag = "2")]
        pub(super) mapping_id: u64,
        #[prost(message, repeated, tag = "4")]
        pub(super) line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Message)]
    pub(super) struct Line {
        #[prost(uint64, tag = "1")]
        pub(super) function_id: u64,
        #[prost(int64, tag = "2")]
        pub(super) line: i64,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Message)]
    pub(super) struct Function {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "2")]
        pub(super) name: i64,
        #[prost(int64, tag = "3")]
        pub(super) system_name: i64,
        #[prost(int64, tag = "4")]
        pub(super) filename: i64,
    }
}

/// Writes the fold: two values a sample, how many events and how much, and thread labels where threads are kept apart.
pub fn write_pprof(fold: &StackFold, recording: &Recording<'_>, out: impl Write) -> Result<()> {
    not_empty(fold)?;
    let bytes = build(fold, recording).encode_to_vec();
    let mut gzip = GzEncoder::new(out, Compression::default());
    gzip.write_all(&bytes)?;
    gzip.finish()?.flush()?;
    Ok(())
}

fn build(fold: &StackFold, recording: &Recording<'_>) -> proto::Profile {
    let mut builder = Builder::new();
    let (value, unit) = value_type(fold.measure());
    let events = match fold.measure() {
        Measure::Cpu { .. } => "samples",
        Measure::OffCpu => "waits",
        Measure::Wall { .. } | Measure::Faults | Measure::Calls => "events",
    };
    builder.profile.sample_type = vec![builder.value_type(events, "count"), builder.value_type(value, unit)];
    builder.profile.default_sample_type = builder.profile.sample_type[1].r#type;
    if let Measure::Cpu { period_ns } = fold.measure() {
        builder.profile.period_type = Some(builder.value_type(value, unit));
        builder.profile.period = signed(period_ns);
    }
    builder.profile.time_nanos = signed(recording.unix_seconds.saturating_mul(1_000_000_000));
    builder.profile.duration_nanos = signed(recording.duration_ns);
    builder.profile.comment = vec![builder.string(recording.name)];
    let (pid_key, tid_key) = (builder.string("pid"), builder.string("tid"));
    for entry in fold.entries() {
        let label = |(key, num): (i64, u32)| proto::Label { key, num: num.into() };
        let threads = entry.thread.map(|thread| [(pid_key, thread.tgid), (tid_key, thread.tid)].map(label));
        let sample = proto::Sample {
            location_id: entry.stack.frames.iter().map(|frame| builder.location(frame)).collect(),
            value: vec![signed(entry.weight.events), signed(entry.weight.value)],
            label: threads.into_iter().flatten().collect(),
        };
        builder.profile.sample.push(sample);
    }
    builder.profile
}

/// The format has no unsigned values.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Numbers strings, functions, locations and mappings; ids start at 1, strings at the empty one.
struct Builder {
    profile: proto::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(FrameKind, i64, i64), u64>,
    locations: HashMap<Frame, u64>,
    mappings: HashMap<i64, u64>,
}

impl Builder {
    fn new() -> Self {
        let mut builder = Self {
            profile: proto::Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            mappings: HashMap::new(),
        };
        builder.string("");
        builder
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.strings.get(text) {
            return number;
        }
        let number = self.profile.string_table.len() as i64;
        self.strings.insert(text.to_owned(), number);
        self.profile.string_table.push(text.to_owned());
        number
    }

    fn value_type(&mut self, name: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.string(name), unit: self.string(unit) }
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        if let Some(&id) = self.locations.get(frame) {
            return id;
        }
        let function_id = self.function(frame);
        let mapping_id = self.mapping(frame);
        let id = self.profile.location.len() as u64 + 1;
        let line = proto::Line { function_id, line: frame.line.unwrap_or(0).into() };
        self.profile.location.push(proto::Location { id, mapping_id, line: vec![line] });
        self.locations.insert(frame.clone(), id);
        id
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let name = self.string(&frame.function);
        let filename = self.string(frame.file.as_deref().unwrap_or_default());
        let next = self.profile.function.len() as u64 + 1;
        *self.functions.entry((frame.kind, name, filename)).or_insert_with(|| {
            self.profile.function.push(proto::Function { id: next, name, system_name: name, filename });
            next
        })
    }

    /// One mapping per world or mapped file: viewers colour by it, and those without the flags ask for binaries.
    fn mapping(&mut self, frame: &Frame) -> u64 {
        let name = match (frame.kind, &frame.file, frame.line) {
            (FrameKind::Python, ..) => "[python]",
            (FrameKind::Kernel, ..) => "[kernel]",
            (FrameKind::Native, Some(file), None) => file,
            (FrameKind::Native, ..) => "[native]",
        };
        let filename = self.string(name);
        let next = self.profile.mapping.len() as u64 + 1;
        *self.mappings.entry(filename).or_insert_with(|| {
            let known = frame.kind != FrameKind::Native || frame.line.is_some();
            self.profile.mapping.push(proto::Mapping {
                id: next,
                filename,
                has_functions: true,
                has_filenames: known,
                has_line_numbers: known,
            });
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::*;
    use crate::aggregate::stacks::Split;
    use crate::event::{Stack, StackStatus, Stamp};

    const RECORDING: Recording<'static> = Recording { name: "app.py", unix_seconds: 1_700, duration_ns: 5 };

    fn frame(kind: FrameKind, function: &str, file: Option<&str>, line: Option<u32>) -> Frame {
        Frame { kind, function: function.into(), file: file.map(Into::into), line }
    }

    fn fold(measure: Measure, value: u64) -> StackFold {
        let mut fold = StackFold::new(measure, Split::ByThread);
        let frames = vec![
            frame(FrameKind::Kernel, "vfs_read", None, None),
            frame(FrameKind::Native, "read", Some("/usr/lib/libc.so.6"), None),
            frame(FrameKind::Python, "load", Some("ml/data.py"), Some(12)),
            frame(FrameKind::Python, "load", Some("ml/data.py"), Some(30)),
        ];
        let stack = Arc::new(Stack { frames, status: StackStatus::ROOT });
        for tid in [10, 11, 11] {
            fold.add(&stack, Stamp { ktime_ns: 0, tgid: 10, tid, cpu: 0 }, value);
        }
        fold
    }

    fn decode(fold: &StackFold) -> proto::Profile {
        let mut file = Vec::new();
        write_pprof(fold, &RECORDING, &mut file).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut bytes).unwrap();
        proto::Profile::decode(&bytes[..]).unwrap()
    }

    #[test]
    fn a_profile_survives_the_wire_and_refers_to_itself_only() {
        let profile = decode(&fold(Measure::Cpu { period_ns: 10_101_010 }, 1));
        let string = |number: i64| profile.string_table[number as usize].as_str();
        assert_eq!(string(0), "");
        let types: Vec<_> = profile.sample_type.iter().map(|it| (string(it.r#type), string(it.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!((profile.period, string(profile.default_sample_type)), (10_101_010, "cpu"));
        assert_eq!((profile.time_nanos, profile.duration_nanos), (1_700_000_000_000, 5));
        let values: Vec<_> = profile.sample.iter().map(|it| it.value.clone()).collect();
        assert_eq!(values, [vec![2, 20_202_020], vec![1, 10_101_010]]);
        let labels: Vec<_> = profile.sample[0].label.iter().map(|it| (string(it.key), it.num)).collect();
        assert_eq!(labels, [("pid", 10), ("tid", 11)]);
        let stack: Vec<_> = profile.sample[0]
            .location_id
            .iter()
            .map(|&id| {
                let location = &profile.location[id as usize - 1];
                let function = &profile.function[location.line[0].function_id as usize - 1];
                let mapping = &profile.mapping[location.mapping_id as usize - 1];
                assert_eq!((location.id, function.id, mapping.id), (id, function.id, location.mapping_id));
                (string(function.name), string(function.filename), location.line[0].line, string(mapping.filename))
            })
            .collect();
        assert_eq!(
            stack,
            [
                ("vfs_read", "", 0, "[kernel]"),
                ("read", "/usr/lib/libc.so.6", 0, "/usr/lib/libc.so.6"),
                ("load", "ml/data.py", 12, "[python]"),
                ("load", "ml/data.py", 30, "[python]"),
            ]
        );
        assert_eq!((profile.function.len(), profile.location.len(), profile.mapping.len()), (3, 4, 3));
    }

    #[test]
    fn waits_have_no_period() {
        let profile = decode(&fold(Measure::OffCpu, 500));
        let string = |number: i64| profile.string_table[number as usize].as_str();
        assert_eq!(string(profile.sample_type[1].r#type), "off_cpu");
        assert_eq!((profile.period_type, profile.period), (None, 0));
        assert_eq!(profile.sample[0].value, [2, 1_000]);
    }
}
