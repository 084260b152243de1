use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::event::{Frame, FrameKind, Stack, StackStatus, Stamp};

const RECORDING: Recording<'static> = Recording { name: "app.py, PID 10", unix_seconds: 0, duration_ns: 0 };

fn fold(measure: Measure, split: Split) -> StackFold {
    let frame = |kind, function: &str, line: Option<u32>| Frame {
        kind,
        function: function.into(),
        file: line.map(|_| "app.py".into()),
        line,
    };
    let stack = |frames| Arc::new(Stack { frames, status: StackStatus::ROOT });
    let main = frame(FrameKind::Python, "<module>", Some(9));
    let work = stack(vec![frame(FrameKind::Python, "work", Some(3)), main.clone()]);
    let kernel = stack(vec![frame(FrameKind::Kernel, "do_futex", None), main]);
    let mut fold = StackFold::new(measure, split);
    for (stack, tid) in [(&work, 10), (&work, 11), (&work, 11), (&kernel, 11)] {
        fold.add(stack, Stamp { ktime_ns: 0, tgid: 10, tid, cpu: 0 }, 1_000);
    }
    fold
}

fn speedscope(fold: &StackFold) -> Value {
    let mut json = Vec::new();
    write_speedscope(fold, &RECORDING, &mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// What the schema and speedscope's importer ask of a file.
fn check_speedscope(file: &Value) {
    assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
    let frames = file["shared"]["frames"].as_array().unwrap();
    assert!(frames.iter().all(|frame| frame["name"].is_string()));
    for profile in file["profiles"].as_array().unwrap() {
        assert_eq!(profile["type"], "sampled");
        assert!(["none", "nanoseconds"].contains(&profile["unit"].as_str().unwrap()));
        let samples = profile["samples"].as_array().unwrap();
        let weights = profile["weights"].as_array().unwrap();
        assert_eq!(samples.len(), weights.len());
        let sum: u64 = weights.iter().map(|it| it.as_u64().unwrap()).sum();
        assert_eq!((profile["startValue"].as_u64(), profile["endValue"].as_u64()), (Some(0), Some(sum)));
        let numbers = samples.iter().flat_map(|sample| sample.as_array().unwrap());
        assert!(numbers.map(|it| it.as_u64().unwrap()).all(|it| (it as usize) < frames.len()));
    }
}

#[test]
fn speedscope_has_one_profile_per_thread() {
    let file = speedscope(&fold(Measure::OffCpu, Split::ByThread));
    check_speedscope(&file);
    let profiles = file["profiles"].as_array().unwrap();
    assert_eq!(profiles[0]["name"], "thread 11 of 10");
    assert_eq!(profiles[0]["endValue"], 3_000);
    assert_eq!(profiles[1]["name"], "thread 10");
    let names: Vec<_> = profiles[0]["samples"][0]
        .as_array()
        .unwrap()
        .iter()
        .map(|number| file["shared"]["frames"][number.as_u64().unwrap() as usize]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["<module>", "work"], "root first");
}

#[test]
fn speedscope_knows_files_lines_and_units() {
    let file = speedscope(&fold(Measure::Faults, Split::Together));
    check_speedscope(&file);
    assert_eq!(file["profiles"][0]["name"], "app.py, PID 10");
    assert_eq!(file["profiles"][0]["unit"], "none");
    let frames = file["shared"]["frames"].to_string();
    assert!(frames.contains("{\"file\":\"app.py\",\"line\":3,\"name\":\"work\"}"), "{frames}");
    assert!(frames.contains("{\"name\":\"do_futex [kernel]\"}"), "{frames}");
}

#[test]
fn folded_is_one_line_a_stack() {
    let mut text = Vec::new();
    write_folded(&fold(Measure::OffCpu, Split::Together), &mut text).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "<module> (app.py:9);do_futex_[k] 1\n<module> (app.py:9);work (app.py:3) 3\n"
    );
}

#[test]
fn a_page_has_the_svg_inline_and_nothing_raw() {
    let svg = b"<?xml version=\"1.0\"?>\n<!DOCTYPE svg PUBLIC \"x\">\n<svg onload=\"init(evt)\"><g/></svg>\n";
    let summary = ["<script>alert(1)</script>".to_owned(), "212 samples".to_owned()];
    let mut html = Vec::new();
    write_html(&Page { title: "On-CPU \"time\" & more", summary: &summary }, svg, &mut html).unwrap();
    let html = String::from_utf8(html).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>"), "{html}");
    assert!(html.contains("<figure>\n<svg onload=\"init(evt)\"><g/></svg>\n</figure>"), "{html}");
    assert!(html.contains("<h1>On-CPU &quot;time&quot; &amp; more</h1>"), "{html}");
    assert!(html.contains("<li>&lt;script&gt;alert(1)&lt;/script&gt;</li>"), "{html}");
    assert!(!html.contains("<?xml"), "{html}");
    assert!(write_html(&Page { title: "", summary: &[] }, b"no picture", Vec::new()).is_err());
}

#[test]
fn nothing_seen_is_an_error_everywhere() {
    let empty = StackFold::new(Measure::OffCpu, Split::Together);
    assert!(write_folded(&empty, Vec::new()).is_err());
    assert!(write_speedscope(&empty, &RECORDING, Vec::new()).is_err());
    let message = write_pprof(&empty, &RECORDING, Vec::new()).unwrap_err().to_string();
    assert!(message.contains("nothing to write"), "{message}");
}

#[test]
fn the_file_name_chooses_the_format() {
    for (name, format) in [
        ("flamegraph.svg", Format::Svg),
        ("a.HTML", Format::Html),
        ("out.folded", Format::Folded),
        ("a.speedscope.json", Format::Speedscope),
        ("cpu.pb.gz", Format::Pprof),
    ] {
        assert_eq!(Format::of(name).unwrap(), format, "{name}");
    }
    let message = Format::of("a.gz").unwrap_err().to_string();
    assert!(message.contains("`a.gz`") && message.contains(".pb.gz (pprof)"), "{message}");
}
