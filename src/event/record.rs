//! The event stream as a file: one JSON object a line, every distinct frame and stack written once, before its first use.
//!
//! ```text
//! {"format":"pylow.events","version":1,"pylow":"0.1.0"}
//! {"event":{"kind":"started",...}}
//! {"frame":0,"is":{"kind":"python","function":"work","file":"app.py","line":7}}
//! {"stack":0,"frames":[0],"status":1}
//! {"event":{"kind":"sample",...},"stack":0}
//! {"event":{"kind":"ended",...}}
//! ```
//!
//! Frames and stacks are numbered from 0 in the order they appear. A whole stream ends with `ended`. Both sides hold the
//! distinct frames and stacks in memory, and nothing else.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Event, Frame, Stack, StackStatus, StackTable};
use crate::error::{Error, Result};

/// Name in the first line of every stream.
pub const FORMAT: &str = "pylow.events";
/// Version of the format; a reader takes this one only.
pub const VERSION: u32 = 1;
/// A longer line is no event: the longest real ones, `appeared` with a command line, stay under 3 MiB.
const MAX_LINE_BYTES: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Version of the program that wrote the stream; for people.
    pylow: String,
}

#[derive(Serialize)]
struct FrameLine<'a> {
    frame: u32,
    is: &'a Frame,
}

#[derive(Serialize)]
struct StackLine<'a> {
    stack: u32,
    frames: &'a [u32],
    status: StackStatus,
}

#[derive(Serialize)]
struct EventLine<'a> {
    event: &'a Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<u32>,
}

/// Any line after the first, as read. Flat, since an untagged enum would parse each line several times.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyLine {
    event: Option<Event>,
    stack: Option<u32>,
    frames: Option<Vec<u32>>,
    status: Option<StackStatus>,
    frame: Option<u32>,
    is: Option<Frame>,
}

/// Writes a stream. Give it a buffered writer.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    /// The line being made: whole before it is written, since `out` sees every piece of JSON as a call otherwise.
    line: Vec<u8>,
    stacks: StackTable,
    frames: HashMap<Frame, u32>,
}

impl<W: Write> Writer<W> {
    /// Starts a stream with its first line.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, line: Vec::new(), stacks: StackTable::default(), frames: HashMap::new() };
        writer.line(&Header { format: FORMAT.into(), version: VERSION, pylow: env!("CARGO_PKG_VERSION").into() })?;
        Ok(writer)
    }

    /// Appends one event, and its stack and frames where they are new.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let stack = match event.stack() {
            Some(stack) => Some(self.stack(stack)?),
            None => None,
        };
        self.line(&EventLine { event, stack })
    }

    /// Hands what is buffered to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Flushes and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn stack(&mut self, stack: &Arc<Stack>) -> io::Result<u32> {
        let (id, new) = self.stacks.insert(stack);
        if new {
            let frames: Vec<u32> = stack.frames.iter().map(|frame| self.frame(frame)).collect::<io::Result<_>>()?;
            self.line(&StackLine { stack: id, frames: &frames, status: stack.status })?;
        }
        Ok(id)
    }

    fn frame(&mut self, frame: &Frame) -> io::Result<u32> {
        if let Some(&id) = self.frames.get(frame) {
            return Ok(id);
        }
        let id = self.frames.len() as u32;
        self.frames.insert(frame.clone(), id);
        self.line(&FrameLine { frame: id, is: frame })?;
        Ok(id)
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }
}

/// What a stream yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// One event.
    Event(Event),
    /// The stream stops here without its `ended`: the recorder was killed. Always the last item; all events before it
    /// are good.
    Cut {
        /// The line that is missing or incomplete, from 1.
        line: u64,
    },
}

/// Reads a stream, strictly: anything but a whole stream of this version is an error that names the line.
#[derive(Debug)]
pub struct Reader<R: BufRead> {
    input: R,
    line: u64,
    frames: Vec<Frame>,
    stacks: Vec<Arc<Stack>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Events,
    Ended,
    /// An error or a cut was reported: nothing more comes.
    Done,
}

/// One line of input.
enum Input {
    Line(Vec<u8>),
    /// Bytes without a newline at the end of the input.
    Partial,
    End,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the start of a stream. The first item reports a wrong format.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, frames: Vec::new(), stacks: Vec::new(), state: State::Header }
    }

    fn read_line(&mut self) -> Result<Input> {
        self.line += 1;
        let mut bytes = Vec::with_capacity(256);
        let read = self.input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
        read.map_err(|err| Error::from(err).context(format!("cannot read line {} of the event stream", self.line)))?;
        match bytes.last() {
            None => Ok(Input::End),
            Some(b'\n') => Ok(Input::Line(bytes)),
            Some(_) if bytes.len() as u64 == MAX_LINE_BYTES => Err(self.corrupt("the line is longer than 16 MiB")),
            Some(_) => Ok(Input::Partial),
        }
    }

    fn header(&mut self) -> Result<()> {
        let Input::Line(bytes) = self.read_line()? else {
            return Err(not_a_stream("it has no complete first line"));
        };
        let header: Header = serde_json::from_slice(&bytes).map_err(|err| not_a_stream(&first_line(&bytes, &err)))?;
        if header.format != FORMAT {
            return Err(not_a_stream(&format!("its first line names the format `{}`", header.format.escape_debug())));
        }
        if header.version != VERSION {
            return Err(Error::failed(format!(
                "event stream has version {}, this pylow reads version {VERSION}",
                header.version
            ))
            .because(format!("it was written by pylow {}", header.pylow.escape_debug()))
            .hint("replay it with that version, or record again"));
        }
        self.state = State::Events;
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Recorded>> {
        if self.state == State::Header {
            self.header()?;
        }
        while self.state != State::Done {
            let bytes = match (self.read_line()?, self.state) {
                (Input::Line(_) | Input::Partial, State::Ended) => {
                    return Err(self.corrupt("the stream goes on after its `ended` event"));
                }
                (Input::Line(bytes), _) => bytes,
                (Input::End, State::Ended) => break,
                (Input::Partial | Input::End, _) => {
                    self.state = State::Done;
                    return Ok(Some(Recorded::Cut { line: self.line }));
                }
            };
            let line = serde_json::from_slice(&bytes).map_err(|err| self.corrupt(&err.to_string()))?;
            if let Some(event) = self.take(line)? {
                if matches!(event, Event::Ended(_)) {
                    self.state = State::Ended;
                }
                return Ok(Some(Recorded::Event(event)));
            }
        }
        self.state = State::Done;
        Ok(None)
    }

    /// Remembers a frame or stack line; gives the event of an event line.
    fn take(&mut self, line: AnyLine) -> Result<Option<Event>> {
        match line {
            AnyLine { event: Some(mut event), stack, frames: None, status: None, frame: None, is: None } => {
                match (event.stack_mut(), stack) {
                    (Some(slot), Some(id)) => {
                        let stack = self.stacks.get(id as usize);
                        *slot =
                            Arc::clone(stack.ok_or_else(|| self.corrupt(&format!("stack {id} was never written")))?);
                    }
                    (None, None) => {}
                    (Some(_), None) => return Err(self.corrupt("an event of this kind needs a stack")),
                    (None, Some(_)) => return Err(self.corrupt("an event of this kind has no stack")),
                }
                Ok(Some(event))
            }
            AnyLine {
                event: None,
                stack: Some(id),
                frames: Some(ids),
                status: Some(status),
                frame: None,
                is: None,
            } => {
                self.expect_next("stack", id, self.stacks.len())?;
                let mut frames = Vec::with_capacity(ids.len());
                for id in ids {
                    let frame = self.frames.get(id as usize);
                    frames.push(frame.ok_or_else(|| self.corrupt(&format!("frame {id} was never written")))?.clone());
                }
                self.stacks.push(Arc::new(Stack { frames, status }));
                Ok(None)
            }
            AnyLine { event: None, stack: None, frames: None, status: None, frame: Some(id), is: Some(frame) } => {
                self.expect_next("frame", id, self.frames.len())?;
                self.frames.push(frame);
                Ok(None)
            }
            _ => Err(self.corrupt("the line is neither an event, nor a stack, nor a frame")),
        }
    }

    fn expect_next(&self, what: &str, id: u32, next: usize) -> Result<()> {
        if id as usize == next {
            return Ok(());
        }
        Err(self.corrupt(&format!("{what} {id} where {what} {next} comes next")))
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::failed(format!("line {} of the event stream is corrupt", self.line))
            .because(reason.to_owned())
            .hint("record again; `--record` files are not meant to be edited")
    }
}

fn not_a_stream(reason: &str) -> Error {
    Error::failed("not an event stream of pylow")
        .because(reason.to_owned())
        .hint("`--replay` takes a file that `--record` wrote")
}

fn first_line(bytes: &[u8], err: &serde_json::Error) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
    format!("its first line starts with `{}`: {err}", start.trim_end().escape_debug())
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Recorded>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.state = State::Done;
        }
        item.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        CodeClass, EndReason, Ended, FrameKind, Loss, Observed, ProcessTotals, Stamp, Started, SyscallTotals, Wait,
    };

    const AT: Stamp = Stamp { ktime_ns: 5_000, tgid: 7, tid: 8, cpu: 1 };

    fn frame(function: &str, line: u32) -> Frame {
        Frame { kind: FrameKind::Python, function: function.into(), file: Some("app.py".into()), line: Some(line) }
    }

    fn stack(lines: &[u32]) -> Arc<Stack> {
        let frames = lines.iter().map(|&line| frame("work", line)).collect();
        Arc::new(Stack { frames, status: StackStatus::ROOT })
    }

    fn sample(stack: &Arc<Stack>) -> Event {
        Event::Sample { at: AT, class: CodeClass::Interpreter, module: None, stack: Arc::clone(stack) }
    }

    fn ended() -> Event {
        Event::Ended(Ended { ktime_ns: 9, reason: EndReason::Duration, loss: Loss::default() })
    }

    /// One event of every kind.
    fn all_kinds() -> Vec<Event> {
        let stack = stack(&[3, 9]);
        let process = crate::event::Process {
            tgid: 7,
            executable: "python3.11".into(),
            command: "python3 app.py \u{1b}[31m \"x\"".into(),
            python: Some("3.11.2".into()),
            threads: 2,
        };
        vec![
            Event::Started(Started {
                ktime_ns: 1,
                unix_seconds: 2,
                processes: vec![process.clone()],
                frequency: 99,
                cpus: 2,
                observed: Observed { samples: true, calls: Some("syscall:openat".into()), ..Observed::default() },
            }),
            sample(&stack),
            Event::Wait(Wait {
                at: AT,
                blocked_ns: 1_000,
                runqueue_ns: 10,
                open: false,
                before: true,
                stopped: false,
                uninterruptible: false,
                syscall: Some("futex".into()),
                args: [u64::MAX, 9],
                gil: true,
                stack: Arc::clone(&stack),
            }),
            Event::Syscall { at: AT, name: "read".into(), stack: Arc::clone(&stack) },
            Event::Fault { at: AT, address: u64::MAX, weight: 4, stack },
            Event::Appeared { at: AT, process },
            Event::Exited { at: AT },
            Event::Syscalls {
                totals: vec![SyscallTotals {
                    name: "read".into(),
                    entered: 3,
                    finished: 2,
                    errors: 1,
                    total_ns: 40,
                    max_ns: 30,
                    log2_ns: vec![0, 2],
                }],
            },
            Event::Totals(ProcessTotals { tgid: 7, rss_growth_bytes: -4096, ..ProcessTotals::default() }),
            ended(),
        ]
    }

    fn write(events: &[Event]) -> String {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for event in events {
            writer.event(event).unwrap();
        }
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    fn read(text: &str) -> Result<Vec<Recorded>> {
        Reader::new(text.as_bytes()).collect()
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn every_event_comes_back_as_it_was() {
        let events = all_kinds();
        let back: Vec<Recorded> = read(&write(&events)).unwrap();
        assert_eq!(back, events.into_iter().map(Recorded::Event).collect::<Vec<_>>());
    }

    #[test]
    fn stacks_and_frames_are_written_once() {
        let shared = stack(&[3, 9]);
        let mut events: Vec<Event> = (0..1_000).map(|_| sample(&shared)).collect();
        // Equal content in other allocations, and a stack that shares a frame.
        events.extend((0..1_000).map(|_| sample(&stack(&[3, 9]))));
        events.push(sample(&stack(&[4, 9])));
        events.push(ended());
        let text = write(&events);
        assert_eq!(text.lines().filter(|line| line.starts_with("{\"frame\"")).count(), 3);
        assert_eq!(text.lines().filter(|line| line.starts_with("{\"stack\"")).count(), 2);
        assert_eq!(text.lines().count(), 1 + 3 + 2 + 2_002);
        assert_eq!(read(&text).unwrap().len(), 2_002);
    }

    #[test]
    fn a_stream_without_end_is_used_up_to_the_cut() {
        let whole = write(&all_kinds());
        let lines = whole.lines().count() as u64;
        // Cut within the last line, and right before it.
        let start_of_last = whole.trim_end().rfind('\n').unwrap() + 1;
        for text in [&whole[..whole.len() - 1], &whole[..whole.len() - 20], &whole[..start_of_last]] {
            let items = read(text).unwrap();
            assert_eq!(items.len(), all_kinds().len());
            assert_eq!(items.last(), Some(&Recorded::Cut { line: lines }));
        }
    }

    #[test]
    fn every_cut_is_reported_and_none_panics() {
        let whole = write(&all_kinds());
        let header = whole.find('\n').unwrap();
        for end in 0..whole.len() {
            let result = read(&whole[..end]);
            if end <= header {
                assert!(result.unwrap_err().to_string().contains("not an event stream"), "cut at {end}");
            } else {
                assert!(matches!(result.unwrap().last(), Some(Recorded::Cut { .. })), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_wrong_format_or_version_says_so() {
        assert!(error("").contains("it has no complete first line"));
        assert!(error("hello\n").contains("its first line starts with `hello`"));
        assert!(error("\u{1b}[2J\n").contains("`\\u{1b}[2J`"));
        let other = "{\"format\":\"other\",\"version\":1,\"pylow\":\"0.1.0\"}\n";
        assert!(error(other).contains("names the format `other`"));
        let newer = "{\"format\":\"pylow.events\",\"version\":2,\"pylow\":\"9.0.0\"}\n";
        let message = error(newer);
        assert!(message.contains("has version 2, this pylow reads version 1"), "{message}");
        assert!(message.contains("written by pylow 9.0.0"), "{message}");
    }

    #[test]
    fn a_corrupt_line_is_named() {
        let header = "{\"format\":\"pylow.events\",\"version\":1,\"pylow\":\"0.1.0\"}\n";
        let sample = "{\"event\":{\"kind\":\"sample\",\"at\":{\"ktime_ns\":1,\"tgid\":1,\"tid\":1,\"cpu\":0},\
                      \"class\":\"kernel\"}";
        for (line, reason) in [
            ("nonsense".to_owned(), "expected ident"),
            ("{}".to_owned(), "neither an event"),
            ("{\"event\":{\"kind\":\"unheard\"}}".to_owned(), "unknown variant"),
            ("{\"stack\":0,\"frames\":[7],\"status\":1}".to_owned(), "frame 7 was never written"),
            ("{\"stack\":4,\"frames\":[],\"status\":1}".to_owned(), "stack 4 where stack 0 comes next"),
            (format!("{sample},\"stack\":3}}"), "stack 3 was never written"),
            (format!("{sample}}}"), "needs a stack"),
            ("{\"event\":{\"kind\":\"syscalls\",\"totals\":[]},\"stack\":0}".to_owned(), "has no stack"),
            ("{\"other\":1}".to_owned(), "unknown field"),
        ] {
            let mut items = Reader::new(format!("{header}{line}\n").as_bytes()).collect::<Vec<_>>();
            assert_eq!(items.len(), 1, "{line}");
            let message = items.remove(0).unwrap_err().to_string();
            assert!(message.contains("line 2 of the event stream is corrupt"), "{message}");
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_an_error() {
        let mut bytes = write(&[]).into_bytes();
        bytes.extend(b"\xff\xfe{\x00\n");
        let items: Vec<_> = Reader::new(&bytes[..]).collect();
        assert!(items.len() == 1 && items[0].is_err());
    }

    #[test]
    fn nothing_may_follow_the_end() {
        let mut text = write(&[ended()]);
        text.push_str("{}\n");
        assert!(error(&text).contains("goes on after its `ended` event"));
    }
}
