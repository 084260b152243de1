// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* On-CPU samples and page faults of the followed processes, by perf software events. */
#include "lib/kernel.bpf.h"
#include "lib/config.bpf.h"
#include "lib/event.bpf.h"
#include "lib/python.bpf.h"
#include "lib/stack.bpf.h"

static __always_inline bool in_kernel(struct bpf_perf_event_data *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return !(ctx->regs.cs & 3);
#else
	return (ctx->regs.pstate & 0xf) != 0;
#endif
}

SEC("perf_event")
int on_cpu(struct bpf_perf_event_data *ctx)
{
	struct process_config *process = followed_current();
	struct stack_request request = { .kind = EVENT_SAMPLE };

	if (!process)
		return 0;
	request.kernel = in_kernel(ctx);
	if (request.kernel)
		request.status = STACK_IN_KERNEL;
	return emit_stack(ctx, process, &request);
}

/* Attached with a sample period, so one stack stands for that many faults. */
SEC("perf_event")
int page_fault(struct bpf_perf_event_data *ctx)
{
	struct process_config *process = followed_current();
	struct stack_request request = { .kind = EVENT_FAULT, .kernel = true };

	if (!process)
		return 0;
	request.args[0] = ctx->addr;
	return emit_stack(ctx, process, &request);
}
