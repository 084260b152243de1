"""Threads that stay where they are, below C code that calls Python: in a sleep, at a lock, at a socket; and, when asked
for (`burn`), one that never stops."""
import socket
import sys
import threading
import time

from contact import ready


def through_c(wait):
    def key(item):
        secret_of_this_frame = "kept"
        wait()
        return item, secret_of_this_frame

    return sorted([1], key=key)


def sleep():
    time.sleep(100000)


def take(lock):
    lock.acquire()


def receive(end):
    end.recv(16)


def burn():
    while True:
        pass


def main():
    lock = threading.Lock()
    lock.acquire()
    near, far = socket.socketpair()
    waits = {"sleeper": sleep, "locker": lambda: take(lock), "receiver": lambda: receive(near)}
    threads = [threading.Thread(target=through_c, args=(wait,), name=name) for name, wait in waits.items()]
    if "burn" in sys.argv:
        threads.append(threading.Thread(target=burn, name="burner"))
    for thread in threads:
        thread.daemon = True
        thread.start()
    through_c(ready)
    del far


main()
