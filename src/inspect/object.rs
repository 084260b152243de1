//! Built-in objects read from outside: types, strings, numbers, containers and instance attributes. Nothing of the
//! target is called: no descriptor, no property, no `__repr__`.

use std::collections::HashMap;

use super::reader::{ADDRESS_END, Fault, Read, Reader, word};
use crate::target::python::layout::{Layout, Offsets};
use crate::target::python::objects::{self, InstanceForm, IntForm, KeysForm, ObjectLayout};

/// More entries of a dict than this are not looked at when a name is searched.
const MAX_ENTRIES: u64 = 1 << 16;
/// Entries of a set's table looked at to find its first elements.
const MAX_SET_SLOTS: u64 = 1 << 12;
/// Entries of a class dict looked at for `__slots__`.
const MAX_CLASS_ENTRIES: u64 = 64;
/// No type has instances of this size: what says so is not a type.
const MAX_BASIC_SIZE: u64 = 1 << 24;
/// A type name, also one that C code spelled with its module, is shorter.
const MAX_TYPE_NAME: usize = 256;

/// What is needed of an object's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    /// Address of the type object.
    pub(super) address: u64,
    /// Last part of `tp_name`.
    pub(super) name: String,
    /// `tp_flags`
    pub(super) flags: u64,
    basic_size: u64,
    dict_offset: i64,
}

impl Type {
    /// The type has the flag.
    pub(super) fn is(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// Units of a str that were read, and how many it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// The first ones; a lone surrogate is U+FFFD.
    pub(super) text: String,
    /// Code points of the whole.
    pub(super) length: u64,
}

/// An int: sign and magnitude, least significant digit of 30 bits first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Int {
    /// Below zero.
    pub(super) negative: bool,
    /// Digits of 30 bits.
    pub(super) digits: Vec<u32>,
    /// How many bits the magnitude has, also when `digits` has only the lower ones of a huge int.
    pub(super) bits: u64,
}

/// Reads objects of one interpreter through a [`Reader`].
#[derive(Debug)]
pub(super) struct Objects<'a> {
    /// Layout of this version.
    pub(super) layout: &'static ObjectLayout,
    offsets: &'a Offsets,
    reader: &'a mut Reader,
    types: HashMap<u64, Type>,
}

impl<'a> Objects<'a> {
    /// Objects of the interpreter `layout` describes. Types are remembered as long as this lives: one reading.
    pub(super) fn new(layout: &'a Layout, objects: &'static ObjectLayout, reader: &'a mut Reader) -> Self {
        Self { layout: objects, offsets: &layout.offsets, reader, types: HashMap::new() }
    }

    /// The memory below.
    pub(super) fn reader(&mut self) -> &mut Reader {
        self.reader
    }

    /// The type of the object at `address`, when there is an object: pointers are aligned, the type's type is a
    /// metaclass, the name is one.
    pub(super) fn type_of(&mut self, address: u64) -> Read<Type> {
        if !is_object(address) {
            return Err(Fault::Unreadable);
        }
        let at = self.reader.pointer(address + objects::OBJECT_TYPE)?;
        self.type_at(at)
    }

    /// The type object at `at`.
    pub(super) fn type_at(&mut self, at: u64) -> Read<Type> {
        if let Some(known) = self.types.get(&at) {
            return Ok(known.clone());
        }
        if !at.is_multiple_of(8) {
            return Err(Fault::Unreadable);
        }
        let meta = self.reader.pointer(at + objects::OBJECT_TYPE)?;
        if !meta.is_multiple_of(8) || self.reader.u64(meta + objects::TYPE_FLAGS)? & objects::FLAG_TYPE == 0 {
            return Err(Fault::Unreadable);
        }
        let name_at = self.reader.pointer(at + objects::TYPE_NAME)?;
        let name = self.reader.c_string(name_at, MAX_TYPE_NAME)?;
        if !is_type_name(&name) {
            return Err(Fault::Unreadable);
        }
        let basic_size = self.reader.u64(at + objects::TYPE_BASIC_SIZE)?;
        let dict_offset = self.reader.u64(at + objects::TYPE_DICT_OFFSET)? as i64;
        if basic_size > MAX_BASIC_SIZE || dict_offset.unsigned_abs() > MAX_BASIC_SIZE {
            return Err(Fault::Unreadable);
        }
        let found = Type {
            address: at,
            name: name.rsplit('.').next().unwrap_or(&name).to_owned(),
            flags: self.reader.u64(at + objects::TYPE_FLAGS)?,
            basic_size,
            dict_offset,
        };
        self.types.insert(at, found.clone());
        Ok(found)
    }

    /// `ob_size`; for a dict the number of items, for a str its length.
    pub(super) fn size(&mut self, address: u64) -> Read<u64> {
        self.reader.u64(address + objects::OBJECT_SIZE)
    }

    /// The first `limit` code points of a str.
    pub(super) fn text(&mut self, address: u64, limit: u64) -> Read<Text> {
        let length = self.size(address)?;
        let state = self.reader.u32(address + objects::STRING_STATE)?;
        let (kind, compact, ascii) = (state >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
        let wide = address + self.layout.string_wide_data;
        let data = match (compact, ascii) {
            (true, true) => address + u64::from(self.offsets.string_data),
            (true, false) => wide,
            (false, _) => self.reader.pointer(wide)?,
        };
        if !matches!(kind, 1 | 2 | 4) || length >> 48 != 0 {
            return Err(Fault::Unreadable);
        }
        let bytes = self.reader.bytes(data, length.min(limit) as usize * kind as usize)?;
        let code = |unit: &[u8]| char::from_u32(word(unit) as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
        Ok(Text { text: bytes.chunks_exact(kind as usize).map(code).collect(), length })
    }

    /// A str that is a name: whole, and not longer than `limit`.
    pub(super) fn name(&mut self, address: u64, limit: u64) -> Read<String> {
        if !self.type_of(address)?.is(objects::FLAG_STR) {
            return Err(Fault::Unreadable);
        }
        let text = self.text(address, limit)?;
        if text.length > limit { Err(Fault::Unreadable) } else { Ok(text.text) }
    }

    /// A str to be shown: its first `limit` code points, and an ellipsis for the others.
    pub(super) fn label(&mut self, address: u64, limit: u64) -> Read<String> {
        if !self.type_of(address)?.is(objects::FLAG_STR) {
            return Err(Fault::Unreadable);
        }
        let text = self.text(address, limit)?;
        Ok(if text.length > limit { text.text + "…" } else { text.text })
    }

    /// The first `limit` bytes of a bytes object.
    pub(super) fn byte_string(&mut self, address: u64, limit: u64) -> Read<Vec<u8>> {
        let length = self.size(address)?.min(limit);
        self.reader.bytes(address + objects::BYTES_DATA, length as usize)
    }

    /// An int (or bool), of at most `limit` digits read.
    pub(super) fn int(&mut self, address: u64, limit: u64) -> Read<Int> {
        let head = self.size(address)?;
        let (negative, count) = match self.layout.int {
            IntForm::SignedSize => ((head as i64) < 0, (head as i64).unsigned_abs()),
            IntForm::Tag => (head & 3 == 2, head >> 3),
        };
        if count >> 48 != 0 {
            return Err(Fault::Unreadable);
        }
        let first = address + objects::INT_DIGITS;
        let bytes = self.reader.bytes(first, count.min(limit) as usize * 4)?;
        let digits: Vec<u32> = bytes.chunks_exact(4).map(|digit| word(digit) as u32).collect();
        if digits.iter().any(|digit| digit >> 30 != 0) {
            return Err(Fault::Unreadable);
        }
        let bits = match count {
            0 => 0,
            _ => (count - 1) * 30 + u64::from(32 - self.reader.u32(first + (count - 1) * 4)?.leading_zeros()),
        };
        Ok(Int { negative, digits, bits })
    }

    /// An int that fits.
    pub(super) fn small_int(&mut self, address: u64) -> Read<u64> {
        if !self.type_of(address)?.is(objects::FLAG_INT) {
            return Err(Fault::Unreadable);
        }
        let int = self.int(address, 3)?;
        if int.negative || int.bits > 64 {
            return Err(Fault::Unreadable);
        }
        Ok(int.digits.iter().rev().fold(0, |value, &digit| value << 30 | u64::from(digit)))
    }

    /// A float.
    pub(super) fn float(&mut self, address: u64) -> Read<f64> {
        self.reader.f64(address + objects::FLOAT_VALUE)
    }

    /// The first `limit` items of a tuple.
    pub(super) fn tuple(&mut self, address: u64, limit: u64) -> Read<Vec<u64>> {
        let count = self.size(address)?.min(limit);
        self.reader.words(address + self.layout.tuple_items, count as usize)
    }

    /// The first `limit` items of a list.
    pub(super) fn list(&mut self, address: u64, limit: u64) -> Read<Vec<u64>> {
        let count = self.size(address)?.min(limit);
        if count == 0 {
            return Ok(Vec::new());
        }
        let items = self.reader.pointer(address + objects::LIST_ITEMS)?;
        self.reader.words(items, count as usize)
    }

    /// The first `limit` items of a dict, keys and values.
    pub(super) fn dict(&mut self, address: u64, limit: u64) -> Read<Vec<(u64, u64)>> {
        let keys = self.reader.pointer(address + objects::DICT_KEYS)?;
        let values = self.reader.pointer(address + objects::DICT_VALUES)?;
        self.items(keys, values, limit)
    }

    /// The first `limit` items of a keys table; with `values` (not 0) the values are there.
    fn items(&mut self, keys: u64, values: u64, limit: u64) -> Read<Vec<(u64, u64)>> {
        let (entries, count, entry_size, key_at) = match self.layout.keys {
            KeysForm::Sized => {
                let slots = self.reader.u64(keys + 8)?;
                let index_bytes = match slots {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => 8,
                };
                if slots >> 40 != 0 {
                    return Err(Fault::Unreadable);
                }
                (keys + 40 + slots * index_bytes, self.reader.u64(keys + 32)?, 24, 8)
            }
            KeysForm::Log2 => {
                let index_log2 = self.reader.u8(keys + 9)?;
                let general = self.reader.u8(keys + 10)? == 0;
                if index_log2 > 44 {
                    return Err(Fault::Unreadable);
                }
                let (entry_size, key_at) = if general { (24, 8) } else { (16, 0) };
                (keys + 32 + (1 << index_log2), self.reader.u64(keys + 24)?, entry_size, key_at)
            }
        };
        let mut found = Vec::new();
        // Deleted entries leave gaps, so that more than `limit` entries are read: in steps, for a big table is rarely
        // wanted as a whole.
        let mut index = 0;
        while index < count.min(MAX_ENTRIES) && (found.len() as u64) < limit {
            let step = (count - index).min(limit.clamp(8, 2048));
            let bytes = self.reader.bytes(entries + index * entry_size, (step * entry_size) as usize)?;
            let apart = match values {
                0 => None,
                at => Some(self.reader.words(at + self.layout.values_start + index * 8, step as usize)?),
            };
            for (i, entry) in bytes.chunks_exact(entry_size as usize).enumerate() {
                let key = word(&entry[key_at..]);
                let value = apart.as_ref().map_or_else(|| word(&entry[key_at + 8..]), |values| values[i]);
                if key == 0 || value == 0 || found.len() as u64 >= limit {
                    continue;
                }
                if !is_object(key) || !is_object(value) {
                    return Err(Fault::Unreadable);
                }
                found.push((key, value));
            }
            index += step;
        }
        Ok(found)
    }

    /// The value of the str key `name` of a dict.
    pub(super) fn lookup(&mut self, dict: u64, name: &str) -> Read<Option<u64>> {
        for (key, value) in self.dict(dict, MAX_ENTRIES)? {
            if self.size(key)? == name.len() as u64
                && self.name(key, name.len() as u64).is_ok_and(|found| found == name)
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The first `limit` elements of a set.
    pub(super) fn set(&mut self, address: u64, limit: usize) -> Read<Vec<u64>> {
        let slots = self.reader.u64(address + objects::SET_MASK)?.saturating_add(1).min(MAX_SET_SLOTS);
        let table = self.reader.pointer(address + objects::SET_TABLE)?;
        let mut found = Vec::new();
        let mut slot = 0;
        while slot < slots && found.len() < limit {
            let step = (slots - slot).min(64);
            let bytes = self.reader.bytes(table + slot * 16, step as usize * 16)?;
            let taken = bytes.chunks_exact(16).filter(|entry| word(entry) != 0 && word(&entry[8..]) != u64::MAX);
            found.extend(taken.map(word));
            slot += step;
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The first `limit` attributes an instance keeps itself: those of its dict, then its `__slots__`.
    pub(super) fn attributes(&mut self, address: u64, limit: u64) -> Read<Vec<(String, u64)>> {
        let class = self.type_of(address)?;
        let mut found = Vec::new();
        for (key, value) in self.instance_items(address, &class, limit)? {
            found.push((self.name(key, 200)?, value));
        }
        if (found.len() as u64) < limit && class.is(objects::FLAG_HEAP_TYPE) {
            self.slots(address, &class, limit, &mut found)?;
        }
        Ok(found)
    }

    /// The attribute `name` in the dict of an instance.
    pub(super) fn attribute(&mut self, address: u64, name: &str) -> Read<Option<u64>> {
        let class = self.type_of(address)?;
        for (key, value) in self.instance_items(address, &class, MAX_CLASS_ENTRIES)? {
            if self.name(key, 200).is_ok_and(|found| found == name) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn instance_items(&mut self, address: u64, class: &Type, limit: u64) -> Read<Vec<(u64, u64)>> {
        let form = self.layout.instance;
        if form == InstanceForm::Unmanaged || !class.is(objects::FLAG_MANAGED_DICT) {
            // Below zero it counts from the end of an object of variable size: such instances are shown without.
            return match class.dict_offset {
                at @ 1.. => self.dict_at(address + at as u64, limit),
                _ => Ok(Vec::new()),
            };
        }
        let keys_at = class.address + self.layout.type_cached_keys;
        let values = match form {
            InstanceForm::Unmanaged => 0,
            InstanceForm::TwoWords => match self.reader.pointer(address - 24)? {
                0 => self.reader.pointer(address - 32)?,
                _ => 0,
            },
            InstanceForm::TaggedWord => match self.reader.pointer(address - 24)? {
                tagged if tagged & 1 == 1 => tagged + 1,
                _ => 0,
            },
            InstanceForm::Inline => {
                let inline = address + class.basic_size;
                let valid = self.reader.pointer(address - 24)? == 0
                    && class.is(objects::FLAG_INLINE_VALUES)
                    && self.reader.u8(inline + 3)? == 1;
                if valid { inline } else { 0 }
            }
        };
        if values == 0 {
            return self.dict_at(address - 24, limit);
        }
        let keys = self.reader.pointer(keys_at)?;
        self.items(keys, values, limit)
    }

    fn dict_at(&mut self, pointer: u64, limit: u64) -> Read<Vec<(u64, u64)>> {
        match self.reader.pointer(pointer)? {
            0 => Ok(Vec::new()),
            dict => self.dict(dict, limit),
        }
    }

    fn slots(&mut self, address: u64, class: &Type, limit: u64, found: &mut Vec<(String, u64)>) -> Read<()> {
        let class_dict = self.reader.pointer(class.address + objects::TYPE_DICT)?;
        for (key, member) in self.dict(class_dict, MAX_CLASS_ENTRIES)? {
            if found.len() as u64 >= limit {
                break;
            }
            if self.type_of(member)?.name != "member_descriptor" {
                continue;
            }
            let definition = self.reader.pointer(member + objects::MEMBER_DEFINITION)?;
            let kind = self.reader.u32(definition + objects::MEMBER_DEFINITION_TYPE)?;
            let at = self.reader.u64(definition + objects::MEMBER_DEFINITION_OFFSET)?;
            if kind != objects::MEMBER_OBJECT_EX || at >= class.basic_size {
                continue;
            }
            let value = self.reader.u64(address + at)?;
            if value != 0 {
                found.push((self.name(key, 200)?, value));
            }
        }
        Ok(())
    }

    /// `__name__` of a Python function.
    pub(super) fn function_name(&mut self, address: u64) -> Read<String> {
        let name = self.reader.pointer(address + self.layout.function_name)?;
        self.name(name, 200)
    }

    /// `__name__` of a module.
    pub(super) fn module_name(&mut self, address: u64) -> Read<String> {
        let name = self.reader.pointer(address + self.layout.module_name)?;
        self.name(name, 200)
    }

    /// Name of a built-in function.
    pub(super) fn builtin_name(&mut self, address: u64) -> Read<String> {
        let definition = self.reader.pointer(address + objects::BUILTIN_DEFINITION)?;
        let name = self.reader.pointer(definition)?;
        self.reader.c_string(name, 200)
    }
}

/// The address can be that of an object.
fn is_object(address: u64) -> bool {
    address.is_multiple_of(8) && address < ADDRESS_END
}

/// What `tp_name` can hold: names, dots, and what generic or local classes add.
fn is_type_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '<' | '>' | '-'))
}
