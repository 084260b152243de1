use serde_json::{Map, json};

use super::*;
use crate::event::{Frame, FrameKind};
use crate::report::*;

fn render_with(style: Style, blocks: Vec<Block>) -> String {
    let mut text = Text::new(Vec::new(), style);
    for block in blocks {
        text.block(block).unwrap();
    }
    String::from_utf8(text.into_inner()).unwrap()
}

fn render(blocks: Vec<Block>) -> String {
    render_with(Style { colour: false, width: 100 }, blocks)
}

fn frame(kind: FrameKind, function: &str, file: Option<&str>, line: Option<u32>) -> Frame {
    Frame { kind, function: function.into(), file: file.map(Into::into), line }
}

fn python(function: &str, file: &str, line: u32) -> Frame {
    frame(FrameKind::Python, function, Some(file), Some(line))
}

fn line(text: &str) -> Block {
    Block::Line(Line { what: "test", text: text.into(), values: Map::new() })
}

fn counts(rows: &[(&str, u64, &str)], hidden: usize) -> Block {
    let rows = rows.iter().map(|&(name, count, remark)| CountRow {
        name: name.into(),
        count,
        remark: remark.into(),
        values: Map::new(),
    });
    Block::Counts(Counts { title: Title::map("@sys_counts"), rows: rows.collect(), hidden })
}

#[test]
fn syscall_counts_as_documented() {
    let attaching = Banner { text: "Attaching syscall counter to PID 4821...".into(), done: false };
    let attached = Banner { text: "Attached. Monitoring syscall events... Ctrl+C to stop.".into(), done: true };
    let rows = [("sys_enter_read", 1_231, "12 errors, mean 4.2 us"), ("sys_enter_write", 184, "")];
    assert_eq!(
        render(vec![Block::Banner(attaching), Block::Banner(attached), counts(&rows, 12)]),
        "\
Attaching syscall counter to PID 4821...
✓ Attached. Monitoring syscall events... Ctrl+C to stop.

--- BPF Map: @sys_counts ---
  sys_enter_read: 1,231   12 errors, mean 4.2 us
  sys_enter_write: 184
  ... 12 more, --top 14 shows them
"
    );
}

#[test]
fn an_empty_list_says_so() {
    assert_eq!(render(vec![counts(&[], 0)]), "--- BPF Map: @sys_counts ---\n  nothing seen\n");
}

#[test]
fn histogram_rows_have_a_proportional_bar_of_36() {
    let bucket = |low, high, count| Bucket { low, high, count };
    let block = |buckets| Block::Histogram(Histogram { title: Title::map("@sirq_lat (us)"), unit: Unit::Us, buckets });
    assert_eq!(
        render(vec![block(vec![bucket(0, 1, 12), bucket(2, 4, 43), bucket(8, 16, 187), bucket(16, 32, 1)])]),
        "\
--- BPF Map: @sirq_lat (us) ---
[0, 1]                12 |@@                                  |
[2, 4]                43 |@@@@@@@@                            |
[8, 16]              187 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|
[16, 32]               1 |                                    |
"
    );
    let wide = render(vec![block(vec![bucket(1 << 29, (1 << 30) - 1, u64::MAX), bucket(1, 1, 1)])]);
    assert!(wide.contains("[536870912, 1073741823] 18446744073709551615 |@"), "{wide}");
    assert!(wide.contains("[1, 1]                                     1 | "), "{wide}");
}

fn hot_stacks(title: Title, unit: &'static str, frames: Vec<Frame>) -> Block {
    let rows = vec![StackRow { frames, weight: 145, remark: String::new() }];
    Block::Stacks(Stacks { title, unit, total: 200, rows, hidden: 0 })
}

#[test]
fn hot_stacks_name_functions_and_resolve_the_python_line() {
    let frames = || {
        vec![
            frame(FrameKind::Native, "sha256_block", Some("libcrypto.so.3"), None),
            python("call_llm_chain", "gateway/orchestrator.py", 120),
            python("handle_request", "server.py", 45),
            python("<module>", "server.py", 90),
        ]
    };
    assert_eq!(
        render(vec![hot_stacks(Title::map("@stacks"), "samples", frames())]),
        "\
--- BPF Map: @stacks ---
  [sha256_block, call_llm_chain, handle_request, <module>]: 145
  -> Resolved: call_llm_chain @ gateway/orchestrator.py:120
"
    );
    let narrow = Style { colour: false, width: 52 };
    let text = render_with(narrow, vec![hot_stacks(Title::map("@stacks"), "us", frames())]);
    assert!(text.contains("  [sha256_block, call_llm_chain, ...]: 145 us\n"), "{text}");
    let tiny = Style { colour: false, width: 1 };
    let text = render_with(tiny, vec![hot_stacks(Title::map("@stacks"), "us", frames())]);
    assert!(text.contains("  [sha256_block, ...]: 145 us\n"), "{text}");
}

#[test]
fn stacks_under_a_section_are_listed() {
    let mut frames =
        vec![frame(FrameKind::Native, "malloc+0x24", None, None), python("load_dataset", "ml/data.py", 12)];
    assert_eq!(
        render(vec![hot_stacks(Title::section("PAGE FAULT HOTSPOTS"), "faults", frames.clone())]),
        "\
=== PAGE FAULT HOTSPOTS ===
@faults[
    malloc+0x24
    load_dataset @ ml/data.py:12
]: 145
"
    );
    frames.extend((0..100).map(|n| python("deep", "a.py", n)));
    let deep = render(vec![hot_stacks(Title::section("X"), "bytes", frames)]);
    assert!(deep.ends_with("    deep @ a.py:37\n    ... 62 more, --format json shows them\n]: 145 bytes\n"), "{deep}");
}

#[test]
fn a_stack_without_frames_is_no_panic() {
    let text = render(vec![hot_stacks(Title::map("@stacks"), "samples", vec![])]);
    assert_eq!(text, "--- BPF Map: @stacks ---\n  [no frames]: 145\n");
}

#[test]
fn thread_dump_reads_like_a_traceback() {
    let local = |name: &str, type_name: &str, value: &str| Local {
        name: name.into(),
        type_name: type_name.into(),
        value: value.into(),
    };
    let thread = |tid, name: &str, state: &str, holds_gil, frames, remark: &str| Thread {
        tid,
        name: name.into(),
        state: state.into(),
        holds_gil,
        frames,
        remark: remark.into(),
    };
    let frames = vec![
        ThreadFrame { frame: frame(FrameKind::Kernel, "do_futex", None, None), locals: None },
        ThreadFrame { frame: frame(FrameKind::Native, "sem_wait", Some("libc.so.6"), None), locals: None },
        ThreadFrame {
            frame: python("take_ab", "transfer.py", 13),
            locals: Some(vec![local("self", "Account", "<Account>"), local("note", "str", "'a\\n\u{1b}[2J'")]),
        },
    ];
    let threads = vec![
        thread(10, "MainThread", "running", true, vec![], "walk stopped at an unreadable frame"),
        thread(11, "worker-AB", "waiting in futex (lock)", false, frames, ""),
    ];
    assert_eq!(
        render(vec![Block::Threads(Threads { title: Title::section("THREADS OF PID 10"), threads })]),
        "\
=== THREADS OF PID 10 ===
Thread 10 \"MainThread\": running, holds the GIL
    (walk stopped at an unreadable frame)

Thread 11 \"worker-AB\": waiting in futex (lock)
    do_futex [kernel]
    sem_wait (libc.so.6)
    take_ab (transfer.py:13)
        self: Account = <Account>
        note: str = 'a\\n\\x1b[2J'
"
    );
}

fn table(rows: &[[&str; 2]]) -> Block {
    let cell = |text: &str| Cell { text: text.into(), value: json!(text) };
    Block::Table(Table {
        title: Title::section("HOT LINES"),
        columns: vec![("line".into(), Align::Left), ("own".into(), Align::Right)],
        rows: rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect(),
        hidden: 1,
    })
}

#[test]
fn table_columns_align_and_cut_with_an_ellipsis() {
    let rows = [["calculate_features @ ml/engine.py:89", "71 %"], ["日本語 @ a.py:1", "0.4 %"]];
    assert_eq!(
        render(vec![table(&rows)]),
        "\
=== HOT LINES ===
  line                                    own
  calculate_features @ ml/engine.py:89   71 %
  日本語 @ a.py:1                       0.4 %
  ... 1 more, --top 3 shows them
"
    );
    let narrow = render_with(Style { colour: false, width: 30 }, vec![table(&rows)]);
    assert!(narrow.contains("  calculate_…gine.py:89   71 %\n"), "{narrow}");
}

fn verdict() -> Block {
    let evidence = |name: &str, text: &str| Evidence { name: name.into(), text: text.into(), value: json!(0) };
    Block::Verdict(Verdict {
        evidence: vec![
            evidence("cpu_samples", "212   (71 % of one core)"),
            evidence("off_cpu", "1,204 waits, 18.3 s in 8 threads"),
            evidence("syscalls", "4,310/s (read 61 %)"),
            evidence("page_faults", "12/s"),
            evidence("run queue", "0.4 % of wall"),
        ],
        class: "GIL CONTENTION".into(),
        confidence: Confidence::High,
        text: vec![
            "6 threads wait for the GIL 63 % of the time.".into(),
            "It is held mostly (71 %) by calculate_features @ ml/engine.py:89 in thread 10231, pure Python.".into(),
        ],
        line: None,
        next: Some("pylow pycpu 4821".into()),
    })
}

#[test]
fn verdict_has_evidence_in_two_columns_then_the_answer() {
    assert_eq!(
        render(vec![verdict()]),
        "\
cpu_samples : 212   (71 % of one core)    off_cpu     : 1,204 waits, 18.3 s in 8 threads
syscalls    : 4,310/s (read 61 %)         page_faults : 12/s
run queue   : 0.4 % of wall

VERDICT   GIL CONTENTION   confidence: high
  6 threads wait for the GIL 63 % of the time. It is held mostly (71 %) by calculate_features @
  ml/engine.py:89 in thread 10231, pure Python.
NEXT      pylow pycpu 4821
"
    );
    let narrow = render_with(Style { colour: false, width: 60 }, vec![verdict()]);
    assert!(narrow.starts_with("cpu_samples : 212   (71 % of one core)\noff_cpu     : 1,204"), "{narrow}");
}

#[test]
fn checks_stand_close_with_marks_and_fixes() {
    let check = |ability: &str, ok, evidence: &str, fix: Option<&str>| Check {
        ability: ability.into(),
        ok,
        evidence: evidence.into(),
        fix: fix.map(Into::into),
    };
    let subject = |subject: &str, summary: &str, checks| {
        Block::Checks(Checks { subject: subject.into(), summary: summary.into(), checks })
    };
    let abilities = vec![
        check("stacks", true, "offsets verified by walking 8 threads", None),
        check("native lines", false, "no debug info", Some("install libc6-dbg, python3.11-dbg for line numbers in C")),
    ];
    assert_eq!(
        render_with(
            Style { colour: false, width: 60 },
            vec![subject("rights", "root", vec![]), subject("PID 4821", "CPython 3.11.2", abilities)]
        ),
        "\
rights            root
PID 4821          CPython 3.11.2
  ✓ stacks        offsets verified by walking 8 threads
  ✗ native lines  no debug info: install libc6-dbg,
                  python3.11-dbg for line numbers in C
"
    );
}

#[test]
fn lines_stand_close_and_the_note_comes_last() {
    let note = Block::Note(Note { text: "1.2 % of events lost".into(), loss: None });
    assert_eq!(
        render(vec![line("GIL WAIT 1250us tid=10234 stack:"), line("  [ustack]:"), note]),
        "GIL WAIT 1250us tid=10234 stack:\n  [ustack]:\n\nnote: 1.2 % of events lost\n"
    );
}

#[test]
fn nothing_of_the_target_reaches_the_terminal_raw() {
    let evil = "\u{1b}]0;x\u{7}\u{202e}\u{9b}2J\nforged";
    let text = |s: &str| s.to_owned();
    let evil_frame = || python(evil, evil, 1);
    let threads = vec![Thread {
        tid: 1,
        name: text(evil),
        state: text(evil),
        holds_gil: false,
        frames: vec![ThreadFrame {
            frame: evil_frame(),
            locals: Some(vec![Local { name: text(evil), type_name: text(evil), value: text(evil) }]),
        }],
        remark: text(evil),
    }];
    let blocks = vec![
        Block::Banner(Banner { text: text(evil), done: true }),
        line(evil),
        counts(&[(evil, 1, evil)], 0),
        Block::Histogram(Histogram { title: Title::map(evil), unit: Unit::Ns, buckets: vec![] }),
        hot_stacks(Title::map(evil), "samples", vec![evil_frame(), evil_frame()]),
        hot_stacks(Title::section(evil), "samples", vec![evil_frame()]),
        Block::Threads(Threads { title: Title::section(evil), threads }),
        table(&[[evil, evil]]),
        Block::Checks(Checks {
            subject: text(evil),
            summary: text(evil),
            checks: vec![Check { ability: text(evil), ok: false, evidence: text(evil), fix: Some(text(evil)) }],
        }),
        Block::Verdict(Verdict {
            evidence: vec![Evidence { name: text(evil), text: text(evil), value: json!(0) }],
            class: text(evil),
            confidence: Confidence::Low,
            text: vec![text(evil)],
            line: None,
            next: Some(text(evil)),
        }),
        Block::Note(Note { text: text(evil), loss: None }),
    ];
    let rendered = render(blocks);
    assert!(!rendered.chars().any(|c| c != '\n' && crate::render::escape::is_unsafe(c)), "{rendered}");
    assert!(!rendered.lines().any(|line| line.trim_start().starts_with("forged")), "{rendered}");
}

#[test]
fn colour_adds_escapes_and_changes_no_text() {
    let plain = render(vec![verdict(), counts(&[("a", 1, "")], 2)]);
    let coloured = render_with(Style { colour: true, width: 100 }, vec![verdict(), counts(&[("a", 1, "")], 2)]);
    assert!(coloured.contains("\u{1b}[1mGIL CONTENTION\u{1b}[0m"));
    let mut stripped = coloured.clone();
    for code in [0, 1, 2, 31, 32, 33] {
        stripped = stripped.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_eq!(stripped, plain);
}
