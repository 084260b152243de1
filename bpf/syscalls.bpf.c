// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* System calls of the followed processes: counts, errors and latencies by number in the kernel, or a stack at one call. */
#include "lib/kernel.bpf.h"
#include "lib/config.bpf.h"
#include "lib/event.bpf.h"
#include "lib/python.bpf.h"
#include "lib/stack.bpf.h"

#define CALL_SLOTS 65536

struct call {
	__u32 tid;
	__s32 syscall;
	__u64 entered_ns;
};

/* The call each thread is in, by low bits of its tid; a collision makes one call unfinished, and is counted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALL_SLOTS);
	__type(key, __u32);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PYLOW_MAX_SYSCALLS);
	__type(key, __u32);
	__type(value, struct syscall_stats);
} syscalls SEC(".maps");

static __always_inline struct call *call_of(__u32 tid)
{
	__u32 slot = tid & (CALL_SLOTS - 1);

	return bpf_map_lookup_elem(&calls, &slot);
}

static __always_inline __u32 log2_slot(__u64 value)
{
	__u32 slot = 0;

	/* Halving the search width: 6 steps find the highest bit of 64. */
	for (int width = 32; width; width /= 2) {
		if (value >> width) {
			value >>= width;
			slot += width;
		}
	}
	return slot < PYLOW_LATENCY_SLOTS ? slot : PYLOW_LATENCY_SLOTS - 1;
}

SEC("raw_tp/sys_enter")
int sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u32 number = (__u32)ctx->args[1];
	struct syscall_stats *stats;
	struct call *call;

	if (!followed_current())
		return 0;
	stats = bpf_map_lookup_elem(&syscalls, &number);
	call = call_of(tid);
	if (!stats || !call)
		return 0;
	stats->entered++;
	if (call->tid && call->tid != tid)
		outcome_add(OUTCOME_COLLIDED, 1);
	call->tid = tid;
	call->syscall = (__s32)number;
	call->entered_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("raw_tp/sys_exit")
int sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid(), number;
	struct syscall_stats *stats;
	struct call *call;
	__u64 took;

	if (!followed_current())
		return 0;
	call = call_of(tid);
	if (!call || call->tid != tid)
		return 0;
	call->tid = 0;
	number = (__u32)call->syscall;
	stats = bpf_map_lookup_elem(&syscalls, &number);
	if (!stats)
		return 0;
	took = bpf_ktime_get_ns() - call->entered_ns;
	stats->finished++;
	stats->total_ns += took;
	if (took > stats->max_ns)
		stats->max_ns = took;
	if (IS_SYSCALL_ERROR(ctx->args[1]))
		stats->errors++;
	stats->slots[log2_slot(took)]++;
	return 0;
}

SEC("raw_tp/sys_enter")
int sys_enter_stack(struct bpf_raw_tracepoint_args *ctx)
{
	struct process_config *process = followed_current();
	struct stack_request request = { .kind = EVENT_SYSCALL, .syscall_args = true };

	if (!process)
		return 0;
	request.value = (__s32)ctx->args[1];
	if (config.syscall >= 0 && request.value != config.syscall)
		return 0;
	return emit_stack(ctx, process, &request);
}
