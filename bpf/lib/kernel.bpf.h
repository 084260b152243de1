/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel's types and helpers in their one right order, the licence, and the shims for what changed between 5.10 and today. */
#ifndef PYLOW_KERNEL_H
#define PYLOW_KERNEL_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "pylow.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Value of errno-like results the kernel returns from system calls: -4095..-1 (include/linux/err.h). */
#define IS_SYSCALL_ERROR(result) ((__u64)(result) >= (__u64)-4095)

/* 2f064a59a11f (v5.14) renamed task->state to task->__state. */
static __always_inline __u32 task_state(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return BPF_CORE_READ(task, __state);
	return (__u32)BPF_CORE_READ((struct task_struct___before_5_14 *)task, state);
}

/* pthread_self() of the thread: the base of its thread-local storage. */
static __always_inline __u64 task_thread_pointer(struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ(task, thread.fsbase);
#else
	return BPF_CORE_READ(task, thread.uw.tp_value);
#endif
}

#if defined(__TARGET_ARCH_x86)
#define KERNEL_STACK_BYTES 16384 /* THREAD_SIZE without KASAN, arch/x86/include/asm/page_64_types.h */
#else
#define KERNEL_STACK_BYTES 16384 /* THREAD_SIZE with 4 KiB pages, arch/arm64/include/asm/memory.h */
#endif

/* Where a task's saved user registers are; `task` must be a pointer the verifier trusts. bpf_task_pt_regs() came in 5.15. */
static __always_inline struct pt_regs *task_user_regs(struct task_struct *task)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (struct pt_regs *)bpf_task_pt_regs(task);
	/* Before: where the entry code stores them, at the end of the kernel stack. */
	return (struct pt_regs *)((__u64)BPF_CORE_READ(task, stack) + KERNEL_STACK_BYTES - sizeof(struct pt_regs));
}

static __always_inline struct pt_regs *current_user_regs(void)
{
	/* bpf_get_current_task_btf() came in 5.11. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return task_user_regs(bpf_get_current_task_btf());
	return task_user_regs((struct task_struct *)bpf_get_current_task());
}

#if defined(__TARGET_ARCH_x86)
#define CALLEE_SAVED 6 /* System V ABI: rbx, rbp, r12 to r15 */
#else
#define CALLEE_SAVED 10 /* AAPCS64: x19 to x28 */
#endif

struct user_regs {
	__u64 ip, sp, bp, lr;
	__u64 callee_saved[CALLEE_SAVED];
	__s64 syscall; /* -1 when the thread is not in a system call */
	__u64 args[2];
};

/* False when the saved registers can't be read. */
static __always_inline bool read_user_regs(struct user_regs *to, struct pt_regs *from)
{
	struct pt_regs regs;

	if (bpf_probe_read_kernel(&regs, sizeof(regs), from))
		return false;
#if defined(__TARGET_ARCH_x86)
	to->ip = regs.ip;
	to->sp = regs.sp;
	to->bp = regs.bp;
	to->lr = 0;
	to->syscall = (__s64)regs.orig_ax;
	to->args[0] = regs.di;
	to->args[1] = regs.si;
	to->callee_saved[0] = regs.bx;
	to->callee_saved[1] = regs.bp;
	to->callee_saved[2] = regs.r12;
	to->callee_saved[3] = regs.r13;
	to->callee_saved[4] = regs.r14;
	to->callee_saved[5] = regs.r15;
#else
	to->ip = regs.pc;
	to->sp = regs.sp;
	to->bp = regs.regs[29];
	to->lr = regs.regs[30];
	to->syscall = regs.syscallno;
	to->args[0] = regs.orig_x0;
	to->args[1] = regs.regs[1];
	for (int i = 0; i < CALLEE_SAVED; i++)
		to->callee_saved[i] = regs.regs[19 + i];
#endif
	return true;
}

#endif /* PYLOW_KERNEL_H */
