"""Makes known numbers of known system calls and no others of their names.

The word to begin and to end comes as a signal and the answer is a directory: reading and writing would be counted.
"""
import os
import select
import signal
import sys

from contact import tell

CALLS = {
    "getppid": 700, "read": 500, "write": 300, "openat": 200, "close": 200, "lseek": 150, "pread64": 120,
    "sched_yield": 90, "epoll_wait": 60,
}


def main():
    answer = sys.argv[1]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    zero, null = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    epoll = select.epoll()
    epoll.register(0, 0)
    for name, count in CALLS.items():
        tell("count", name, count)
    tell("ready", os.getpid())
    signal.sigwait([signal.SIGUSR1])
    for _ in range(CALLS["getppid"]):
        os.getppid()
    for _ in range(CALLS["read"]):
        os.read(zero, 8)
    for _ in range(CALLS["write"]):
        os.write(null, b"8 bytes.")
    for _ in range(CALLS["openat"]):
        os.close(os.open("/dev/null", os.O_RDONLY))
    for _ in range(CALLS["lseek"]):
        os.lseek(zero, 0, os.SEEK_SET)
    for _ in range(CALLS["pread64"]):
        os.pread(zero, 8, 0)
    for _ in range(CALLS["sched_yield"]):
        os.sched_yield()
    for _ in range(CALLS["epoll_wait"]):
        epoll.poll(0)
    os.mkdir(answer)
    signal.sigwait([signal.SIGUSR1])


main()
