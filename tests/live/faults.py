"""Programs with one seeded fault each: `faults.py NAME`. What is wrong with each is in its docstring."""
import mmap
import os
import socket
import sys
import threading
import time

from contact import ready


def start(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()


def cpu():
    """One thread computes."""
    def crunch():
        total = 0
        while True:
            for i in range(1000):
                total += i * i  # the hot line
    start(crunch)


def io():
    """One thread waits for answers that take 20 ms each."""
    near, far = socket.socketpair()

    def answer():
        near.close()
        while True:
            request = far.recv(64)
            if not request:
                os._exit(0)
            time.sleep(0.02)
            far.send(request)

    if os.fork() == 0:
        try:
            answer()
        finally:
            os._exit(0)  # the parent is gone
    far.close()

    def ask():
        while True:
            near.send(b"question")
            near.recv(64)
    start(ask)


def syscalls():
    """One thread reads a file byte by byte."""
    def read_bytes():
        file = os.open("/dev/zero", os.O_RDONLY)
        while True:
            os.read(file, 1)
    start(read_bytes)


def gil():
    """Eight threads compute, one can run."""
    def compete():
        while True:
            sum(i * i for i in range(1000))
    for _ in range(8):
        start(compete)


def lock():
    """Six threads want a lock that is always held through a sleep."""
    guard = threading.Lock()

    def take():
        while True:
            with guard:
                time.sleep(0.01)
    for _ in range(6):
        start(take)


def idle():
    """Nothing happens."""


def deadlock():
    """Two threads take two locks in opposite order."""
    a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(2)

    def take(first, second):
        with first:
            both.wait()
            with second:
                pass
    start(take, a, b)
    start(take, b, a)


def memory():
    """One thread touches fresh memory and gives it back."""
    def touch():
        while True:
            area = mmap.mmap(-1, 64 << 20)
            for page in range(0, len(area), 4096):
                area[page] = 1
            area.close()
    start(touch)


globals()[sys.argv[1]]()
ready()
os._exit(0)
