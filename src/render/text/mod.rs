//! Reports for people, in the shapes of bpftrace's tools.

mod answer;
mod layout;
mod stacks;
mod table;

use std::io::{self, Write};

use crate::render::escape::visible;
use crate::report::{Banner, Block, Counts, Histogram, Note, Sink, Title, TitleStyle};
use crate::units;

/// Columns of a full bar.
const BAR_COLUMNS: usize = 36;
/// Least columns of a bucket's bounds and of its count.
const BOUNDS_COLUMNS: usize = 16;
const COUNT_COLUMNS: usize = 8;

/// How text is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Colour and bold by escape sequences.
    pub colour: bool,
    /// Columns of the terminal.
    pub width: usize,
}

/// Plain text, 120 columns: what a file or pipe gets.
impl Default for Style {
    fn default() -> Self {
        Self { colour: false, width: 120 }
    }
}

#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Style {
    fn paint(self, ink: Ink, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Red => 31,
            Ink::Green => 32,
            Ink::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What was written last: it decides whether an empty line comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Last {
    Nothing,
    Banner,
    Line,
    Checks,
    Note,
    Titled,
}

/// Writes blocks as text. Every string of a block passes [`visible`].
#[derive(Debug)]
pub struct Text<W: Write> {
    out: W,
    style: Style,
    last: Last,
}

impl<W: Write> Text<W> {
    /// A renderer that writes to `out`.
    pub fn new(out: W, style: Style) -> Self {
        Self { out, style, last: Last::Nothing }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Blocks of one kind that make a list stand close; anything else is set off by an empty line.
    fn space(&mut self, now: Last) -> io::Result<()> {
        let close = matches!(
            (self.last, now),
            (Last::Nothing, _)
                | (Last::Banner, Last::Banner)
                | (Last::Line, Last::Line)
                | (Last::Checks, Last::Checks)
                | (Last::Note, Last::Note)
        );
        if !close {
            writeln!(self.out)?;
        }
        self.last = now;
        Ok(())
    }
}

impl<W: Write> Sink for Text<W> {
    fn block(&mut self, block: Block) -> io::Result<()> {
        if matches!(&block, Block::Note(note) if note.text.is_empty()) {
            return Ok(()); // its counters are for JSON
        }
        self.space(match &block {
            Block::Banner(_) => Last::Banner,
            Block::Line(_) => Last::Line,
            Block::Checks(_) => Last::Checks,
            Block::Note(_) => Last::Note,
            _ => Last::Titled,
        })?;
        let (out, style) = (&mut self.out, self.style);
        match &block {
            Block::Banner(banner) => write_banner(banner, style, out),
            Block::Line(line) => writeln!(out, "{}", visible(&line.text)),
            Block::Counts(counts) => write_counts(counts, style, out),
            Block::Histogram(histogram) => write_histogram(histogram, style, out),
            Block::Stacks(stacks) => stacks::write_stacks(stacks, style, out),
            Block::Threads(threads) => stacks::write_threads(threads, style, out),
            Block::Table(table) => table::write_table(table, style, out),
            Block::Checks(checks) => answer::write_checks(checks, style, out),
            Block::Verdict(verdict) => answer::write_verdict(verdict, style, out),
            Block::Note(note) => write_note(note, style, out),
        }
    }
}

fn write_banner(banner: &Banner, style: Style, out: &mut impl Write) -> io::Result<()> {
    if banner.done {
        write!(out, "{} ", style.paint(Ink::Green, "✓"))?;
    }
    writeln!(out, "{}", visible(&banner.text))
}

fn write_title(title: &Title, style: Style, out: &mut impl Write) -> io::Result<()> {
    let text = visible(&title.text);
    let line = match title.style {
        TitleStyle::Map => format!("--- BPF Map: {text} ---"),
        TitleStyle::Section => format!("=== {text} ==="),
    };
    writeln!(out, "{}", style.paint(Ink::Bold, &line))
}

/// The line below a list that `--top` cut short, or that is empty.
fn write_rest(shown: usize, hidden: usize, style: Style, out: &mut impl Write) -> io::Result<()> {
    if hidden > 0 {
        let rest = format!("  ... {} more, --top {} shows them", units::count(hidden as u64), shown + hidden);
        return writeln!(out, "{}", style.paint(Ink::Dim, &rest));
    }
    if shown == 0 {
        return writeln!(out, "{}", style.paint(Ink::Dim, "  nothing seen"));
    }
    Ok(())
}

/// `   remark`, or nothing.
fn remark(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("   {}", visible(text)) }
}

fn write_counts(counts: &Counts, style: Style, out: &mut impl Write) -> io::Result<()> {
    write_title(&counts.title, style, out)?;
    for row in &counts.rows {
        writeln!(out, "  {}: {}{}", visible(&row.name), units::count(row.count), remark(&row.remark))?;
    }
    write_rest(counts.rows.len(), counts.hidden, style, out)
}

fn write_histogram(histogram: &Histogram, style: Style, out: &mut impl Write) -> io::Result<()> {
    write_title(&histogram.title, style, out)?;
    let tallest = histogram.buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0).max(1);
    let bounds: Vec<String> = histogram.buckets.iter().map(|it| format!("[{}, {}]", it.low, it.high)).collect();
    let bounds_columns = bounds.iter().map(String::len).max().unwrap_or(0).max(BOUNDS_COLUMNS);
    let count_columns = (tallest.ilog10() as usize + 2).max(COUNT_COLUMNS);
    for (bucket, bounds) in histogram.buckets.iter().zip(&bounds) {
        // 128 bits: a count of nanoseconds or bytes times 36 may pass 64.
        let filled = u128::from(bucket.count) * BAR_COLUMNS as u128 / u128::from(tallest);
        let bar = "@".repeat(filled as usize);
        writeln!(out, "{bounds:<bounds_columns$}{:>count_columns$} |{bar:<BAR_COLUMNS$}|", bucket.count)?;
    }
    write_rest(histogram.buckets.len(), 0, style, out)
}

fn write_note(note: &Note, style: Style, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} {}", style.paint(Ink::Yellow, "note:"), visible(&note.text))
}

#[cfg(test)]
mod tests;
