//! Where the interpreter keeps what the walker reads: one value per process.

use super::linetable;

/// How `_Py_tss_tstate` is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// No such variable (before 3.12) or not found.
    None,
    /// Bytes from the thread pointer.
    Static {
        /// `_Py_tss_tstate`.
        offset: i64,
        /// `_Py_tss_gilstate` (3.15+); 0 when absent.
        gilstate_offset: i64,
    },
    /// Through the dynamic thread vector.
    Dynamic {
        /// TLS module id.
        module: u32,
        /// `_Py_tss_tstate` in the module's block.
        offset: i64,
        /// `_Py_tss_gilstate` (3.15+); 0 when absent.
        gilstate_offset: i64,
    },
}

/// C library of the process: their pthread_getspecific() differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// GNU.
    Glibc,
    /// musl.
    Musl,
}

/// How the Python frames of a thread are matched with the frames of its C stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeRule {
    /// Up to 3.10: every call of `_PyEval_EvalFrameDefault` runs one Python frame.
    FramePerCall,
    /// 3.11: a call runs the frames up to one whose `is_entry` is set.
    EntryFlag,
    /// 3.12+: a call runs the frames up to an entry frame that is its own local variable.
    ShimAddress,
}

/// Whose call began a Python frame, as far as the interpreter's frames say it: what [`MergeRule`] goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameEntry {
    /// The Python frame's below it (3.11+); up to 3.10 nothing is said.
    Unmarked,
    /// C code's: `is_entry` (3.11).
    Flag,
    /// C code's: below it is the entry frame at this address of the C stack (3.12+).
    Shim(u64),
}

/// Offsets inside the interpreter's structs, in bytes. One per minor version; from 3.13 read from `_Py_DebugOffsets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `PyInterpreterState.next`
    pub interpreter_next: u16,
    /// `PyInterpreterState.tstate_head` / `.threads.head`
    pub interpreter_threads: u16,
    /// `PyInterpreterState.ceval.gil`, a pointer (3.12+); 0: the GIL is in `_PyRuntime`.
    pub interpreter_gil: u32,
    /// `PyInterpreterState.gc.collecting` (3.9+); 0: in `_PyRuntime`.
    pub interpreter_gc_collecting: u32,
    /// `PyThreadState.next`
    pub thread_next: u16,
    /// `PyThreadState.interp`
    pub thread_interpreter: u16,
    /// `PyThreadState.thread_id`: pthread_self()
    pub thread_id: u16,
    /// `PyThreadState.native_thread_id` (3.11+): tid in the process's own pid namespace; 0 when absent.
    pub thread_native_id: u16,
    /// `PyThreadState.frame`, `.cframe` or `.current_frame`
    pub thread_frame: u16,
    /// `_PyCFrame.current_frame` (3.11, 3.12)
    pub cframe_frame: Option<u16>,
    /// `f_code` or `f_executable`
    pub frame_code: u16,
    /// `f_back` or `previous`
    pub frame_previous: u16,
    /// `f_lasti`, `prev_instr` or `instr_ptr`
    pub frame_lasti: u16,
    /// It is a pointer into the bytecode (3.11+).
    pub lasti_is_pointer: bool,
    /// `owner`, or `is_entry` of 3.11; 0 before.
    pub frame_owner: u16,
    /// `owner` from this value on marks an entry frame on the C stack (3.12+).
    pub shim_owner: Option<u16>,
    /// `frame_owner` is `is_entry` (3.11).
    pub entry_flag: bool,
    /// `localsplus` (3.11+) or `f_localsplus`.
    pub frame_locals: u16,
    /// Low bits of `f_executable` that are a tag (3.14+: 7).
    pub code_tag_mask: u16,
    /// `co_firstlineno`
    pub code_first_line: u16,
    /// `co_filename`
    pub code_file: u16,
    /// `co_qualname` (3.11+), else `co_name`
    pub code_name: u16,
    /// `co_lnotab` or `co_linetable`
    pub code_lines: u16,
    /// `co_code_adaptive` (3.11+); 0 before.
    pub code_bytecode: u16,
    /// Characters of an ASCII str.
    pub string_data: u16,
    /// `_gil_runtime_state.locked`
    pub gil_locked: u16,
    /// `_gil_runtime_state.last_holder`
    pub gil_holder: u16,
}

impl Offsets {
    /// Frames are objects of the heap, freed and used again by any thread (up to 3.10); later they lie in a stack of their
    /// thread.
    pub fn frames_are_objects(&self) -> bool {
        !self.lasti_is_pointer
    }

    /// First byte of the code object that its identity hash covers.
    pub fn code_hash_start(&self) -> u16 {
        self.code_first_line & !7
    }

    /// Indices of the 8-byte words from there that the identity hash reads: file name, name (the next word in every
    /// version), line table.
    pub fn code_hash_words(&self) -> [u16; 3] {
        let word = |offset: u16| (offset - self.code_hash_start()) / 8;
        [word(self.code_file), word(self.code_file) + 1, word(self.code_lines)]
    }
}

/// One interpreter found in one process, verified by a walk. Addresses are the process's own; 0 means absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `PY_VERSION_HEX`, e.g. 0x030b02f0; the low byte may be unknown (0) before 3.11.
    pub version_hex: u32,
    /// `3.11.2`
    pub version: String,
    /// Path of the mapped file that holds the interpreter, as the process sees it.
    pub image_path: String,
    /// Load bias of that file: address = bias + symbol value.
    pub image_bias: u64,
    /// Text range of that file in memory, for telling the interpreter's own code from other native code.
    pub image_text: (u64, u64),
    /// `&_PyRuntime`; 0 on 3.6.
    pub runtime: u64,
    /// `&gilstate.tstate_current` (3.6 to 3.11).
    pub current_thread_state: u64,
    /// Address of autoTSSkey's (3.6: autoTLSkey's) key number (to 3.14).
    pub tss_key: u64,
    /// Address of the pointer to the first interpreter.
    pub interpreters_head: u64,
    /// The GIL of 3.7 to 3.11; 0 where each interpreter points to its own. 3.6 has no such struct: here it is
    /// `&_PyThreadState_Current`, which holds the GIL's holder, and `gil_locked` and `gil_holder` are 0.
    pub gil: u64,
    /// `&gc.collecting` of 3.6 to 3.8; 0 when not found.
    pub gc_collecting: u64,
    /// `_Py_tss_tstate`.
    pub tls: Tls,
    /// Calibrated: from the thread pointer to the pthread_getspecific value; 0 when not calibrated.
    pub slot_offset: i64,
    /// C library.
    pub libc: Libc,
    /// Offsets inside the structs.
    pub offsets: Offsets,
    /// Where threads that want a GIL wait: the address ranges of condition variable and mutex of every interpreter's GIL.
    /// A futex wait inside is a wait to take it. The condition for forced switching is left out: it follows a release.
    pub gils: Vec<(u64, u64)>,
    /// What verification saw, for `doctor`: `walked 8 threads (TSS slot 0x318)`.
    pub evidence: String,
}

impl Layout {
    /// 0x030b for 3.11.
    pub fn minor_hex(&self) -> u16 {
        (self.version_hex >> 16) as u16
    }

    /// How Python frames and C frames are merged.
    pub fn merge_rule(&self) -> MergeRule {
        match self.minor_hex() {
            ..=0x030a => MergeRule::FramePerCall,
            0x030b => MergeRule::EntryFlag,
            0x030c.. => MergeRule::ShimAddress,
        }
    }

    /// A frame of code from `file` is the interpreter's own: `_Py_InitCleanup`, the trampoline of a specialised class call
    /// (3.12+, Python/specialize.c), which no Python source contains.
    pub fn is_trampoline(&self, file: &str) -> bool {
        self.minor_hex() >= 0x030c && file == "__init__"
    }

    /// The line being executed, from a code object's `co_lnotab` or `co_linetable`, its `co_firstlineno`, and the
    /// position as the walker sends it: `f_lasti` as stored, or bytes from the first instruction where the interpreter
    /// stores a pointer. None for an instruction without a line.
    pub fn line(&self, table: &[u8], first_line: i32, position: u32) -> Option<u32> {
        let position = i64::from(position as i32);
        let lasti = if self.offsets.lasti_is_pointer { position >> 1 } else { position };
        linetable::line(table, first_line, lasti, self.minor_hex() & 0xff)
    }
}
