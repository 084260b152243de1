//! Python frames of a thread state, and the code objects they execute.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::locals::{self, LocalVariable};
use super::object::Objects;
use super::reader::{Fault, Read, Reader};
use crate::event::{Frame, FrameKind};
use crate::target::python::layout::{FrameEntry, Layout, Offsets};
use crate::target::python::objects::ObjectLayout;

/// Frames kept of one thread, leaf side.
pub(super) const MAX_FRAMES: usize = 4096;
/// Code points kept of a file or function name.
const MAX_NAME: u64 = 4096;
/// Reads one code object may cost; names of locals are most of it.
const CODE_READS: usize = 8192;

/// A frame as the interpreter links it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawFrame {
    /// Address of the frame.
    pub(super) address: u64,
    /// Address of its code object.
    pub(super) code: u64,
    /// Last instruction, as the interpreter stores it; bytes from the first instruction where it stores a pointer.
    pub(super) lasti: i32,
    /// Whether C code called it.
    pub(super) entry: FrameEntry,
}

impl RawFrame {
    /// The same call of the same function, perhaps at another instruction.
    pub(super) fn is_same_call(&self, other: &Self) -> bool {
        self.address == other.address && self.code == other.code
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalkEnd {
    /// At the outermost frame.
    Root,
    /// At [`MAX_FRAMES`].
    Limit,
    /// At memory that is not readable.
    Unreadable,
    /// At a frame that was already met.
    Cycle,
}

/// Frames of a thread state, leaf first, with how far they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Leaf first.
    pub(super) frames: Vec<RawFrame>,
    /// Why there are no more.
    pub(super) end: WalkEnd,
}

impl Walk {
    /// The same calls, ended alike.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let alike = self.end == other.end && self.frames.len() == other.frames.len();
        alike && std::iter::zip(&self.frames, &other.frames).all(|(one, other)| one.is_same_call(other))
    }
}

/// Follows the frames of `thread_state`, once, through memory as it is now.
pub(super) fn walk(reader: &mut Reader, offsets: &Offsets, thread_state: u64) -> Walk {
    reader.restart(MAX_FRAMES * 8);
    let mut walk = Walk { frames: Vec::new(), end: WalkEnd::Root };
    let mut met = HashSet::new();
    let mut at = match leaf(reader, offsets, thread_state) {
        Ok(address) => address,
        Err(_) => return Walk { end: WalkEnd::Unreadable, ..walk },
    };
    while at != 0 {
        if walk.frames.len() == MAX_FRAMES {
            walk.end = WalkEnd::Limit;
            break;
        }
        if !met.insert(at) {
            walk.end = WalkEnd::Cycle;
            break;
        }
        match step(reader, offsets, at) {
            Ok((step, previous)) => {
                match (step, walk.frames.last_mut()) {
                    (Step::Frame(frame), _) => walk.frames.push(frame),
                    (Step::Shim, Some(entered)) if entered.entry == FrameEntry::Unmarked => {
                        entered.entry = FrameEntry::Shim(at);
                    }
                    // Nothing was called from it yet, or it is the one at the root of each thread (3.15).
                    (Step::Shim, _) => {}
                }
                at = previous;
            }
            Err(_) => {
                walk.end = WalkEnd::Unreadable;
                break;
            }
        }
    }
    walk
}

fn leaf(reader: &mut Reader, offsets: &Offsets, thread_state: u64) -> Read<u64> {
    let frame = reader.pointer(thread_state + u64::from(offsets.thread_frame))?;
    match offsets.cframe_frame {
        Some(offset) => reader.pointer(frame + u64::from(offset)),
        None => Ok(frame),
    }
}

/// What the interpreter links.
enum Step {
    Frame(RawFrame),
    /// Its own entry frame, which runs no code.
    Shim,
}

/// What is at `at`, and the address of the next.
fn step(reader: &mut Reader, offsets: &Offsets, at: u64) -> Read<(Step, u64)> {
    if !at.is_multiple_of(8) {
        return Err(Fault::Unreadable);
    }
    if offsets.frames_are_objects() && !is_alive(reader.u64(at)?) {
        return Err(Fault::Unreadable);
    }
    let previous = reader.pointer(at + u64::from(offsets.frame_previous))?;
    let owner = match offsets.frame_owner {
        0 => 0,
        offset => reader.u8(at + u64::from(offset))?,
    };
    if offsets.shim_owner.is_some_and(|shim| u16::from(owner) >= shim) {
        return Ok((Step::Shim, previous));
    }
    let entry = if offsets.entry_flag && owner != 0 { FrameEntry::Flag } else { FrameEntry::Unmarked };
    let code = reader.pointer(at + u64::from(offsets.frame_code))? & !u64::from(offsets.code_tag_mask);
    let stored = at + u64::from(offsets.frame_lasti);
    let lasti = if offsets.lasti_is_pointer {
        let first = code + u64::from(offsets.code_bytecode);
        reader.pointer(stored)?.wrapping_sub(first) as i32
    } else {
        reader.u32(stored)? as i32
    };
    Ok((Step::Frame(RawFrame { address: at, code, lasti, entry }), previous))
}

/// `ob_refcnt` of an object that exists. Up to 3.10 a frame is one of its own: an ended frame keeps its code object and
/// links to other ended frames by `f_back` (the free list of Objects/frameobject.c), down to NULL as a stack does, but its
/// count is 0, or the allocator's pointer.
fn is_alive(count: u64) -> bool {
    (1..1 << 32).contains(&count)
}

/// What a frame needs of its code object.
#[derive(Debug)]
pub(super) struct Code {
    function: Arc<str>,
    file: Arc<str>,
    first_line: i32,
    lines: Vec<u8>,
    /// Names of local variables, in the order of the frame's slots; empty when not asked for.
    pub(super) variables: Vec<LocalVariable>,
}

/// Code objects read so far. An address may be used again for another code object: what tells them apart is part of
/// the key.
#[derive(Debug, Default)]
pub(super) struct Codes {
    known: HashMap<(u64, Identity), Arc<Code>>,
}

/// What a code object is made of: first line, and the addresses of file, name and line table.
type Identity = [u64; 4];

impl Codes {
    /// The code objects of `frames`, in their order; none where there is no code object. With local variables when
    /// `locals`.
    pub(super) fn of(
        &mut self,
        reader: &mut Reader,
        layout: &Layout,
        objects: &'static ObjectLayout,
        frames: &[RawFrame],
        locals: bool,
    ) -> Vec<Option<Arc<Code>>> {
        let mut addresses: Vec<u64> = frames.iter().map(|frame| frame.code).collect();
        addresses.sort_unstable();
        addresses.dedup();
        // All at once, which is one check for many; what was not met before is then read by itself.
        let identities = reader.stable(CODE_READS + 4 * addresses.len(), |reader| {
            Ok(addresses.iter().map(|&address| identity(reader, &layout.offsets, address).ok()).collect::<Vec<_>>())
        });
        let identities = identities.value().unwrap_or_else(|| vec![None; addresses.len()]);
        let found: HashMap<u64, Option<Arc<Code>>> = std::iter::zip(addresses, identities)
            .map(|(address, identity)| {
                let known = identity.and_then(|identity| self.known.get(&(address, identity)).map(Arc::clone));
                (address, known.or_else(|| self.read(reader, layout, objects, address, locals)))
            })
            .collect();
        frames.iter().map(|frame| found.get(&frame.code).cloned().flatten()).collect()
    }

    fn read(
        &mut self,
        reader: &mut Reader,
        layout: &Layout,
        objects: &'static ObjectLayout,
        address: u64,
        locals: bool,
    ) -> Option<Arc<Code>> {
        let read = reader.stable(CODE_READS, |reader| {
            let identity = identity(reader, &layout.offsets, address)?;
            Ok((identity, read(&mut Objects::new(layout, objects, reader), identity, address, locals)?))
        });
        let (identity, code) = read.value()?;
        let code = Arc::new(code);
        self.known.insert((address, identity), Arc::clone(&code));
        Some(code)
    }
}

fn identity(reader: &mut Reader, offsets: &Offsets, address: u64) -> Read<Identity> {
    if address == 0 || !address.is_multiple_of(8) {
        return Err(Fault::Unreadable);
    }
    Ok([
        u64::from(reader.u32(address + u64::from(offsets.code_first_line))?),
        reader.pointer(address + u64::from(offsets.code_file))?,
        reader.pointer(address + u64::from(offsets.code_name))?,
        reader.pointer(address + u64::from(offsets.code_lines))?,
    ])
}

fn read(
    objects: &mut Objects<'_>,
    [first_line, file, name, lines]: Identity,
    address: u64,
    locals: bool,
) -> Read<Code> {
    if objects.type_of(address)?.name != "code" {
        return Err(Fault::Unreadable);
    }
    Ok(Code {
        function: objects.label(name, MAX_NAME)?.into(),
        file: objects.label(file, MAX_NAME)?.into(),
        first_line: first_line as i32,
        lines: objects.byte_string(lines, u64::from(u32::MAX))?,
        variables: if locals { locals::variables(objects, address)? } else { Vec::new() },
    })
}

impl Code {
    /// The interpreter's own trampoline for `__init__` of a specialised class call (3.12+): no function of the program.
    pub(super) fn is_trampoline(&self) -> bool {
        &*self.file == "__init__"
    }

    /// The frame at instruction `lasti`.
    pub(super) fn frame(&self, layout: &Layout, lasti: i32) -> Frame {
        Frame {
            kind: FrameKind::Python,
            function: Arc::clone(&self.function),
            file: Some(Arc::clone(&self.file)),
            line: layout.line(&self.lines, self.first_line, lasti as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_frame_is_not_alive() {
        assert!(is_alive(1) && is_alive(3));
        assert!(!is_alive(0), "in the free list");
        assert!(!is_alive(0x7f12_3456_7890), "in a freed block");
    }
}
