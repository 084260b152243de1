//! Weight by stack in the formats of other tools.
//!
//! | file name | format | reads it |
//! |---|---|---|
//! | `.folded`, `.txt` | folded stacks | flamegraph.pl, inferno, speedscope |
//! | `.speedscope.json`, `.json` | speedscope | <https://www.speedscope.app> |
//! | `.pb.gz` | pprof | `go tool pprof`, Grafana Pyroscope, speedscope |
//! | `.html` | the flame graph in a page of its own | any browser |

mod folded;
mod html;
mod pprof;
mod speedscope;

use crate::aggregate::stacks::{Measure, Split, StackFold};
use crate::error::{Error, Result};

pub use folded::write_folded;
pub use html::{Page, write_html};
pub use pprof::write_pprof;
pub use speedscope::write_speedscope;

/// When and how long was watched, for formats that say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording<'a> {
    /// Name of the whole: `python3.11 app.py, PID 4821`.
    pub name: &'a str,
    /// Start, seconds since 1970.
    pub unix_seconds: u64,
    /// Length.
    pub duration_ns: u64,
}

/// A format, chosen by the name of the output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An interactive flame graph; `render` draws it.
    Svg,
    /// The same in a page.
    Html,
    /// Folded stacks.
    Folded,
    /// speedscope's JSON.
    Speedscope,
    /// pprof's gzipped protocol buffer.
    Pprof,
}

impl Format {
    /// The format of a file name.
    pub fn of(file_name: &str) -> Result<Self> {
        const ENDINGS: [(&str, Format); 7] = [
            (".svg", Format::Svg),
            (".html", Format::Html),
            (".htm", Format::Html),
            (".folded", Format::Folded),
            (".txt", Format::Folded),
            (".json", Format::Speedscope),
            (".pb.gz", Format::Pprof),
        ];
        let lower = file_name.to_lowercase();
        let found = ENDINGS.iter().find(|(ending, _)| lower.ends_with(ending));
        found.map(|(_, format)| *format).ok_or_else(|| {
            Error::usage(format!("no format is known for the file name `{file_name}`"))
                .hint("end it with .svg, .html, .folded, .json (speedscope) or .pb.gz (pprof)")
        })
    }

    /// How the fold should keep threads: speedscope shows them one by one.
    pub fn split(self) -> Split {
        match self {
            Self::Speedscope | Self::Pprof => Split::ByThread,
            Self::Svg | Self::Html | Self::Folded => Split::Together,
        }
    }
}

/// Name of what [`crate::aggregate::stacks::Weight::value`] holds, and its unit.
fn value_type(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::Cpu { .. } => ("cpu", "nanoseconds"),
        Measure::OffCpu => ("off_cpu", "nanoseconds"),
        Measure::Wall { .. } => ("wall", "nanoseconds"),
        Measure::Faults => ("faults", "count"),
        Measure::Calls => ("calls", "count"),
    }
}

fn not_empty(fold: &StackFold) -> Result<()> {
    if fold.is_empty() {
        return Err(Error::failed("no stack was seen, so there is nothing to write")
            .hint("watch longer with `--duration`, or the other side with or without `--off-cpu`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
