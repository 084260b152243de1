/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The ABI between the BPF programs and user space: every struct that crosses. Fixed-width types, 8-byte aligned,
 * explicit padding, sizes asserted; no includes, so that BPF, the exporting object (abi.bpf.c) and the host-compiled
 * walker test agree. Times are CLOCK_MONOTONIC nanoseconds (`_ns`), sizes bytes (`_bytes`).
 */
#ifndef PYLOW_H
#define PYLOW_H

#define PYLOW_MAX_FRAMES 1024	       /* Python frames kept of one stack, leaf side; power of two */
#define PYLOW_MAX_KERNEL_FRAMES 48     /* kernel frames kept of one stack */
#define PYLOW_NATIVE_STACK_BYTES 16384 /* user stack copied for native unwinding; power of two */
#define PYLOW_MAX_SYSCALLS 512	       /* system call numbers counted; x86_64 ends near 470 */
#define PYLOW_LATENCY_SLOTS 40	       /* log2 buckets of nanoseconds: 2^39 ns = 9 minutes */

enum event_kind {
	EVENT_SAMPLE = 1, /* stack_event: an on-CPU sample */
	EVENT_BLOCK,	  /* stack_event: a thread goes off the CPU and waits; `value` is the task state */
	EVENT_RESUME,	  /* resume_event: that thread is back on a CPU */
	EVENT_SYSCALL,	  /* stack_event: a thread enters the system call `value` */
	EVENT_FAULT,	  /* stack_event: a page fault; `args[0]` is the address */
	EVENT_UPROBE,	  /* stack_event: a thread enters the probed function */
	EVENT_NATIVE,	  /* native_event: registers and user stack of the stack_event that follows */
	EVENT_SYMBOL,	  /* symbol_event: names and line table of a code object */
	EVENT_FORK,	  /* process_event: `other` is the child */
	EVENT_EXEC,	  /* process_event */
	EVENT_EXIT,	  /* process_event: the last thread of the process ended */
};

struct event_header {
	__u64 ktime_ns;
	__u32 tgid, tid;
	__u32 kind; /* enum event_kind */
	__u32 cpu;
};
_Static_assert(sizeof(struct event_header) == 24, "ABI");

/* What is known of one stack; reports derive their share of complete stacks from it. */
enum stack_status {
	STACK_ROOT = 1,		/* the walk reached the outermost frame */
	STACK_TRUNCATED = 2,	/* more frames than the limit: the root side is missing */
	STACK_FAULT = 4,	/* a frame's memory was not resident or no longer mapped */
	STACK_NO_THREAD = 8,	/* this thread has no Python thread state */
	STACK_NO_FRAMES = 16,	/* a thread state without a Python frame */
	STACK_CODE_FAULT = 32,	/* some code object was unreadable: its frame has no identity */
	STACK_GC = 64,		/* the cyclic garbage collector was running in this thread */
	STACK_HOLDS_GIL = 128,	/* this thread held the GIL */
	STACK_IN_KERNEL = 256,	/* the sample interrupted kernel code */
	STACK_NOT_PYTHON = 512, /* the process is followed but has no (known) interpreter yet */
	STACK_TORN = 1024,	/* the chain ended at a frame that was just being linked or unlinked (a generator) */
};

/* How the thread state was found; order of preference depends on the version (facts in target/python). */
enum thread_state_source {
	THREAD_STATE_NONE,
	THREAD_STATE_CURRENT,	   /* gilstate.tstate_current, validated */
	THREAD_STATE_TLS,	   /* _Py_tss_tstate */
	THREAD_STATE_GILSTATE_TLS, /* _Py_tss_gilstate, 3.15+ */
	THREAD_STATE_SLOT,	   /* calibrated pthread_getspecific slot */
	THREAD_STATE_TSS,	   /* emulated pthread_getspecific */
	THREAD_STATE_WALK,	   /* bounded walk of interpreters and threads */
};

/*
 * One frame. The top byte of `word` says what it is: 0xff a kernel address, FRAME_SHIM the C-stack address of the
 * interpreter's entry frame (3.12+), FRAME_ENTRY a Python frame that C entered (3.11), 0 a Python frame.
 * `position` of a Python frame: low half f_lasti as the interpreter stores it (bytes from the code's first instruction
 * where a pointer is stored), high half the identity hash of its code object.
 */
#define FRAME_SHIM 1
#define FRAME_ENTRY 2
#define FRAME_KERNEL 0xff
struct frame_record {
	__u64 word;
	__u64 position;
};
_Static_assert(sizeof(struct frame_record) == 16, "ABI");

/* Followed by `kernel_frames` + `python_frames` frame_records, leaf first. */
struct stack_event {
	struct event_header header;
	__u32 status; /* enum stack_status */
	__u16 kernel_frames, python_frames;
	__u32 thread_state_source; /* enum thread_state_source */
	__s32 value;		   /* by kind: task state, system call number */
	__s32 syscall;		   /* system call the thread is in, -1 when none */
	__u32 pad;
	__u64 user_ip; /* user instruction pointer */
	__u64 args[2]; /* by kind; EVENT_BLOCK: first two arguments of `syscall` */
};
_Static_assert(sizeof(struct stack_event) == 72, "ABI");

struct resume_event {
	struct event_header header; /* of the switch back in */
	__u64 blocked_at_ns;	    /* ktime_ns of its EVENT_BLOCK */
	__u64 blocked_ns;	    /* until it was woken */
	__u64 runqueue_ns;	    /* from the wake-up until it ran */
};
_Static_assert(sizeof(struct resume_event) == 48, "ABI");

/* Followed by `stack_bytes` bytes of the user stack from `sp` upward. Same tid and ktime_ns as its stack_event. */
struct native_event {
	struct event_header header;
	__u64 ip, sp, bp, lr; /* lr: arm64 only */
	__u64 stack_bytes;
};
_Static_assert(sizeof(struct native_event) == 64, "ABI");

#define SYMBOL_NAME_BYTES 128
#define SYMBOL_FILE_BYTES 256
#define SYMBOL_LINES_BYTES 512
struct symbol_event {
	struct event_header header;
	__u64 code; /* address of the code object */
	__u32 hash; /* its identity */
	__s32 first_line;
	__u64 lines_bytes;		/* real length of the line table; longer than the copy: read it lazily */
	__u64 name_length, file_length; /* code points */
	__u32 name_state, file_state;	/* PyASCIIObject.state */
	__u8 name[SYMBOL_NAME_BYTES];	/* co_qualname where there is one, else co_name */
	__u8 file[SYMBOL_FILE_BYTES];	/* co_filename */
	__u8 lines[SYMBOL_LINES_BYTES];
};
_Static_assert(sizeof(struct symbol_event) == 72 + 896, "ABI");

/* Key of the `known` map: a code object whose names user space has. */
struct symbol_key {
	__u64 code;
	__u32 tgid, hash;
};
_Static_assert(sizeof(struct symbol_key) == 16, "ABI");

struct process_event {
	struct event_header header;
	__u32 other;
	__u32 pad;
};
_Static_assert(sizeof(struct process_event) == 32, "ABI");

enum tls_kind {
	TLS_NONE,
	TLS_STATIC,  /* offset from the thread pointer */
	TLS_DYNAMIC, /* module id and offset, through the dynamic thread vector */
};

enum libc_kind {
	LIBC_GLIBC,
	LIBC_MUSL,
};

/* Everything the walker must know of one interpreter. Addresses are the process's own; 0 means absent. */
struct python_config {
	__u64 current_thread_state; /* &gilstate.tstate_current, 3.6 to 3.11 */
	__u64 tss_key;		    /* &autoTSSkey's key */
	__u64 interpreters_head;    /* &PyInterpreterState *head */
	__u64 gil;		    /* the one GIL of 3.7 to 3.11 */
	__u64 gc_collecting;	    /* &gc.collecting, 3.7 and 3.8 */
	__s64 tls_offset;	    /* _Py_tss_tstate */
	__s64 gilstate_tls_offset;  /* _Py_tss_gilstate, 3.15+ */
	__s64 slot_offset;	    /* calibrated: from the thread pointer to the pthread_getspecific value */
	__u32 tls_kind;		    /* enum tls_kind */
	__u32 tls_module;
	__u32 libc;    /* enum libc_kind */
	__u16 version; /* 0x030b */
	__u16 pad;
	/* PyThreadState */
	__u16 thread_next, thread_id, thread_frame, thread_interpreter;
	__u16 has_cframe, cframe_frame; /* 3.11 and 3.12: thread_frame points to a _PyCFrame */
	/* PyInterpreterState; 0xffff where the value is global or unknown */
	__u16 interpreter_next, interpreter_threads;
	__u32 interpreter_gil, interpreter_gc_collecting; /* 0: see the addresses above */
	/* frame */
	__u16 frame_code, frame_previous, frame_lasti, frame_owner;
	__u16 lasti_is_pointer; /* prev_instr or instr_ptr */
	__u16 shim_owner;	/* owner >= this is an entry frame of the C stack; 0xffff: no such frames */
	__u16 entry_flag;	/* 3.11: frame_owner is is_entry */
	__u16 code_tag_mask;	/* low bits of f_executable that are a tag */
	/* PyCodeObject */
	__u16 code_first_line, code_file, code_name, code_lines, code_bytecode;
	__u16 code_hash_start; /* code_first_line rounded down to 8 */
	__u16 string_data;     /* offset of the characters of an ASCII string: 48, or 40 from 3.12 */
	/* GIL */
	__u16 gil_locked, gil_holder;
	__u16 pad2[3];
};
_Static_assert(sizeof(struct python_config) == 144, "ABI");

/* One followed process; the value of the `processes` map. */
struct process_config {
	struct python_config python;
	__u32 is_python;
	__u32 pad;
};
_Static_assert(sizeof(struct process_config) == 152, "ABI");

/* The options of one run: `.rodata.config` holds exactly this, so what is off is dead code to the verifier. */
struct session_config {
	__u32 max_frames;      /* at most PYLOW_MAX_FRAMES */
	__u32 python_stacks;   /* walk Python frames */
	__u32 native_stacks;   /* copy registers and user stack */
	__u32 kernel_stacks;   /* take kernel frames */
	__u32 follow_children; /* forked processes are followed too */
	__u32 tid;	       /* only this thread; 0: all */
	__s32 syscall;	       /* stacks only at this system call */
	__u32 preemptions;     /* threads that lose the CPU while runnable are off the CPU too */
};
_Static_assert(sizeof(struct session_config) == 32, "ABI");

/* Indices of the per-CPU `outcomes` counters. generated = delivered + lost, always. */
enum outcome {
	OUTCOME_GENERATED,    /* stack and resume events made */
	OUTCOME_LOST,	      /* of them, no room in the ring */
	OUTCOME_SYMBOLS,      /* symbol records made */
	OUTCOME_SYMBOLS_LOST, /* of them, no room in the ring */
	OUTCOME_NATIVE_LOST,  /* native stacks without room in the ring */
	OUTCOME_PROCESS_LOST, /* fork, exec or exit events without room in the ring */
	OUTCOME_COLLIDED,     /* waits forgotten: two threads shared a slot */
	OUTCOME_NS,	      /* nanoseconds spent in stack programs */
	OUTCOME_COUNT,
};

/* Value of the per-CPU `syscalls` array, by system call number. */
struct syscall_stats {
	__u64 entered;	/* calls entered while watching */
	__u64 finished; /* calls returned whose start was seen */
	__u64 errors;	/* of all returned: result in -4095..-1 */
	__u64 total_ns, max_ns;
	__u64 slots[PYLOW_LATENCY_SLOTS]; /* log2 of ns, of finished calls */
};
_Static_assert(sizeof(struct syscall_stats) == 40 + 8 * PYLOW_LATENCY_SLOTS, "ABI");

/* Value of the `waits` array: a thread that is off the CPU since `blocked_ns`. */
struct wait_slot {
	__u32 tid; /* 0: free */
	__u32 pad;
	__u64 blocked_ns, woken_ns;
};
_Static_assert(sizeof(struct wait_slot) == 24, "ABI");

/* One record of the task iterator's output. */
struct task_record {
	__u32 tgid, tid;
	__u64 thread_pointer;
	__u64 ip, sp, bp, lr;
	__s32 syscall;
	__u32 state;
	__u64 args[2];
};
_Static_assert(sizeof(struct task_record) == 72, "ABI");

#endif /* PYLOW_H */
