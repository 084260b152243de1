//! Flame graphs: one interactive SVG, hue by kind of frame.

use std::io::Write;

use inferno::flamegraph::color::{BackgroundColor, MultiPalette};
use inferno::flamegraph::{self, Options, Palette};

use crate::aggregate::stacks::{Measure, StackFold, folded_line};
use crate::error::{Error, Result};
use crate::event::FrameKind;

/// Frames narrower than this share of the picture, in percent, are left out. 5,000 distinct stacks make 193 KB with it
/// and 13.6 MB with a tenth of it.
const MIN_WIDTH_PERCENT: f64 = 0.1;

/// What stands around the flames.
#[derive(Clone, Debug)]
pub struct Flame<'a> {
    /// Above the flames: `On-CPU time of PID 4821`.
    pub title: &'a str,
    /// Below the title; the key of the hues is appended.
    pub subtitle: &'a str,
}

/// Writes the fold as a flame graph: green is Python, aqua native, orange the kernel.
///
/// An empty fold is an error: there is no picture of nothing.
pub fn write_flame(fold: &StackFold, flame: &Flame<'_>, out: impl Write) -> Result<()> {
    let entries = fold.entries();
    let mut lines: Vec<String> =
        entries.iter().filter(|entry| entry.shown > 0).map(|entry| folded_line(entry, hue_suffix)).collect();
    if lines.is_empty() {
        return Err(nothing_to_draw(fold.measure()));
    }
    lines.sort_unstable();
    let mut options = Options::default();
    options.title = flame.title.to_owned();
    options.subtitle = Some(subtitle(flame.subtitle));
    options.count_name = fold.measure().unit().to_owned();
    options.name_type = "Frame:".into();
    options.colors = Palette::Multi(MultiPalette::Java);
    options.bgcolors = Some(BackgroundColor::Grey);
    options.hash = true;
    options.deterministic = true;
    options.min_width = MIN_WIDTH_PERCENT;
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)
        .map_err(|err| Error::failed("cannot write the flame graph").because(err.to_string()))
}

fn subtitle(text: &str) -> String {
    let key = "green: Python, aqua: native, orange: kernel";
    if text.is_empty() { key.into() } else { format!("{text} | {key}") }
}

fn nothing_to_draw(measure: Measure) -> Error {
    let error = Error::failed("no stack was seen, so there is no flame graph to draw");
    match measure {
        Measure::Cpu { .. } => error.hint("the process did not run: `--off-cpu` shows where it waits"),
        Measure::OffCpu => error.hint("the process did not wait: without `--off-cpu` it shows where it runs"),
        Measure::Wall { .. } | Measure::Faults | Measure::Calls => error.hint("watch longer with `--duration`"),
    }
}

/// The palette's own marks, which it does not print: `_[j]` green, `_[i]` aqua, `_[k]` orange.
fn hue_suffix(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Python => "_[j]",
        FrameKind::Native => "_[i]",
        FrameKind::Kernel => "_[k]",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::aggregate::stacks::Split;
    use crate::event::{Frame, Stack, StackStatus, Stamp};

    const AT: Stamp = Stamp { ktime_ns: 0, tgid: 1, tid: 1, cpu: 0 };

    fn draw(fold: &StackFold) -> Result<String> {
        let mut svg = Vec::new();
        write_flame(fold, &Flame { title: "On-CPU <time>", subtitle: "99 Hz" }, &mut svg)?;
        Ok(String::from_utf8(svg).unwrap())
    }

    /// The fill of the frame whose tooltip starts with `name`.
    fn hue(svg: &str, name: &str) -> (u8, u8, u8) {
        let title = svg.find(&format!("<title>{name} ")).unwrap_or_else(|| panic!("no {name} in {svg}"));
        let rgb = svg[title..].split_once("rgb(").unwrap().1.split_once(')').unwrap().0;
        let mut parts = rgb.split(',').map(|part| part.parse::<u8>().unwrap());
        (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
    }

    #[test]
    fn kinds_have_their_own_hue_and_names_stay_bare() {
        let frame = |kind, function: &str, file: Option<&str>| Frame {
            kind,
            function: function.into(),
            file: file.map(Into::into),
            line: file.map(|_| 3),
        };
        let frames = vec![
            frame(FrameKind::Kernel, "do_syscall_64", None),
            frame(FrameKind::Native, "read", None),
            frame(FrameKind::Python, "load<T>", Some("ml/data.py")),
        ];
        let mut fold = StackFold::new(Measure::Cpu { period_ns: 1 }, Split::Together);
        for _ in 0..4 {
            fold.add(&Arc::new(Stack { frames: frames.clone(), status: StackStatus::ROOT }), AT, 1);
        }
        let svg = draw(&fold).unwrap();
        assert!(svg.contains("On-CPU &lt;time&gt;") && svg.contains("99 Hz | green: Python"), "{svg}");
        assert!(svg.contains("load&lt;T&gt; (ml/data.py:3) (4 samples, 100.00%)"), "{svg}");
        let (r, g, b) = hue(&svg, "load&lt;T&gt;");
        assert!(g > r && g > b, "green for Python: {r},{g},{b}");
        let (r, g, b) = hue(&svg, "read");
        assert!(b > r && g > r, "aqua for native: {r},{g},{b}");
        let (r, g, b) = hue(&svg, "do_syscall_64");
        assert!(r > g && g > b, "orange for the kernel: {r},{g},{b}");
        assert_eq!(svg, draw(&fold).unwrap(), "the same fold draws the same picture");
    }

    #[test]
    fn an_empty_fold_says_what_to_do() {
        let fold = StackFold::new(Measure::Cpu { period_ns: 1 }, Split::Together);
        let message = draw(&fold).unwrap_err().to_string();
        assert!(message.contains("--off-cpu"), "{message}");
    }
}
