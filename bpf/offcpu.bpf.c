// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Off-CPU intervals of the followed threads: a stack when a thread goes to wait, and when it runs again how long it
 * waited and how long it then stood in a run queue. Preempted threads (still runnable) do not wait; on demand their time in
 * the run queue is taken too.
 */
#include "lib/kernel.bpf.h"
#include "lib/config.bpf.h"
#include "lib/event.bpf.h"
#include "lib/python.bpf.h"
#include "lib/stack.bpf.h"

#define WAIT_SLOTS 65536
#define TASK_DEAD 0x80 /* include/linux/sched.h: the last switch of an exiting thread */

/* By low bits of the tid: an array, since hash updates under the run-queue lock can deadlock; a collision is counted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAIT_SLOTS);
	__type(key, __u32);
	__type(value, struct wait_slot);
} waits SEC(".maps");

static __always_inline struct wait_slot *wait_of(__u32 tid)
{
	__u32 slot = tid & (WAIT_SLOTS - 1);

	return bpf_map_lookup_elem(&waits, &slot);
}

static __always_inline void wait_ends(struct task_struct *next)
{
	__u32 tid = BPF_CORE_READ(next, pid);
	struct wait_slot *wait = wait_of(tid);
	struct resume_event event;
	__u64 woken;

	if (!wait || wait->tid != tid)
		return;
	wait->tid = 0;
	event.header.ktime_ns = bpf_ktime_get_ns();
	event.header.tgid = BPF_CORE_READ(next, tgid);
	event.header.tid = tid;
	event.header.kind = EVENT_RESUME;
	event.header.cpu = bpf_get_smp_processor_id();
	woken = wait->woken_ns ? wait->woken_ns : event.header.ktime_ns;
	event.blocked_at_ns = wait->blocked_ns;
	event.blocked_ns = woken - wait->blocked_ns;
	event.runqueue_ns = event.header.ktime_ns - woken;
	outcome_add(OUTCOME_GENERATED, 1);
	if (bpf_ringbuf_output(&events, &event, sizeof(event), ring_flags()))
		outcome_add(OUTCOME_LOST, 1);
}

static __always_inline void wait_begins(void *ctx, struct task_struct *prev, bool preempted)
{
	struct process_config *process = followed_current();
	struct stack_request request = { .kind = EVENT_BLOCK, .kernel = true, .syscall_args = true };
	__u32 zero = 0, tid = (__u32)bpf_get_current_pid_tgid();
	struct walked_stack *stack;
	struct wait_slot *wait;

	if (!process)
		return;
	request.value = preempted ? 0 : (__s32)task_state(prev);
	if (request.value & TASK_DEAD || (!request.value && !config.preemptions))
		return;
	wait = wait_of(tid);
	if (!wait)
		return;
	if (wait->tid && wait->tid != tid)
		outcome_add(OUTCOME_COLLIDED, 1);
	emit_stack(ctx, process, &request);
	stack = bpf_map_lookup_elem(&stacks, &zero);
	if (!stack)
		return;
	wait->blocked_ns = stack->event.header.ktime_ns;
	wait->woken_ns = request.value ? 0 : wait->blocked_ns; /* a runnable thread needs no wake-up */
	wait->tid = tid;
}

SEC("raw_tp/sched_switch")
int sched_switch(struct bpf_raw_tracepoint_args *ctx)
{
	bool preempted = ctx->args[0];

	wait_ends((struct task_struct *)ctx->args[2]);
	wait_begins(ctx, (struct task_struct *)ctx->args[1], preempted);
	return 0;
}

SEC("raw_tp/sched_wakeup")
int sched_wakeup(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 tid = BPF_CORE_READ((struct task_struct *)ctx->args[0], pid);
	struct wait_slot *wait = wait_of(tid);

	if (wait && wait->tid == tid && !wait->woken_ns)
		wait->woken_ns = bpf_ktime_get_ns();
	return 0;
}
