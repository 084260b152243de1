"""Threads that wait in the ways programs wait: a lock, a queue, a socket, a pipe, a clock, each other."""
import os
import queue
import socket
import threading
import time

from contact import done, ready

PAUSE = 0.002


def sleeper(stop):
    while not stop.is_set():
        time.sleep(PAUSE)


def pipe_reader(end):
    while os.read(end, 1):
        pass


def socket_reader(end):
    while end.recv(16):
        pass


def queue_reader(jobs):
    while jobs.get() is not None:
        pass


def lock_taker(lock, stop):
    while not stop.is_set():
        with lock:
            time.sleep(PAUSE)


def feeder(stop, pipe, end, jobs):
    while not stop.is_set():
        os.write(pipe, b"x")
        end.send(b"x")
        jobs.put(1)
        time.sleep(PAUSE)
    os.close(pipe)
    end.close()
    jobs.put(None)


def main():
    stop, lock, jobs = threading.Event(), threading.Lock(), queue.Queue()
    pipe_from, pipe_to = os.pipe()
    near, far = socket.socketpair()
    threads = [
        threading.Thread(target=sleeper, args=(stop,)),
        threading.Thread(target=pipe_reader, args=(pipe_from,)),
        threading.Thread(target=socket_reader, args=(near,)),
        threading.Thread(target=queue_reader, args=(jobs,)),
        threading.Thread(target=lock_taker, args=(lock, stop)),
        threading.Thread(target=lock_taker, args=(lock, stop)),
        threading.Thread(target=feeder, args=(stop, pipe_to, far, jobs)),
    ]
    for thread in threads:
        thread.start()
    ready()
    stop.set()
    for thread in threads:
        thread.join()
    done()


main()
