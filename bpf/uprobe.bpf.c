// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A stack whenever a followed process enters a chosen function of a mapped file. */
#include "lib/kernel.bpf.h"
#include "lib/config.bpf.h"
#include "lib/event.bpf.h"
#include "lib/python.bpf.h"
#include "lib/stack.bpf.h"

SEC("uprobe")
int function_entry(struct pt_regs *ctx)
{
	struct process_config *process = followed_current();
	struct stack_request request = { .kind = EVENT_UPROBE };

	if (!process)
		return 0;
	return emit_stack(ctx, process, &request);
}
