/* SPDX-License-Identifier: MIT */
/* The three values libbpf's headers ask for, so that no system header is read by the BPF build. */
#ifndef PYLOW_LINUX_ERRNO_H
#define PYLOW_LINUX_ERRNO_H
#define ENOENT 2
#define ESRCH 3
#define EINVAL 22
#endif
