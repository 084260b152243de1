//! Rows under column heads.

use std::io::{self, Write};

use super::layout::{columns, cut, pad};
use super::{Ink, Style, write_rest, write_title};
use crate::render::escape::visible;
use crate::report::{Align, Table};

/// Blanks between columns, and before the first.
const GAP: usize = 2;
/// A column of text is never cut below this.
const LEAST_TEXT_COLUMNS: usize = 16;

pub(super) fn write_table(table: &Table, style: Style, out: &mut impl Write) -> io::Result<()> {
    write_title(&table.title, style, out)?;
    let heads: Vec<String> = table.columns.iter().map(|(head, _)| visible(head).into_owned()).collect();
    let rows: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(|cell| visible(&cell.text).into_owned()).collect()).collect();
    if !rows.is_empty() {
        let aligns: Vec<Align> = table.columns.iter().map(|&(_, align)| align).collect();
        let widths = fit(natural_widths(&heads, &rows), &aligns, style.width);
        writeln!(out, "{}", style.paint(Ink::Bold, &set_row(&heads, &widths, &aligns)))?;
        for row in &rows {
            writeln!(out, "{}", set_row(row, &widths, &aligns))?;
        }
    }
    write_rest(rows.len(), table.hidden, style, out)
}

fn natural_widths(heads: &[String], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = heads.iter().map(|head| columns(head)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = columns(cell).max(*width);
        }
    }
    widths
}

/// Takes columns away from the widest columns of text until the row fits; numbers are never cut.
fn fit(mut widths: Vec<usize>, aligns: &[Align], room: usize) -> Vec<usize> {
    while widths.iter().map(|width| width + GAP).sum::<usize>() > room {
        let text = widths.iter_mut().zip(aligns).filter(|(_, align)| **align == Align::Left).map(|(width, _)| width);
        match text.max() {
            Some(widest) if *widest > LEAST_TEXT_COLUMNS => *widest -= 1,
            _ => break,
        }
    }
    widths
}

fn set_row(cells: &[String], widths: &[usize], aligns: &[Align]) -> String {
    let mut line = String::new();
    for ((cell, &width), align) in cells.iter().zip(widths).zip(aligns) {
        line.push_str(&" ".repeat(GAP));
        match align {
            Align::Left => line.push_str(&pad(&cut(cell, width), width)),
            Align::Right => {
                line.push_str(&" ".repeat(width.saturating_sub(columns(cell))));
                line.push_str(cell);
            }
        }
    }
    line.truncate(line.trim_end().len());
    line
}
