// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Forks, execs and ends of the followed processes. A forked child has its parent's memory layout, so also its config. */
#include "lib/kernel.bpf.h"
#include "lib/config.bpf.h"
#include "lib/event.bpf.h"

static __always_inline void emit_process(__u32 kind, __u32 tgid, __u32 other)
{
	struct process_event event = { .other = other };

	header_init(&event.header, kind);
	event.header.tgid = tgid;
	if (bpf_ringbuf_output(&events, &event, sizeof(event), ring_flags()))
		outcome_add(OUTCOME_PROCESS_LOST, 1);
}

SEC("raw_tp/sched_process_fork")
int sched_process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 parent = BPF_CORE_READ((struct task_struct *)ctx->args[0], tgid);
	__u32 child = BPF_CORE_READ((struct task_struct *)ctx->args[1], tgid);
	struct process_config *process;

	if (parent == child || !config.follow_children) /* a new thread */
		return 0;
	process = bpf_map_lookup_elem(&processes, &parent);
	if (!process)
		return 0;
	bpf_map_update_elem(&processes, &child, process, BPF_ANY);
	emit_process(EVENT_FORK, parent, child);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct process_config *process = bpf_map_lookup_elem(&processes, &tgid);

	if (!process)
		return 0;
	process->is_python = 0; /* the old image is gone; user space looks at the new one */
	emit_process(EVENT_EXEC, tgid, 0);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	__u32 tgid = BPF_CORE_READ(task, tgid);

	/* do_exit() counts the thread out before this tracepoint: 0 left means the process ends. */
	if (BPF_CORE_READ(task, signal, live.counter) || !bpf_map_lookup_elem(&processes, &tgid))
		return 0;
	bpf_map_delete_elem(&processes, &tgid);
	emit_process(EVENT_EXIT, tgid, 0);
	return 0;
}
