"""A prefork server: children forked before and after the test attaches, each busy in a function of its own."""
import os
import signal

from contact import done, ready


def spin():
    return sum(i * i for i in range(1000))


def work_of_early_child(parent):
    while os.getppid() == parent:
        spin()


def work_of_late_child(parent):
    while os.getppid() == parent:
        spin()


def fork(work):
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        work(parent)
        os._exit(0)
    return pid


def main():
    children = [fork(work_of_early_child)]
    ready()
    children.append(fork(work_of_late_child))
    done()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


main()
