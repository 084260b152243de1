"""Two busy threads, of which one works without the GIL; tells the CPU time of each."""
import threading
import zlib

from contact import cpu_seconds, done, ready, tell

DATA = b"all work and no play makes " * 40000


def squeeze():
    return len(zlib.compress(DATA, 9))


def count():
    return sum(i * i for i in range(20000))


def work(function, stop):
    start = cpu_seconds()
    while not stop.is_set():
        function()
    used[function.__name__] = cpu_seconds() - start


used = {}


def main():
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(function, stop)) for function in (squeeze, count)]
    for thread in threads:
        thread.start()
    ready()
    stop.set()
    for thread in threads:
        thread.join()
    for name, seconds in used.items():
        tell("used", name, seconds)
    done()


main()
