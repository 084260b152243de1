// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* walker IMAGE PROCESS TGID THREAD_POINTER: one walk over saved memory; symbol records and the stack go to stdout. */
#include "host.h"
#include "lib/python.bpf.h"

/* Ranges of { address, length, bytes }, all of it read at once. */
static void load_image(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct host_range range;

	if (!file)
		exit(2);
	while (fread(&range, 2 * sizeof(__u64), 1, file)) {
		__u8 *bytes = malloc(range.length);

		if (!bytes || fread(bytes, range.length, 1, file) != 1)
			exit(3);
		range.bytes = bytes;
		host_ranges = realloc(host_ranges, (host_range_count + 1) * sizeof(range));
		host_ranges[host_range_count++] = range;
	}
	fclose(file);
}

static void load_process(const char *path, struct process_config *process)
{
	FILE *file = fopen(path, "rb");

	if (!file || fread(process, sizeof(*process), 1, file) != 1)
		exit(4);
	fclose(file);
}

int main(int argc, char **argv)
{
	struct process_config process;
	struct walked_stack *stack;
	__u32 zero = 0;

	if (argc != 5)
		return 1;
	load_image(argv[1]);
	load_process(argv[2], &process);
	host_tgid = strtoul(argv[3], NULL, 10);
	stack = bpf_map_lookup_elem(&stacks, &zero);
	header_init(&stack->event.header, EVENT_SAMPLE);
	stack->event.syscall = -1;
	const __u64 no_registers[CALLEE_SAVED] = {};

	walk_python(&process.python, strtoull(argv[4], NULL, 10), no_registers);
	host_emit(stack, sizeof(stack->event) + stack->event.python_frames * sizeof(struct frame_record));
	return 0;
}
