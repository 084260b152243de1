/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The options of this run and the processes it follows. The only filter: every program asks `followed()` first. */
#ifndef PYLOW_CONFIG_H
#define PYLOW_CONFIG_H

const volatile struct session_config config SEC(".rodata.config");

/* Key: tgid. Written by user space, on fork and exit also by process.bpf.c in process context. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct process_config);
} processes SEC(".maps");

static __always_inline struct process_config *followed(__u32 tgid, __u32 tid)
{
	if (config.tid && config.tid != tid)
		return NULL;
	return bpf_map_lookup_elem(&processes, &tgid);
}

static __always_inline struct process_config *followed_current(void)
{
	__u64 id = bpf_get_current_pid_tgid();

	return followed(id >> 32, (__u32)id);
}

#endif /* PYLOW_CONFIG_H */
