//! What the walker must know of one process, from what `target` found.

use super::abi::{libc_kind, process_config, python_config, tls_kind};
use crate::target::python::layout::{Layout, Libc, Tls};

/// Offset that no struct has: the walker never compares an owner with it successfully.
const ABSENT: u16 = 0xffff;

/// The value of the `processes` map for a process with this interpreter; `None`: followed, but not (yet) Python.
pub(super) fn process(layout: Option<&Layout>) -> process_config {
    match layout {
        Some(layout) => process_config { python: python(layout), is_python: 1, pad: 0 },
        None => process_config::default(),
    }
}

fn python(layout: &Layout) -> python_config {
    let offsets = &layout.offsets;
    let (kind, module, tls_offset, gilstate_tls_offset) = match layout.tls {
        Tls::None => (tls_kind::TLS_NONE, 0, 0, 0),
        Tls::Static { offset, gilstate_offset } => (tls_kind::TLS_STATIC, 0, offset, gilstate_offset),
        Tls::Dynamic { module, offset, gilstate_offset } => (tls_kind::TLS_DYNAMIC, module, offset, gilstate_offset),
    };
    python_config {
        current_thread_state: layout.current_thread_state,
        tss_key: layout.tss_key,
        interpreters_head: layout.interpreters_head,
        gil: layout.gil,
        gc_collecting: layout.gc_collecting,
        tls_offset,
        gilstate_tls_offset,
        slot_offset: layout.slot_offset,
        tls_kind: kind.0,
        tls_module: module,
        libc: match layout.libc {
            Libc::Glibc => libc_kind::LIBC_GLIBC.0,
            Libc::Musl => libc_kind::LIBC_MUSL.0,
        },
        version: layout.minor_hex(),
        pad: 0,
        thread_next: offsets.thread_next,
        thread_id: offsets.thread_id,
        thread_frame: offsets.thread_frame,
        thread_interpreter: offsets.thread_interpreter,
        has_cframe: u16::from(offsets.cframe_frame.is_some()),
        cframe_frame: offsets.cframe_frame.unwrap_or(0),
        interpreter_next: offsets.interpreter_next,
        interpreter_threads: offsets.interpreter_threads,
        interpreter_gil: offsets.interpreter_gil,
        interpreter_gc_collecting: offsets.interpreter_gc_collecting,
        frame_code: offsets.frame_code,
        frame_previous: offsets.frame_previous,
        frame_lasti: offsets.frame_lasti,
        frame_owner: offsets.frame_owner,
        lasti_is_pointer: u16::from(offsets.lasti_is_pointer),
        shim_owner: offsets.shim_owner.unwrap_or(ABSENT),
        entry_flag: u16::from(offsets.entry_flag),
        code_tag_mask: offsets.code_tag_mask,
        code_first_line: offsets.code_first_line,
        code_file: offsets.code_file,
        code_name: offsets.code_name,
        code_lines: offsets.code_lines,
        code_bytecode: offsets.code_bytecode,
        code_hash_start: offsets.code_hash_start(),
        string_data: offsets.string_data,
        gil_locked: offsets.gil_locked,
        gil_holder: offsets.gil_holder,
        pad2: [0; 3],
    }
}
