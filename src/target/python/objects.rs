//! Where built-in objects keep their contents: one table per minor version, written as the difference from its
//! predecessor. Sizes and offsets in bytes, 64-bit builds with the GIL.
//!
//! Sources: `Include/cpython/*.h` and `Include/internal/pycore_*.h` of each version, read back from the DWARF of builds
//! of 3.6.15, 3.7.16, 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1, 3.13.0, 3.14.10 and 3.15.2.

use crate::error::{Error, Result};

/// `PyObject.ob_type`
pub const OBJECT_TYPE: u64 = 8;
/// `PyVarObject.ob_size`; also `PyDictObject.ma_used` and `PyASCIIObject.length`.
pub const OBJECT_SIZE: u64 = 16;
/// `PyASCIIObject.state`: kind in bits 2 to 4, compact in bit 5, ascii in bit 6.
pub const STRING_STATE: u64 = 32;
/// `PyBytesObject.ob_sval`
pub const BYTES_DATA: u64 = 32;
/// `PyFloatObject.ob_fval`
pub const FLOAT_VALUE: u64 = 16;
/// `PyLongObject.ob_digit`: digits of 30 bits in u32.
pub const INT_DIGITS: u64 = 24;
/// `PyListObject.ob_item`, a pointer.
pub const LIST_ITEMS: u64 = 24;
/// `PyDictObject.ma_keys`
pub const DICT_KEYS: u64 = 32;
/// `PyDictObject.ma_values`
pub const DICT_VALUES: u64 = 40;
/// `PySetObject.used`
pub const SET_USED: u64 = 24;
/// `PySetObject.mask`
pub const SET_MASK: u64 = 32;
/// `PySetObject.table`: entries of key and hash, 16 bytes; a deleted entry has the hash -1.
pub const SET_TABLE: u64 = 40;
/// `PyCellObject.ob_ref`
pub const CELL_CONTENTS: u64 = 16;
/// `PyModuleObject.md_dict`
pub const MODULE_DICT: u64 = 16;
/// `PyMethodObject.im_func`
pub const METHOD_FUNCTION: u64 = 16;
/// `PyCFunctionObject.m_ml`, a pointer to a `PyMethodDef` whose first word is `ml_name`.
pub const BUILTIN_DEFINITION: u64 = 16;
/// `PyMemberDescrObject.d_common.d_name`
pub const MEMBER_NAME: u64 = 24;
/// `PyMemberDescrObject.d_member`, a pointer to a `PyMemberDef`.
pub const MEMBER_DEFINITION: u64 = 40;
/// `PyMemberDef.type`, an int.
pub const MEMBER_DEFINITION_TYPE: u64 = 8;
/// `PyMemberDef.offset`
pub const MEMBER_DEFINITION_OFFSET: u64 = 16;
/// `T_OBJECT_EX`: the kind of member `__slots__` makes.
pub const MEMBER_OBJECT_EX: u32 = 16;

/// `PyTypeObject.tp_name`, a C string.
pub const TYPE_NAME: u64 = 24;
/// `PyTypeObject.tp_basicsize`
pub const TYPE_BASIC_SIZE: u64 = 32;
/// `PyTypeObject.tp_flags`
pub const TYPE_FLAGS: u64 = 168;
/// `PyTypeObject.tp_dict`
pub const TYPE_DICT: u64 = 264;
/// `PyTypeObject.tp_dictoffset`
pub const TYPE_DICT_OFFSET: u64 = 288;

/// `Py_TPFLAGS_INLINE_VALUES` (3.13+)
pub const FLAG_INLINE_VALUES: u64 = 1 << 2;
/// `Py_TPFLAGS_MANAGED_DICT` (3.11+)
pub const FLAG_MANAGED_DICT: u64 = 1 << 4;
/// `Py_TPFLAGS_HEAPTYPE`
pub const FLAG_HEAP_TYPE: u64 = 1 << 9;
/// `Py_TPFLAGS_LONG_SUBCLASS`
pub const FLAG_INT: u64 = 1 << 24;
/// `Py_TPFLAGS_LIST_SUBCLASS`
pub const FLAG_LIST: u64 = 1 << 25;
/// `Py_TPFLAGS_TUPLE_SUBCLASS`
pub const FLAG_TUPLE: u64 = 1 << 26;
/// `Py_TPFLAGS_BYTES_SUBCLASS`
pub const FLAG_BYTES: u64 = 1 << 27;
/// `Py_TPFLAGS_UNICODE_SUBCLASS`
pub const FLAG_STR: u64 = 1 << 28;
/// `Py_TPFLAGS_DICT_SUBCLASS`
pub const FLAG_DICT: u64 = 1 << 29;
/// `Py_TPFLAGS_TYPE_SUBCLASS`
pub const FLAG_TYPE: u64 = 1 << 31;

/// How an int says its sign and its number of digits, in the word at 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntForm {
    /// `ob_size`, negative for negative numbers (to 3.11).
    SignedSize,
    /// `lv_tag`: number of digits from bit 3 on, 1 minus the sign in the low two bits (3.12+).
    Tag,
}

/// How a `PyDictKeysObject` is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysForm {
    /// Number of slots in a word (to 3.10).
    Sized,
    /// Sizes as logarithms, and tables of str keys without hashes (3.11+).
    Log2,
}

/// Where an instance of a class keeps its attributes when its type has `Py_TPFLAGS_MANAGED_DICT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceForm {
    /// Never managed: only `tp_dictoffset` (to 3.10).
    Unmanaged,
    /// Two words before the object: values, then dict (3.11).
    TwoWords,
    /// One word before the object: values when bit 0 is set, else dict (3.12).
    TaggedWord,
    /// A dict before the object, or values after `tp_basicsize` (3.13+).
    Inline,
}

/// Where a code object keeps the names of its local variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalNames {
    /// `co_varnames`, `co_cellvars` and `co_freevars`, in the order of `f_localsplus` (to 3.10).
    Apart {
        /// `co_varnames`
        variables: u64,
        /// `co_cellvars`
        cells: u64,
        /// `co_freevars`
        free: u64,
    },
    /// `co_localsplusnames` with `co_localspluskinds` (3.11+).
    Joined {
        /// `co_localsplusnames`
        names: u64,
        /// `co_localspluskinds`, bytes: 0x40 a cell, 0x80 free.
        kinds: u64,
    },
}

/// What differs between the minor versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    /// `PyInterpreterState.modules` / `.imports.modules`: the dict `sys.modules`.
    pub interpreter_modules: u64,
    /// Where code objects keep the names of locals.
    pub local_names: LocalNames,
    /// Bits of a local variable's word that are a tag (3.14+: `_PyStackRef`); all set means a tagged int.
    pub local_tag_mask: u64,
    /// Characters of a compact str that is not ASCII; in a str that is not compact, the pointer to them.
    pub string_wide_data: u64,
    /// `PyTupleObject.ob_item`
    pub tuple_items: u64,
    /// Form of ints.
    pub int: IntForm,
    /// Form of dict keys.
    pub keys: KeysForm,
    /// First value in a `PyDictValues`.
    pub values_start: u64,
    /// Where attributes are.
    pub instance: InstanceForm,
    /// `PyHeapTypeObject.ht_cached_keys`
    pub type_cached_keys: u64,
    /// `PyFunctionObject.func_name`
    pub function_name: u64,
    /// `PyModuleObject.md_name`
    pub module_name: u64,
}

const V3_6: ObjectLayout = ObjectLayout {
    interpreter_modules: 16,
    local_names: LocalNames::Apart { variables: 64, cells: 80, free: 72 },
    local_tag_mask: 0,
    string_wide_data: 72,
    tuple_items: 24,
    int: IntForm::SignedSize,
    keys: KeysForm::Sized,
    values_start: 0,
    instance: InstanceForm::Unmanaged,
    type_cached_keys: 856,
    function_name: 64,
    module_name: 48,
};
const V3_7: ObjectLayout = ObjectLayout { interpreter_modules: 40, ..V3_6 };
const V3_8: ObjectLayout = ObjectLayout {
    interpreter_modules: 56,
    local_names: LocalNames::Apart { variables: 72, cells: 88, free: 80 },
    type_cached_keys: 872,
    ..V3_7
};
const V3_9: ObjectLayout = ObjectLayout { interpreter_modules: 856, type_cached_keys: 864, ..V3_8 };
const V3_10: ObjectLayout = ObjectLayout { type_cached_keys: 872, function_name: 32, ..V3_9 };
const V3_11: ObjectLayout = ObjectLayout {
    interpreter_modules: 888,
    local_names: LocalNames::Joined { names: 96, kinds: 104 },
    keys: KeysForm::Log2,
    instance: InstanceForm::TwoWords,
    ..V3_10
};
const V3_12: ObjectLayout = ObjectLayout {
    interpreter_modules: 944,
    string_wide_data: 56,
    int: IntForm::Tag,
    instance: InstanceForm::TaggedWord,
    type_cached_keys: 880,
    ..V3_11
};
const V3_13: ObjectLayout =
    ObjectLayout { interpreter_modules: 7656, values_start: 8, instance: InstanceForm::Inline, ..V3_12 };
const V3_14: ObjectLayout = ObjectLayout { interpreter_modules: 7688, local_tag_mask: 3, tuple_items: 32, ..V3_13 };
const V3_15: ObjectLayout = ObjectLayout { interpreter_modules: 7592, type_cached_keys: 888, module_name: 40, ..V3_14 };

impl ObjectLayout {
    /// The table of a minor version, given as `PY_VERSION_HEX >> 16`: 0x030b for 3.11.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a version without a table.
    pub fn of(minor_hex: u16) -> Result<&'static Self> {
        Ok(match minor_hex {
            0x0306 => &V3_6,
            0x0307 => &V3_7,
            0x0308 => &V3_8,
            0x0309 => &V3_9,
            0x030a => &V3_10,
            0x030b => &V3_11,
            0x030c => &V3_12,
            0x030d => &V3_13,
            0x030e => &V3_14,
            0x030f => &V3_15,
            _ => {
                let (major, minor) = (minor_hex >> 8, minor_hex & 0xff);
                return Err(Error::unsupported(format!("the objects of CPython {major}.{minor} are not known"))
                    .because("known are 3.6 to 3.15"));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_has_a_table_and_others_are_refused() {
        for minor in 6..=15 {
            assert!(ObjectLayout::of(0x0300 | minor).is_ok());
        }
        assert!(ObjectLayout::of(0x0305).is_err());
        assert!(ObjectLayout::of(0x0310).is_err());
    }
}
