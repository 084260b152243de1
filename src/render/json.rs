//! Reports for programs: one JSON object a line, each with `"schema":"pylow.<what>/1"` first.
//!
//! The number goes up when a field changes its meaning or goes away; new fields may come at any time. Banners are for
//! people and left out.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::render::escape::visible_json;
use crate::report::{Block, Sink, Table, Title};

/// Writes blocks as JSON lines.
#[derive(Debug)]
pub struct Json<W: Write> {
    out: W,
}

#[derive(Serialize)]
struct Object<'a, T: Serialize> {
    schema: String,
    #[serde(flatten)]
    body: &'a T,
}

/// A table as objects: the heads are the keys, the values are bare.
#[derive(Serialize)]
struct TableBody<'a> {
    title: &'a Title,
    rows: Vec<Map<String, Value>>,
    hidden: usize,
}

impl<W: Write> Json<W> {
    /// A renderer that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn object(&mut self, what: &str, body: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(&Object { schema: format!("pylow.{what}/1"), body })?;
        writeln!(self.out, "{}", visible_json(&json))
    }
}

impl<W: Write> Sink for Json<W> {
    fn block(&mut self, block: Block) -> io::Result<()> {
        match &block {
            Block::Banner(_) => Ok(()),
            Block::Line(line) => self.object(line.what, &line.values),
            Block::Counts(counts) => self.object("counts", counts),
            Block::Histogram(histogram) => self.object("histogram", histogram),
            Block::Stacks(stacks) => self.object("stacks", stacks),
            Block::Threads(threads) => self.object("threads", threads),
            Block::Table(table) => self.object("table", &table_body(table)),
            Block::Checks(checks) => self.object("checks", checks),
            Block::Verdict(verdict) => self.object("verdict", verdict),
            Block::Note(note) => self.object("note", note),
        }
    }
}

fn table_body(table: &Table) -> TableBody<'_> {
    let heads = || table.columns.iter().map(|(head, _)| head.clone());
    let object = |row: &Vec<_>| {
        heads().zip(row.iter().map(|cell: &crate::report::Cell| cell.value.clone())).collect::<Map<_, _>>()
    };
    TableBody { title: &table.title, rows: table.rows.iter().map(object).collect(), hidden: table.hidden }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{Frame, FrameKind};
    use crate::report::*;

    fn check(block: Block, expected: &str) {
        let mut json = Json::new(Vec::new());
        json.block(block).unwrap();
        assert_eq!(String::from_utf8(json.into_inner()).unwrap(), expected);
    }

    #[test]
    fn banners_are_left_out() {
        check(Block::Banner(Banner { text: "a".into(), done: true }), "");
    }

    #[test]
    fn a_line_is_its_values() {
        let values = [("line".to_owned(), json!(7)), ("function".to_owned(), json!("f\u{202e}"))];
        check(
            Block::Line(Line { what: "function_cpu", text: "f".into(), values: values.into_iter().collect() }),
            "{\"schema\":\"pylow.function_cpu/1\",\"function\":\"f\\u202e\",\"line\":7}\n",
        );
    }

    #[test]
    fn counts_keep_extra_values() {
        let row = |name: &str, values: Map<String, Value>| CountRow {
            name: name.into(),
            count: 231,
            remark: String::new(),
            values,
        };
        let extra = [("errors".to_owned(), json!(2))].into_iter().collect();
        check(
            Block::Counts(Counts {
                title: Title::map("@sys_counts"),
                rows: vec![row("sys_enter_read", extra), row("sys_enter_write", Map::new())],
                hidden: 3,
            }),
            "{\"schema\":\"pylow.counts/1\",\"title\":\"@sys_counts\",\"rows\":[\
             {\"name\":\"sys_enter_read\",\"count\":231,\"errors\":2},\
             {\"name\":\"sys_enter_write\",\"count\":231}],\"hidden\":3}\n",
        );
    }

    #[test]
    fn histograms_and_stacks_are_their_data() {
        check(
            Block::Histogram(Histogram {
                title: Title::map("@read_lat (ns)"),
                unit: Unit::Ns,
                buckets: vec![Bucket { low: 64, high: 127, count: 4 }],
            }),
            "{\"schema\":\"pylow.histogram/1\",\"title\":\"@read_lat (ns)\",\"unit\":\"ns\",\
             \"buckets\":[{\"low\":64,\"high\":127,\"count\":4}]}\n",
        );
        let frame = Frame { kind: FrameKind::Python, function: "f".into(), file: Some("a.py".into()), line: Some(3) };
        check(
            Block::Stacks(Stacks {
                title: Title::map("@stacks"),
                unit: "samples",
                total: 10,
                rows: vec![StackRow { frames: vec![frame], weight: 9, remark: String::new() }],
                hidden: 1,
            }),
            "{\"schema\":\"pylow.stacks/1\",\"title\":\"@stacks\",\"unit\":\"samples\",\"total\":10,\"rows\":[\
             {\"frames\":[{\"kind\":\"python\",\"function\":\"f\",\"file\":\"a.py\",\"line\":3}],\"weight\":9}],\
             \"hidden\":1}\n",
        );
    }

    #[test]
    fn a_table_row_is_an_object() {
        check(
            Block::Table(Table {
                title: Title::section("LINES"),
                columns: vec![("function".into(), Align::Left), ("own".into(), Align::Right)],
                rows: vec![vec![
                    Cell { text: "f".into(), value: json!("f") },
                    Cell { text: "62 %".into(), value: json!(0.62) },
                ]],
                hidden: 0,
            }),
            "{\"schema\":\"pylow.table/1\",\"title\":\"LINES\",\"rows\":[{\"function\":\"f\",\"own\":0.62}],\
             \"hidden\":0}\n",
        );
    }

    #[test]
    fn a_note_has_its_counters() {
        check(
            Block::Note(Note { text: "1 % lost".into(), loss: None }),
            "{\"schema\":\"pylow.note/1\",\"text\":\"1 % lost\"}\n",
        );
    }
}
