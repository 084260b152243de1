//! Offsets of the interpreter's structs, one `const` per minor version, written as the difference from the version
//! before: a reader sees what CPython changed.
//!
//! Taken from the DWARF of x86_64 builds (gdb) of 3.6.15, 3.7.16, 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1, 3.13.0 and
//! Debian's 3.14.10 and 3.15.2; the headers named are where the change can be read. The structs are the same for every
//! patch level and machine of one minor version. What lies in `_PyRuntime` is not (locks differ in size), so those
//! values are hints: see [`super::machine_code`] for how the running build is asked instead.

use super::layout::Offsets;

/// One minor version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The structs.
    pub(super) offsets: Offsets,
    /// Where `_PyRuntime` keeps what, on x86_64 at the patch level named above.
    pub(super) runtime: Runtime,
}

/// Offsets in `_PyRuntime`; None where this version keeps it elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runtime {
    /// `interpreters.head`
    pub(super) interpreters_head: Option<u32>,
    /// `gilstate.tstate_current`
    pub(super) current_thread_state: Option<u32>,
    /// `_key` of `gilstate.autoTSSkey`, from 3.12 of `autoTSSkey`
    pub(super) tss_key: Option<u32>,
    /// `ceval.gil`
    pub(super) gil: Option<u32>,
    /// `gc.collecting`
    pub(super) gc_collecting: Option<u32>,
}

/// Include/pystate.h, Include/frameobject.h, Include/code.h, Python/ceval_gil.h (v3.6). Runtime state is in static
/// variables; the GIL has no struct, and the thread state that holds it is `_PyThreadState_Current`.
const V3_6: Known = Known {
    offsets: Offsets {
        interpreter_next: 0,
        interpreter_threads: 8,
        interpreter_gil: 0,
        interpreter_gc_collecting: 0,
        thread_next: 8,
        thread_interpreter: 16,
        thread_id: 152,
        thread_native_id: 0,
        thread_frame: 24,
        cframe_frame: None,
        frame_code: 32,
        frame_previous: 24,
        frame_lasti: 120,
        lasti_is_pointer: false,
        frame_owner: 0,
        shim_owner: None,
        entry_flag: false,
        frame_locals: 376,
        code_tag_mask: 0,
        code_first_line: 36,
        code_file: 96,
        code_name: 104,
        code_lines: 112,
        code_bytecode: 0,
        string_data: 48,
        gil_locked: 0,
        gil_holder: 0,
    },
    runtime: Runtime {
        interpreters_head: None,
        current_thread_state: None,
        tss_key: None,
        gil: None,
        gc_collecting: None,
    },
};

/// Include/internal/pystate.h (v3.7): `_PyRuntime`. Include/pystate.h: the exception state grew. Include/frameobject.h:
/// `f_exc_*` are gone.
const V3_7: Known = Known {
    offsets: Offsets {
        thread_id: 176,
        frame_lasti: 104,
        frame_locals: 360,
        gil_locked: 16,
        gil_holder: 8,
        ..V3_6.offsets
    },
    runtime: Runtime {
        interpreters_head: Some(24),
        current_thread_state: Some(1480),
        tss_key: Some(1508),
        gil: Some(1264),
        gc_collecting: Some(632),
    },
};

/// Include/code.h (v3.8): `co_posonlyargcount`. Include/internal/pycore_pymem.h: `PyGC_Head` lost a word.
const V3_8: Known = Known {
    offsets: Offsets { code_first_line: 40, code_file: 104, code_name: 112, code_lines: 120, ..V3_7.offsets },
    runtime: Runtime {
        interpreters_head: Some(32),
        current_thread_state: Some(1368),
        tss_key: Some(1396),
        gil: Some(1152),
        gc_collecting: Some(544),
    },
};

/// Include/internal/pycore_interp.h (v3.9): the collector belongs to the interpreter.
const V3_9: Known = Known {
    offsets: Offsets { interpreter_gc_collecting: 816, ..V3_8.offsets },
    runtime: Runtime {
        interpreters_head: Some(32),
        current_thread_state: Some(568),
        tss_key: Some(588),
        gil: Some(352),
        gc_collecting: None,
    },
};

/// Include/cpython/frameobject.h (v3.10): `f_stackdepth` replaces `f_stacktop`; `f_lasti` counts code units.
const V3_10: Known = Known { offsets: Offsets { frame_lasti: 96, frame_locals: 352, ..V3_9.offsets }, ..V3_9 };

/// Include/internal/pycore_frame.h (v3.11): `_PyInterpreterFrame`, reached through `_PyCFrame`; `prev_instr` points into
/// the bytecode, which follows the code object; `co_qualname`.
const V3_11: Known = Known {
    offsets: Offsets {
        interpreter_threads: 16,
        interpreter_gc_collecting: 848,
        thread_id: 152,
        thread_native_id: 160,
        thread_frame: 56,
        cframe_frame: Some(8),
        frame_code: 32,
        frame_previous: 48,
        frame_lasti: 56,
        lasti_is_pointer: true,
        frame_owner: 68,
        entry_flag: true,
        frame_locals: 72,
        code_first_line: 72,
        code_file: 112,
        code_name: 128,
        code_lines: 136,
        code_bytecode: 184,
        ..V3_10.offsets
    },
    runtime: Runtime {
        interpreters_head: Some(40),
        current_thread_state: Some(576),
        tss_key: Some(596),
        gil: Some(360),
        gc_collecting: None,
    },
};

/// Include/internal/pycore_frame.h (v3.12): the code moves to the front, `owner` marks C entry frames (3 =
/// FRAME_OWNED_BY_CSTACK). Include/internal/pycore_interp.h: a GIL per interpreter. Python/pystate.c: the current thread
/// state is a thread-local variable. Include/cpython/unicodeobject.h: `wstr` is gone.
const V3_12: Known = Known {
    offsets: Offsets {
        interpreter_threads: 72,
        interpreter_gil: 384,
        interpreter_gc_collecting: 312,
        thread_id: 136,
        thread_native_id: 144,
        cframe_frame: Some(0),
        frame_code: 0,
        frame_previous: 8,
        frame_owner: 70,
        shim_owner: Some(3),
        entry_flag: false,
        code_first_line: 68,
        code_bytecode: 192,
        string_data: 40,
        ..V3_11.offsets
    },
    runtime: Runtime {
        interpreters_head: Some(40),
        current_thread_state: None,
        tss_key: Some(1548),
        gil: None,
        gc_collecting: None,
    },
};

/// Include/internal/pycore_runtime.h (v3.13): `_Py_DebugOffsets`, which is believed over these. Include/cpython/pystate.h:
/// `current_frame`, no `_PyCFrame`. Include/internal/pycore_interp.h: `ceval` first.
const V3_13: Known = Known {
    offsets: Offsets {
        interpreter_next: 7264,
        interpreter_threads: 7344,
        interpreter_gil: 16,
        interpreter_gc_collecting: 7600,
        thread_id: 152,
        thread_native_id: 160,
        thread_frame: 72,
        cframe_frame: None,
        code_bytecode: 200,
        ..V3_12.offsets
    },
    runtime: Runtime { interpreters_head: Some(632), tss_key: Some(2164), ..V3_12.runtime },
};

/// Include/internal/pycore_interpframe_structs.h (v3.14): `f_executable` is a tagged `_PyStackRef`; 3 =
/// FRAME_OWNED_BY_INTERPRETER, 4 = FRAME_OWNED_BY_CSTACK.
const V3_14: Known = Known {
    offsets: Offsets {
        interpreter_next: 7272,
        frame_owner: 74,
        frame_locals: 80,
        code_tag_mask: 7,
        code_bytecode: 208,
        ..V3_13.offsets
    },
    runtime: Runtime { interpreters_head: Some(808), tss_key: Some(2340), ..V3_13.runtime },
};

/// Include/cpython/pystate.h (v3.15): `base_frame` and friends. Python/pystate.c: `_Py_tss_gilstate` replaces autoTSSkey.
const V3_15: Known = Known {
    offsets: Offsets {
        interpreter_next: 7264,
        interpreter_threads: 7336,
        interpreter_gc_collecting: 7512,
        thread_id: 176,
        thread_native_id: 184,
        ..V3_14.offsets
    },
    runtime: Runtime { interpreters_head: Some(936), tss_key: None, ..V3_14.runtime },
};

/// Oldest and newest version that can be read, for messages.
pub(super) const SUPPORTED: &str = "3.6 to 3.15";

/// What is known of 3.`minor`.
pub(super) fn of_minor(minor: u16) -> Option<&'static Known> {
    const TABLE: [Known; 10] = [V3_6, V3_7, V3_8, V3_9, V3_10, V3_11, V3_12, V3_13, V3_14, V3_15];
    TABLE.get(usize::from(minor.checked_sub(6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_minor_and_no_other() {
        assert!((6..=15).all(|minor| of_minor(minor).is_some()));
        assert!(of_minor(5).is_none() && of_minor(16).is_none() && of_minor(u16::MAX).is_none());
    }

    #[test]
    fn the_walker_finds_its_words() {
        for known in (6..=15).filter_map(of_minor) {
            let offsets = known.offsets;
            // The BPF walker reads 128 bytes of a frame, and 96 of the code object from `code_hash_start`, as words.
            assert!(offsets.frame_code % 8 == 0 && offsets.frame_previous % 8 == 0 && offsets.frame_lasti % 8 == 0);
            assert!(offsets.frame_lasti < 128 && offsets.frame_owner < 128);
            assert!(offsets.code_hash_words().into_iter().all(|word| word < 12));
        }
    }
}
