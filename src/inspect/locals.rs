//! Local variables of a frame: names from the code object, values from the frame's slots.

use super::frames::{Code, RawFrame};
use super::object::Objects;
use super::reader::{Fault, Read, Reader};
use super::secret;
use super::value::{self, Shown};
use crate::target::python::layout::Layout;
use crate::target::python::objects::{self, LocalNames, ObjectLayout};

/// Variables looked at in one frame.
const MAX_VARIABLES: u64 = 1000;
/// Code points of a variable's name.
const MAX_NAME: u64 = 400;
/// `CO_FAST_CELL | CO_FAST_FREE` in `co_localspluskinds` (pycore_code.h, 3.11+).
const KIND_IN_CELL: u8 = 0x40 | 0x80;

/// One local variable of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalVariable {
    name: String,
    /// Its slot holds a cell with the value, once the function has begun.
    in_cell: bool,
}

/// One local variable of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalValue {
    /// Its name.
    pub name: String,
    /// Name of the value's type; `?` when it can't be told.
    pub type_name: String,
    /// Short safe representation, `***` for a secret, or `<unreadable>`, `<moving>`.
    pub value: String,
}

/// The local variables of the code object at `code`, in the order of a frame's slots.
pub(super) fn variables(objects: &mut Objects<'_>, code: u64) -> Read<Vec<LocalVariable>> {
    let mut found = Vec::new();
    match objects.layout.local_names {
        LocalNames::Apart { variables, cells, free } => {
            for (offset, in_cell) in [(variables, false), (cells, true), (free, true)] {
                let names = objects.reader().pointer(code + offset)?;
                for name in objects.tuple(names, MAX_VARIABLES)? {
                    found.push(LocalVariable { name: objects.name(name, MAX_NAME)?, in_cell });
                }
            }
        }
        LocalNames::Joined { names, kinds } => {
            let names = objects.reader().pointer(code + names)?;
            let kinds = objects.reader().pointer(code + kinds)?;
            let names = objects.tuple(names, MAX_VARIABLES)?;
            let kinds = objects.byte_string(kinds, MAX_VARIABLES)?;
            if names.len() != kinds.len() {
                return Err(Fault::Unreadable);
            }
            for (name, kind) in names.into_iter().zip(kinds) {
                found.push(LocalVariable { name: objects.name(name, MAX_NAME)?, in_cell: kind & KIND_IN_CELL != 0 });
            }
        }
    }
    Ok(found)
}

/// The variables of `frame` that are set. Each value is read by itself until two readings agree; that the frame still
/// exists is for the caller to check.
pub(super) fn values(
    reader: &mut Reader,
    layout: &Layout,
    objects: &'static ObjectLayout,
    frame: &RawFrame,
    code: &Code,
) -> Vec<LocalValue> {
    let slots = frame.address + u64::from(layout.offsets.frame_locals);
    let code_word = frame.address + u64::from(layout.offsets.frame_code);
    let tag = u64::from(layout.offsets.code_tag_mask);
    let mut found = Vec::new();
    for (index, variable) in code.variables.iter().enumerate() {
        let masked = secret::is_secret(&variable.name);
        let shown = value::show(reader, layout, objects, masked, |objects| {
            if objects.reader().pointer(code_word)? & !tag != frame.code {
                return Err(Fault::Unreadable);
            }
            slot(objects, slots + 8 * index as u64, variable.in_cell)
        });
        if let Some(Shown { type_name, value }) = shown {
            found.push(LocalValue { name: variable.name.clone(), type_name, value });
        }
    }
    found
}

/// Address of the object in a slot, if it is set.
fn slot(objects: &mut Objects<'_>, at: u64, in_cell: bool) -> Read<Option<u64>> {
    let word = objects.reader().u64(at)?;
    let tag = objects.layout.local_tag_mask;
    // A tagged int is the interpreter's own, never the value of a variable.
    if tag != 0 && word & tag == tag {
        return Ok(None);
    }
    let mut object = word & !tag;
    if object != 0 && in_cell && objects.type_of(object)?.name == "cell" {
        object = objects.reader().pointer(object + objects::CELL_CONTENTS)?;
    }
    Ok((object != 0).then_some(object))
}
