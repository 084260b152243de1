//! Hot stacks and thread dumps.

use std::io::{self, Write};

use super::layout::columns;
use super::{Ink, Style, remark, write_rest, write_title};
use crate::event::{Frame, FrameKind};
use crate::render::escape::visible;
use crate::report::{StackRow, Stacks, Thread, ThreadFrame, Threads, TitleStyle, frame_label};
use crate::units;

/// Frames of one stack set below each other; the others are counted.
const MAX_LISTED_FRAMES: usize = 40;

pub(super) fn write_stacks(stacks: &Stacks, style: Style, out: &mut impl Write) -> io::Result<()> {
    write_title(&stacks.title, style, out)?;
    for row in &stacks.rows {
        match stacks.title.style {
            TitleStyle::Map => write_joined(row, stacks.unit, style, out)?,
            TitleStyle::Section => write_listed(row, stacks.unit, out)?,
        }
    }
    write_rest(stacks.rows.len(), stacks.hidden, style, out)
}

/// `  [leaf, caller, ...]: 145` and `  -> Resolved: leaf @ file:line`.
fn write_joined(row: &StackRow, unit: &str, style: Style, out: &mut impl Write) -> io::Result<()> {
    let weight = weight(row.weight, unit);
    let room = style.width.saturating_sub(columns(&weight) + "  []: ".len());
    writeln!(out, "  [{}]: {weight}{}", joined_names(&row.frames, room), remark(&row.remark))?;
    if let Some(frame) = resolved(&row.frames) {
        writeln!(out, "  -> Resolved: {}", visible(&frame_label(frame)))?;
    }
    Ok(())
}

/// Names leaf first, as many as fit, each whole; the leaf always.
fn joined_names(frames: &[Frame], room: usize) -> String {
    const MORE: &str = ", ...";
    let Some((leaf, callers)) = frames.split_first() else {
        return "no frames".into();
    };
    let mut names = visible(&leaf.function).into_owned();
    for (index, caller) in callers.iter().enumerate() {
        let name = visible(&caller.function);
        let reserve = if index + 1 < callers.len() { MORE.len() } else { 0 };
        if columns(&names) + 2 + columns(&name) + reserve > room {
            return names + MORE;
        }
        names.push_str(", ");
        names.push_str(&name);
    }
    names
}

/// The Python line the weight is spent on; without one, the leaf.
fn resolved(frames: &[Frame]) -> Option<&Frame> {
    frames.iter().find(|frame| frame.kind == FrameKind::Python).or(frames.first())
}

/// `@faults[`, one frame a line, `]: 421`.
fn write_listed(row: &StackRow, unit: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "@{unit}[")?;
    for frame in row.frames.iter().take(MAX_LISTED_FRAMES) {
        writeln!(out, "    {}", visible(&frame_label(frame)))?;
    }
    if row.frames.len() > MAX_LISTED_FRAMES {
        let more = units::count((row.frames.len() - MAX_LISTED_FRAMES) as u64);
        writeln!(out, "    ... {more} more, --format json shows them")?;
    }
    writeln!(out, "]: {}{}", weight(row.weight, unit), remark(&row.remark))
}

/// Things counted stand bare, as in bpftrace's maps; measured quantities have their unit.
fn weight(value: u64, unit: &str) -> String {
    match unit {
        "ns" | "us" | "ms" | "bytes" => format!("{} {unit}", units::count(value)),
        _ => units::count(value),
    }
}

pub(super) fn write_threads(threads: &Threads, style: Style, out: &mut impl Write) -> io::Result<()> {
    write_title(&threads.title, style, out)?;
    for (index, thread) in threads.threads.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        write_thread(thread, style, out)?;
    }
    write_rest(threads.threads.len(), 0, style, out)
}

fn write_thread(thread: &Thread, style: Style, out: &mut impl Write) -> io::Result<()> {
    let name = style.paint(Ink::Bold, &format!("\"{}\"", visible(&thread.name)));
    let gil = if thread.holds_gil { style.paint(Ink::Yellow, ", holds the GIL") } else { String::new() };
    writeln!(out, "Thread {} {name}: {}{gil}", thread.tid, visible(&thread.state))?;
    for frame in &thread.frames {
        write_thread_frame(frame, out)?;
    }
    if !thread.remark.is_empty() {
        writeln!(out, "    ({})", visible(&thread.remark))?;
    }
    Ok(())
}

fn write_thread_frame(frame: &ThreadFrame, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "    {}", visible(&dump_label(&frame.frame)))?;
    for local in frame.locals.iter().flatten() {
        let (name, type_name, value) = (visible(&local.name), visible(&local.type_name), visible(&local.value));
        writeln!(out, "        {name}: {type_name} = {value}")?;
    }
    Ok(())
}

/// `func (app.py:7)`, `read (libc.so.6)`, `do_futex [kernel]`.
fn dump_label(frame: &Frame) -> String {
    match (frame.kind, &frame.file, frame.line) {
        (_, Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
        (FrameKind::Kernel, ..) => format!("{} [kernel]", frame.function),
        (_, Some(file), None) => format!("{} ({file})", frame.function),
        (_, None, _) => frame.function.to_string(),
    }
}
