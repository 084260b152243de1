/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One stack of the current thread, kernel frames first, then Python frames; before it, when asked for, its native stack. */
#ifndef PYLOW_STACK_H
#define PYLOW_STACK_H

#define STACK_PIECE_BYTES 2048 /* the user stack is copied in such pieces, */
#define STACK_CRUMB_BYTES 128  /* and in these where a piece ends in an unmapped page */

struct native_stack {
	struct native_event event;
	__u8 bytes[PYLOW_NATIVE_STACK_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct native_stack);
} native_stacks SEC(".maps");

struct kernel_stack {
	__u64 addresses[PYLOW_MAX_KERNEL_FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kernel_stack);
} kernel_stacks SEC(".maps");

static __always_inline void take_kernel_frames(void *ctx, struct walked_stack *stack)
{
	__u32 zero = 0;
	struct kernel_stack *kernel = bpf_map_lookup_elem(&kernel_stacks, &zero);
	long bytes;

	if (!kernel)
		return;
	bytes = bpf_get_stack(ctx, kernel, sizeof(*kernel), 0);
	for (__u32 i = 0; i < PYLOW_MAX_KERNEL_FRAMES; i++) {
		if ((long)(i * 8) >= bytes)
			break;
		stack->frames[i].word = kernel->addresses[i];
		stack->frames[i].position = 0;
		stack->event.kernel_frames = i + 1;
	}
}

/* How far the stack can reach: its thread's control block lies at its top, the main thread's top is start_stack. */
static __always_inline __u64 stack_top(struct task_struct *task, __u64 sp, __u64 thread_pointer)
{
	__u64 start = BPF_CORE_READ(task, mm, start_stack);

	if (sp < start && start - sp < (1ULL << 30))
		return start;
	return thread_pointer > sp ? thread_pointer : ~0ULL;
}

static __always_inline void emit_native(struct task_struct *task, const struct event_header *of, struct user_regs *regs,
					__u64 thread_pointer)
{
	__u32 zero = 0;
	struct native_stack *native = bpf_map_lookup_elem(&native_stacks, &zero);
	__u64 got = 0, top, size;

	if (!native)
		return;
	native->event.header = *of;
	native->event.header.kind = EVENT_NATIVE;
	native->event.ip = regs->ip;
	native->event.sp = regs->sp;
	native->event.bp = regs->bp;
	native->event.lr = regs->lr;
	top = stack_top(task, regs->sp, thread_pointer) - regs->sp;
	for (__u32 i = 0; i < PYLOW_NATIVE_STACK_BYTES / STACK_PIECE_BYTES; i++) {
		__u32 at = i * STACK_PIECE_BYTES;

		if (at >= top)
			break;
		if (!bpf_probe_read_user(&native->bytes[at], STACK_PIECE_BYTES, (void *)(regs->sp + at))) {
			got = at + STACK_PIECE_BYTES;
			continue;
		}
		for (__u32 j = 0; j < STACK_PIECE_BYTES / STACK_CRUMB_BYTES; j++) {
			__u32 crumb = at + j * STACK_CRUMB_BYTES;

			if (bpf_probe_read_user(&native->bytes[crumb], STACK_CRUMB_BYTES, (void *)(regs->sp + crumb)))
				break;
			got = crumb + STACK_CRUMB_BYTES;
		}
		break;
	}
	if (got > top)
		got = top;
	native->event.stack_bytes = got;
	size = sizeof(native->event) + got;
	asm volatile("" : "+r"(size));
	if (size > sizeof(*native))
		size = sizeof(*native);
	if (bpf_ringbuf_output(&events, native, size, BPF_RB_NO_WAKEUP))
		outcome_add(OUTCOME_NATIVE_LOST, 1);
}

struct stack_request {
	__u32 kind;
	__u32 status;
	__s32 value;
	bool kernel; /* take kernel frames, if the run wants any */
	__u64 args[2];
	bool syscall_args; /* `args` are those of the system call the thread is in */
};

/* Takes and sends one stack of the current thread, which belongs to `process`. */
static __always_inline int emit_stack(void *ctx, struct process_config *process, const struct stack_request *request)
{
	__u32 zero = 0, frames;
	__u64 size, thread_pointer, began = bpf_ktime_get_ns();
	struct walked_stack *stack = bpf_map_lookup_elem(&stacks, &zero);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct user_regs regs = {};

	if (!stack)
		return 0;
	outcome_add(OUTCOME_GENERATED, 1);
	header_init(&stack->event.header, request->kind);
	stack->event.status = request->status;
	stack->event.kernel_frames = 0;
	stack->event.python_frames = 0;
	stack->event.thread_state_source = THREAD_STATE_NONE;
	stack->event.value = request->value;
	stack->event.pad = 0;
	thread_pointer = task_thread_pointer(task);
	if (!read_user_regs(&regs, current_user_regs()))
		regs.syscall = -1;
	stack->event.user_ip = regs.ip;
	stack->event.syscall = regs.syscall >= 0 && regs.syscall < PYLOW_MAX_SYSCALLS ? (__s32)regs.syscall : -1;
	stack->event.args[0] = request->syscall_args ? regs.args[0] : request->args[0];
	stack->event.args[1] = request->syscall_args ? regs.args[1] : request->args[1];
	if (config.kernel_stacks && request->kernel)
		take_kernel_frames(ctx, stack);
	if (config.python_stacks) {
		if (process->is_python)
			walk_python(&process->python, thread_pointer, regs.callee_saved);
		else
			stack->event.status |= STACK_NOT_PYTHON;
	}
	if (config.native_stacks)
		emit_native(task, &stack->event.header, &regs, thread_pointer);
	frames = stack->event.kernel_frames + stack->event.python_frames;
	size = sizeof(stack->event) + (__u64)frames * sizeof(struct frame_record);
	asm volatile("" : "+r"(size));
	if (size > sizeof(*stack))
		size = sizeof(*stack);
	if (bpf_ringbuf_output(&events, stack, size, ring_flags()))
		outcome_add(OUTCOME_LOST, 1);
	outcome_add(OUTCOME_NS, bpf_ktime_get_ns() - began);
	return 0;
}

#endif /* PYLOW_STACK_H */
