"""Burns CPU time at the bottom of a recursion of known depth."""
import sys
import threading

from contact import done, ready

DEPTH = int(sys.argv[1])


def bottom():
    total = 0
    for i in range(200000):
        total += i
    return total


def down(depth):
    if depth == 1:
        return bottom()
    return down(depth - 1)


def work(stop):
    while not stop.is_set():
        down(DEPTH)


def main():
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(stop,))
    worker.start()
    ready()
    stop.set()
    worker.join()
    done()


main()
