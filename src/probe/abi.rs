//! The Rust side of `bpf/pylow.h`: types generated from the BTF of `bpf/abi.bpf.c`, never written twice.

pub(super) use super::object::skeleton::abi::types::{
    event_header, event_kind, frame_record, libc_kind, native_event, outcome, process_config, process_event,
    python_config, resume_event, session_config, stack_event, symbol_event, symbol_key, syscall_stats, task_record,
    tls_kind, wait_slot,
};
use crate::error::{Error, Result};

macro_rules! plain_data {
    ($($name:ident),*) => {
        $(
            // SAFETY: repr(C), made of fixed-width integers and arrays of them without padding (sizes are asserted in
            // bpf/pylow.h), so every bit pattern is a value.
            unsafe impl plain::Plain for $name {}
        )*
    };
}
plain_data!(event_header, frame_record, native_event, process_config, process_event, resume_event, session_config);
plain_data!(stack_event, symbol_event, symbol_key, syscall_stats, task_record, wait_slot);

/// The bytes of a value, as the programs see them.
pub(super) fn bytes_of<T: plain::Plain>(value: &T) -> &[u8] {
    // SAFETY: T is plain data without padding.
    unsafe { plain::as_bytes(value) }
}

/// Copies a T from the front of `bytes`, which may be unaligned and longer.
pub(super) fn read<T: plain::Plain + Default>(bytes: &[u8]) -> Result<T> {
    let mut value = T::default();
    plain::copy_from_bytes(&mut value, bytes)
        .map_err(|_| Error::failed(format!("record of {} bytes is shorter than {}", bytes.len(), size_of::<T>())))?;
    Ok(value)
}
