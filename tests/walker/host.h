/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Stands in for the kernel where bpf/lib/python.bpf.h is compiled for the host: its helpers, its maps, and as user
 * memory a saved image. Records go to standard output, each after its length.
 */
#ifndef PYLOW_HOST_H
#define PYLOW_HOST_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pylow.h"

#define SEC(name)
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define __noinline __attribute__((noinline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

#define CALLEE_SAVED 6

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
enum { BPF_RB_NO_WAKEUP = 1 };

static struct session_config config = { .max_frames = PYLOW_MAX_FRAMES, .python_stacks = 1 };
static __u32 host_tgid;
static int events;

/* Saved memory: ranges in the order of their addresses. */
struct host_range {
	__u64 address, length;
	const __u8 *bytes;
};

static struct host_range *host_ranges;
static size_t host_range_count;

static const struct host_range *host_find(__u64 address)
{
	size_t low = 0, high = host_range_count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct host_range *range = &host_ranges[middle];

		if (address < range->address)
			high = middle;
		else if (address - range->address >= range->length)
			low = middle + 1;
		else
			return range;
	}
	return NULL;
}

/* All or nothing, and zeros where there is nothing, as the kernel does it. */
static long bpf_probe_read_user(void *to, __u32 length, const void *from)
{
	__u64 address = (__u64)from;
	__u32 done = 0;

	while (done < length) {
		const struct host_range *range = host_find(address + done);
		__u64 at, room;

		if (!range)
			break;
		at = address + done - range->address;
		room = range->length - at;
		if (room > length - done)
			room = length - done;
		memcpy((char *)to + done, range->bytes + at, room);
		done += room;
	}
	if (done == length)
		return 0;
	memset(to, 0, length);
	return -14; /* -EFAULT */
}

/* One CPU, and hash maps are empty: user space has entered nothing. */
static void *host_lookup(const void *map, int type, size_t value_bytes, size_t entries, __u32 index)
{
	static struct {
		const void *map;
		char *values;
	} maps[8];

	if (type == BPF_MAP_TYPE_HASH || index >= entries)
		return NULL;
	for (size_t i = 0; i < sizeof(maps) / sizeof(*maps); i++) {
		if (!maps[i].map) {
			maps[i].map = map;
			maps[i].values = calloc(entries, value_bytes);
		}
		if (maps[i].map == map)
			return maps[i].values + index * value_bytes;
	}
	abort();
}

#define host_number(field) (sizeof(*(field)) / sizeof(int))
#define bpf_map_lookup_elem(map, key)                                                                                  \
	host_lookup(map, host_number((map)->type), sizeof(*(map)->value), host_number((map)->max_entries),             \
		    *(const __u32 *)(key))

static __u64 bpf_ktime_get_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void host_emit(const void *record, __u32 length)
{
	fwrite(&length, sizeof(length), 1, stdout);
	fwrite(record, length, 1, stdout);
}

static __u32 host_reserved;

static void *bpf_ringbuf_reserve(void *ring, __u64 length, __u64 flags)
{
	(void)ring, (void)flags;
	host_reserved = length;
	return calloc(1, length);
}

static void bpf_ringbuf_submit(void *record, __u64 flags)
{
	(void)flags;
	host_emit(record, host_reserved);
	free(record);
}

static void outcome_add(__u32 outcome, __u64 n)
{
	(void)outcome, (void)n;
}

static void header_init(struct event_header *header, __u32 kind)
{
	header->ktime_ns = bpf_ktime_get_ns();
	header->tgid = header->tid = host_tgid;
	header->kind = kind;
	header->cpu = 0;
}

#endif /* PYLOW_HOST_H */
