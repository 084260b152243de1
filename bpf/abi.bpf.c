// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* No programs: one value of each crossing struct, so that its BTF becomes one Rust type each. */
#include "vmlinux.h"
#include "pylow.h"

struct event_header abi_event_header;
struct frame_record abi_frame_record;
struct stack_event abi_stack_event;
struct resume_event abi_resume_event;
struct native_event abi_native_event;
struct symbol_event abi_symbol_event;
struct symbol_key abi_symbol_key;
struct process_event abi_process_event;
struct process_config abi_process_config;
struct session_config abi_session_config;
struct syscall_stats abi_syscall_stats;
struct wait_slot abi_wait_slot;
struct task_record abi_task_record;
enum event_kind abi_event_kind;
enum stack_status abi_stack_status;
enum thread_state_source abi_thread_state_source;
enum tls_kind abi_tls_kind;
enum libc_kind abi_libc_kind;
enum outcome abi_outcome;
