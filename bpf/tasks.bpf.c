// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The saved user registers of every thread of the followed processes, at one moment, without stopping them. */
#include "lib/kernel.bpf.h"
#include "lib/config.bpf.h"

SEC("iter/task")
int tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_record record = {};
	struct user_regs regs = {};
	__u32 tgid;

	if (!task)
		return 0;
	tgid = task->tgid;
	if (!followed(tgid, task->pid))
		return 0;
	if (!read_user_regs(&regs, task_user_regs(task)))
		return 0;
	record.tgid = tgid;
	record.tid = task->pid;
	record.thread_pointer = task_thread_pointer(task);
	record.ip = regs.ip;
	record.sp = regs.sp;
	record.bp = regs.bp;
	record.lr = regs.lr;
	record.syscall = regs.syscall >= 0 && regs.syscall < PYLOW_MAX_SYSCALLS ? (__s32)regs.syscall : -1;
	record.state = task_state(task);
	record.args[0] = regs.args[0];
	record.args[1] = regs.args[1];
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}
