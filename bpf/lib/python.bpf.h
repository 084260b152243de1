/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The walker: from a thread of a CPython 3.6 to 3.15 to its Python frames, in any BPF context that may read the
 * current task's user memory (perf events, tracepoints, uprobes). Includes nothing: kernel.bpf.h, config.bpf.h and
 * event.bpf.h come first, or the host stand-in of tests/walker.
 *
 * Shape: one frame is one call of the global function step_frame(), verified once with an unknown index, whose state
 * lives in per-CPU maps; the caller is a plain bounded loop. So 1,024 frames load on 5.10 without tail calls.
 *
 * A frame is sent as ids: code object, f_lasti, and an identity hash of the code object, which changes when its address
 * is reused by another one. The code object's names and line table go into the same
 * ring before the first stack that needs them (a code object may be freed at once). `known` says which ones user space
 * has; only user space writes it, since hash updates in NMI or under sched_switch can deadlock.
 */
#ifndef PYLOW_PYTHON_H
#define PYLOW_PYTHON_H

/* Steps of the fallback search for the thread state: interpreters plus threads visited. */
#define MAX_THREADS_WALKED 96
/* A symbol record is repeated after this time if user space has not taken it in. */
#define SYMBOL_REPEAT_NS 50000000ULL
#define SYMBOL_SLOTS 1024

struct walk_state {
	struct python_config python;
	__u64 callee_saved[CALLEE_SAVED]; /* registers of the thread */
	__u64 torn_frame;		  /* where the chain ended too early */
	__u64 frame;			  /* next frame to read */
	__u64 last_code;		  /* code object of the frame before, */
	__u32 last_hash;		  /* whose hash need not be computed again (recursion) */
	__u32 tgid;
	__u64 words[16];      /* bytes of the frame */
	__u64 code_words[16]; /* bytes of the code object from code_hash_start; a power of two, for the verifier */
	__u64 table_readable;
	__u64 table_words[4]; /* bytes of its line table from ob_size */
};

struct walked_stack {
	struct stack_event event;
	struct frame_record frames[PYLOW_MAX_FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk_state);
} walks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walked_stack);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct symbol_key);
	__type(value, __u8);
} known SEC(".maps");

/* The code object last sent, and when. */
struct symbol_slot {
	struct symbol_key key;
	__u64 sent_ns;
};

/* Direct-mapped by the identity hash. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SYMBOL_SLOTS);
	__type(key, __u32);
	__type(value, struct symbol_slot);
} symbol_slots SEC(".maps");

static __always_inline __u64 read_u64(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_user(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline __u32 read_u32(__u64 address)
{
	__u32 value = 0;

	bpf_probe_read_user(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline __u64 tls_value(struct python_config *py, __u64 thread_pointer, __s64 offset)
{
	if (py->tls_kind == TLS_STATIC)
		return offset ? read_u64(thread_pointer + offset) : 0;
	if (py->tls_kind == TLS_DYNAMIC) {
		__u64 vector = read_u64(thread_pointer + 8);
		__u64 block = read_u64(vector + (__u64)py->tls_module * (py->libc == LIBC_MUSL ? 8 : 16));

		if (!block || block == ~0ULL)
			return 0;
		return read_u64(block + offset);
	}
	return 0;
}

/* pthread_getspecific(), by the layouts of glibc's struct pthread (specific_1stblock, specific) and musl's (tsd). */
static __always_inline __u64 tss_value(struct python_config *py, __u64 thread_pointer)
{
	__u32 key = 0;
	__u64 block;

	if (!py->tss_key || bpf_probe_read_user(&key, sizeof(key), (void *)py->tss_key))
		return 0;
	if (py->libc == LIBC_MUSL) {
		block = read_u64(thread_pointer + 0x80);
		return block && key < 128 ? read_u64(block + key * 8) : 0;
	}
	if (key < 32)
		return read_u64(thread_pointer + 0x310 + key * 16 + 8);
	block = read_u64(thread_pointer + 0x510 + (key / 32) * 8);
	return block ? read_u64(block + (key % 32) * 16 + 8) : 0;
}

/* The last resort: every interpreter's thread list; prefers a thread state that has a frame (sub-interpreters). */
static __noinline __u64 find_thread_state(struct python_config *py, __u64 thread_pointer)
{
	__u64 interpreter, thread, found = 0;

	if (!py)
		return 0;
	interpreter = read_u64(py->interpreters_head);
	if (!interpreter)
		return 0;
	thread = read_u64(interpreter + py->interpreter_threads);
	for (int i = 0; i < MAX_THREADS_WALKED; i++) {
		if (!thread) {
			interpreter = read_u64(interpreter + py->interpreter_next);
			if (!interpreter)
				break;
			thread = read_u64(interpreter + py->interpreter_threads);
			continue;
		}
		if (read_u64(thread + py->thread_id) == thread_pointer) {
			found = thread;
			if (read_u64(thread + py->thread_frame))
				return thread;
		}
		thread = read_u64(thread + py->thread_next);
	}
	return found;
}

static __always_inline bool is_thread(struct python_config *py, __u64 thread, __u64 thread_pointer)
{
	return thread && read_u64(thread + py->thread_id) == thread_pointer;
}

/*
 * Cheapest first. A thread-local variable is this thread's by nature, also in a sub-interpreter whose thread state another
 * thread made; every other candidate must carry this thread's id: `tstate_current` is another thread's half the time.
 */
static __always_inline __u64 thread_state(struct python_config *py, __u64 thread_pointer, __u32 *source)
{
	__u64 thread;

	*source = THREAD_STATE_TLS;
	thread = tls_value(py, thread_pointer, py->tls_offset);
	if (thread)
		return thread;
	*source = THREAD_STATE_CURRENT;
	thread = py->current_thread_state ? read_u64(py->current_thread_state) : 0;
	if (is_thread(py, thread, thread_pointer))
		return thread;
	*source = THREAD_STATE_GILSTATE_TLS;
	thread = py->gilstate_tls_offset ? tls_value(py, thread_pointer, py->gilstate_tls_offset) : 0;
	if (is_thread(py, thread, thread_pointer))
		return thread;
	*source = THREAD_STATE_SLOT;
	thread = py->slot_offset ? read_u64(thread_pointer + py->slot_offset) : 0;
	if (is_thread(py, thread, thread_pointer))
		return thread;
	*source = THREAD_STATE_TSS;
	thread = tss_value(py, thread_pointer);
	if (is_thread(py, thread, thread_pointer))
		return thread;
	*source = THREAD_STATE_WALK;
	thread = find_thread_state(py, thread_pointer);
	if (!thread)
		*source = THREAD_STATE_NONE;
	return thread;
}

/* Copies up to `room` - 1 bytes of a str's characters; `room` is a power of two. */
static __always_inline void copy_string(__u8 *to, __u32 room, __u64 string, __u16 string_data, __u64 *length,
					__u32 *state)
{
	__u64 bytes, data;

	*length = read_u64(string + 16);
	*state = read_u32(string + 32);
	data = string + string_data;
	if (!(*state & 64)) /* not ASCII: PyCompactUnicodeObject, which lost wstr_length in 3.12 */
		data += string_data == 48 ? 24 : 16;
	bytes = *length * ((*state >> 2) & 7);
	if (bytes > room - 1)
		bytes = room - 1;
	asm volatile("" : "+r"(bytes)); /* keeps clang from comparing 32 bits and using 64 */
	bytes &= room - 1;
	bpf_probe_read_user(to, bytes, (void *)data);
}

/* Sends names and line table of `code` unless user space has them or was just sent them. */
__noinline int emit_symbol(__u64 code, __u32 hash)
{
	__u32 zero = 0, index = (hash ^ (__u32)(code >> 4)) & (SYMBOL_SLOTS - 1);
	struct walk_state *walk = bpf_map_lookup_elem(&walks, &zero);
	struct symbol_slot *slot = bpf_map_lookup_elem(&symbol_slots, &index);
	__u64 now = bpf_ktime_get_ns(), bytes, lines;
	struct symbol_event *event;
	struct symbol_key key;

	if (!walk || !slot)
		return 0;
	key.code = code;
	key.tgid = walk->tgid;
	key.hash = hash;
	if (bpf_map_lookup_elem(&known, &key))
		return 0;
	if (slot->key.code == code && slot->key.hash == hash && slot->key.tgid == key.tgid &&
	    now - slot->sent_ns < SYMBOL_REPEAT_NS)
		return 0;
	outcome_add(OUTCOME_SYMBOLS, 1);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		outcome_add(OUTCOME_SYMBOLS_LOST, 1);
		return 0;
	}
	slot->key = key;
	slot->sent_ns = now;
	header_init(&event->header, EVENT_SYMBOL);
	event->code = code;
	event->hash = hash;
	event->first_line = (__s32)read_u32(code + walk->python.code_first_line);
	copy_string(event->name, SYMBOL_NAME_BYTES, read_u64(code + walk->python.code_name), walk->python.string_data,
		    &event->name_length, &event->name_state);
	copy_string(event->file, SYMBOL_FILE_BYTES, read_u64(code + walk->python.code_file), walk->python.string_data,
		    &event->file_length, &event->file_state);
	lines = read_u64(code + walk->python.code_lines);
	bytes = read_u64(lines + 16);
	event->lines_bytes = bytes;
	if (bytes > SYMBOL_LINES_BYTES - 1)
		bytes = SYMBOL_LINES_BYTES - 1;
	asm volatile("" : "+r"(bytes));
	bytes &= SYMBOL_LINES_BYTES - 1;
	bpf_probe_read_user(event->lines, bytes, (void *)(lines + 32));
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Bytes from code_hash_start that hold every hashed word in every version. */
#define HASHED_BYTES 96

static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	return (hash ^ (hash >> 29) ^ word) * 0x9E3779B97F4A7C15ULL;
}

/* The first `left` bytes of a word; what follows a short bytes object is not its own. */
static __always_inline __u64 head_of(__u64 word, __s64 left)
{
	if (left <= 0)
		return 0;
	return left >= 8 ? word : word & ((1ULL << (8 * (left & 7))) - 1);
}

/*
 * Identity of a code object: its first line, the addresses of its file name and name, length and beginning of its line
 * table. Addresses alone are not enough: code compiled in a loop gets the same ones again, for itself and its parts.
 * 0 when unreadable.
 */
static __always_inline __u32 code_hash(struct walk_state *walk, __u64 code)
{
	__u32 file = (walk->python.code_file - walk->python.code_hash_start) >> 3;
	__u32 lines = (walk->python.code_lines - walk->python.code_hash_start) >> 3;
	__u64 table, hash;

	if (bpf_probe_read_user(walk->code_words, HASHED_BYTES, (void *)(code + walk->python.code_hash_start)))
		return 0;
	table = walk->code_words[lines & 15];
	/* ob_size, ob_shash, and the first 16 bytes of the table. */
	walk->table_readable = !bpf_probe_read_user(walk->table_words, sizeof(walk->table_words), (void *)(table + 16));
	if (!walk->table_readable) /* not resident: user space can fault it in, a program can't */
		__builtin_memset(walk->table_words, 0, sizeof(walk->table_words));
	hash = mix(0, walk->code_words[0]);
	hash = mix(hash, walk->code_words[file & 15]);
	hash = mix(hash, walk->code_words[(file + 1) & 15]);
	hash = mix(hash, walk->table_words[0]);
	hash = mix(hash, head_of(walk->table_words[2], walk->table_words[0]));
	hash = mix(hash, head_of(walk->table_words[3], walk->table_words[0] - 8));
	hash >>= 32;
	return hash ? (__u32)hash : 1;
}

/* From 3.11 on C enters the interpreter through marked frames, so the outermost frame of a thread has a mark. */
static __always_inline bool is_outermost(struct python_config *py, __u64 mark)
{
	return mark || (py->shim_owner == 0xffff && !py->entry_flag);
}

/* Reads one frame and appends it. Returns 1 when the walk is over. */
__noinline int step_frame(__u32 unused)
{
	__u32 zero = 0, index;
	struct walk_state *walk = bpf_map_lookup_elem(&walks, &zero);
	struct walked_stack *stack = bpf_map_lookup_elem(&stacks, &zero);
	__u64 code, position, owner, frame, mark = 0;

	if (!walk || !stack)
		return 1;
	/* 128 bytes may end in the next, unmapped page; 80 hold every field of every version. */
	if (bpf_probe_read_user(walk->words, 128, (void *)walk->frame) &&
	    bpf_probe_read_user(walk->words, 80, (void *)walk->frame)) {
		stack->event.status |= STACK_FAULT;
		return 1;
	}
	code = walk->words[(walk->python.frame_code >> 3) & 15];
	position = walk->words[(walk->python.frame_lasti >> 3) & 15];
	owner = (walk->words[(walk->python.frame_owner >> 3) & 15] >> ((walk->python.frame_owner & 7) * 8)) & 0xff;
	if (walk->python.shim_owner != 0xffff && owner >= walk->python.shim_owner) {
		mark = FRAME_SHIM;
		code = walk->frame;
		position = 0;
	} else {
		if (walk->python.entry_flag && owner)
			mark = FRAME_ENTRY;
		code &= ~(__u64)walk->python.code_tag_mask;
		if (walk->python.lasti_is_pointer)
			position -= code + walk->python.code_bytecode;
		if (code != walk->last_code) {
			walk->last_code = code;
			walk->last_hash = code_hash(walk, code);
			if (!walk->last_hash)
				stack->event.status |= STACK_CODE_FAULT;
			else if (walk->table_readable)
				emit_symbol(code, walk->last_hash);
		}
		position = (__u32)position | ((__u64)walk->last_hash << 32);
	}
	index = stack->event.kernel_frames + stack->event.python_frames;
	if (index >= PYLOW_MAX_FRAMES)
		return 1;
	stack->frames[index].word = (code & 0x00ffffffffffffffULL) | (mark << 56);
	stack->frames[index].position = position;
	stack->event.python_frames++;
	frame = walk->frame;
	walk->frame = walk->words[(walk->python.frame_previous >> 3) & 15];
	if (!walk->frame) {
		if (is_outermost(&walk->python, mark)) {
			stack->event.status |= STACK_ROOT;
		} else {
			stack->event.status |= STACK_TORN;
			walk->torn_frame = frame;
		}
		return 1;
	}
	return 0;
}

/*
 * A generator's frame becomes the current one some 20 instructions before it is linked to its caller (FOR_ITER_GEN of
 * 3.12, seen in one of 700 samples of generator-heavy code). The evaluation loop then still has the caller in a register,
 * in its variable `frame`. A register is that frame if it points to a linked frame whose code object has the type of the
 * torn frame's; with two such registers nothing is certain. Returns 1 when the walk can go on there.
 */
__noinline int find_caller(__u32 unused)
{
	__u32 zero = 0;
	struct walk_state *walk = bpf_map_lookup_elem(&walks, &zero);
	__u64 type, caller = 0;

	if (!walk || !walk->last_code)
		return 0;
	type = read_u64(walk->last_code + 8); /* ob_type */
	for (__u32 i = 0; i < CALLEE_SAVED; i++) {
		__u64 frame = walk->callee_saved[i], code, owner;

		if (frame < 4096 || frame & 7 || frame == walk->torn_frame || frame == caller)
			continue;
		if (bpf_probe_read_user(walk->words, 80, (void *)frame))
			continue;
		code = walk->words[(walk->python.frame_code >> 3) & 15] & ~(__u64)walk->python.code_tag_mask;
		owner = (walk->words[(walk->python.frame_owner >> 3) & 15] >> ((walk->python.frame_owner & 7) * 8)) &
			0xff;
		if (owner >= walk->python.shim_owner || !walk->words[(walk->python.frame_previous >> 3) & 15])
			continue;
		if (code < 4096 || read_u64(code + 8) != type)
			continue;
		if (caller)
			return 0;
		caller = frame;
	}
	walk->frame = caller;
	return caller != 0;
}

static __always_inline void walk_frames(void)
{
	for (__u32 i = 0; i < PYLOW_MAX_FRAMES; i++) {
		if (i >= config.max_frames)
			break;
		if (step_frame(i))
			break;
	}
}

/* 3.12 moved the GIL into the interpreter (a pointer), 3.9 the collector's flag. */
static __always_inline void read_interpreter_state(struct python_config *py, __u64 thread, __u32 *status)
{
	__u64 interpreter = read_u64(thread + py->thread_interpreter);
	__u64 gil = py->interpreter_gil ? read_u64(interpreter + py->interpreter_gil) : py->gil;
	__u64 collecting =
		py->interpreter_gc_collecting ? interpreter + py->interpreter_gc_collecting : py->gc_collecting;

	if (!gil || !read_u32(gil + py->gil_locked) || read_u64(gil + py->gil_holder) != thread)
		return;
	*status |= STACK_HOLDS_GIL;
	if (collecting && read_u32(collecting))
		*status |= STACK_GC;
}

/* A live object's reference count: never 0, and 32 bits at most; a freed one's first word is a pointer of its allocator. */
static __always_inline bool is_live(__u64 object)
{
	__u64 count = read_u64(object);

	return count && !(count >> 32);
}

/*
 * 3.11 and 3.12: _PyEval_EvalFrameDefault() makes its _PyCFrame the thread's current one a few instructions before it
 * sets current_frame, which until then is what an earlier call left in that place of the C stack. A frame without a live
 * code object is such a leftover: the caller's _PyCFrame is right then.
 */
static __always_inline __u64 cframe_current(struct python_config *py, __u64 cframe)
{
	__u64 frame = read_u64(cframe + py->cframe_frame);

	if (frame && is_live(read_u64(frame + py->frame_code)))
		return frame;
	cframe = read_u64(cframe + py->cframe_frame + 8); /* previous follows current_frame */
	return cframe ? read_u64(cframe + py->cframe_frame) : frame;
}

/* Appends the current thread's Python frames to the per-CPU stack, whose event is initialised. */
static __always_inline void walk_python(struct python_config *py, __u64 thread_pointer, const __u64 *callee_saved)
{
	__u32 zero = 0;
	struct walk_state *walk = bpf_map_lookup_elem(&walks, &zero);
	struct walked_stack *stack = bpf_map_lookup_elem(&stacks, &zero);
	__u64 thread, frame = 0;

	if (!walk || !stack)
		return;
	thread = thread_state(py, thread_pointer, &stack->event.thread_state_source);
	if (!thread) {
		stack->event.status |= STACK_NO_THREAD;
		return;
	}
	read_interpreter_state(py, thread, &stack->event.status);
	if (bpf_probe_read_user(&frame, sizeof(frame), (void *)(thread + py->thread_frame))) {
		stack->event.status |= STACK_FAULT;
		return;
	}
	if (py->has_cframe && frame)
		frame = cframe_current(py, frame);
	if (!frame) {
		stack->event.status |= STACK_NO_FRAMES;
		return;
	}
	__builtin_memcpy(&walk->python, py, sizeof(*py));
	walk->frame = frame;
	walk->last_code = 0;
	__builtin_memcpy(walk->callee_saved, callee_saved, sizeof(walk->callee_saved));
	walk->tgid = stack->event.header.tgid;
	walk_frames();
	if (stack->event.status & STACK_TORN && find_caller(0)) {
		stack->event.status &= ~STACK_TORN;
		walk_frames();
	}
	if (!(stack->event.status & (STACK_ROOT | STACK_FAULT | STACK_TORN)))
		stack->event.status |= STACK_TRUNCATED;
}

#endif /* PYLOW_PYTHON_H */
