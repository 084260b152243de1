/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The one ring and the counters of what happened to its events. A wake-up per event would make a feedback loop (the
 * reader wakes, preempts the target, which switches again), so records are submitted without one and the reader polls.
 */
#ifndef PYLOW_EVENT_H
#define PYLOW_EVENT_H

/* Data waiting in the ring from which the reader is woken all the same. */
#define WAKE_AT_BYTES (1 << 20)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOME_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

static __always_inline void outcome_add(__u32 outcome, __u64 n)
{
	__u64 *count = bpf_map_lookup_elem(&outcomes, &outcome);

	if (count)
		*count += n;
}

static __always_inline __u64 ring_flags(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= WAKE_AT_BYTES ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void header_init(struct event_header *header, __u32 kind)
{
	__u64 id = bpf_get_current_pid_tgid();

	header->ktime_ns = bpf_ktime_get_ns();
	header->tgid = id >> 32;
	header->tid = (__u32)id;
	header->kind = kind;
	header->cpu = bpf_get_smp_processor_id();
}

#endif /* PYLOW_EVENT_H */
