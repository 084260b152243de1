//! The flame graph in a page of its own: no other file, no network.

use std::io::Write;

use crate::error::{Error, Result};

/// What stands above the flame graph.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Title of the page.
    pub title: &'a str,
    /// Lines of the summary.
    pub summary: &'a [String],
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.3rem; margin: 0 0 .5rem; }
ul { margin: 0 0 1rem; padding-left: 1.2rem; }
figure { margin: 0; background: #fff; border-radius: 6px; overflow: hidden; }
figure svg { display: block; width: 100%; }";

/// Writes the page around `svg`, a whole SVG file whose scripts keep working: its search and zoom are the page's.
pub fn write_html(page: &Page<'_>, svg: &[u8], mut out: impl Write) -> Result<()> {
    let svg = std::str::from_utf8(svg)
        .map_err(|err| Error::failed("the flame graph is not text").because(err.to_string()))?;
    // HTML takes the element only: an XML declaration or document type in the body would show as text.
    let start = svg.find("<svg").ok_or_else(|| Error::failed("the flame graph has no <svg> element"))?;
    let title = escape(page.title);
    writeln!(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">")?;
    writeln!(out, "<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>")?;
    if !page.summary.is_empty() {
        writeln!(out, "<ul>")?;
        page.summary.iter().try_for_each(|line| writeln!(out, "<li>{}</li>", escape(line)))?;
        writeln!(out, "</ul>")?;
    }
    writeln!(out, "<figure>\n{}\n</figure>\n</body>\n</html>", svg[start..].trim_end())?;
    Ok(())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
