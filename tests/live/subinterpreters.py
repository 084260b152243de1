"""Burns CPU time inside a sub-interpreter, in a thread of its own (3.8 and newer)."""
import threading

from contact import done, ready

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

INSIDE = """
import os
def inside():
    total = 0
    for i in range(20000):
        total += i
    return total
def outermost():
    while not os.path.exists(%r):
        inside()
outermost()
"""


def host(flag):
    run = interpreters.exec if hasattr(interpreters, "exec") else interpreters.run_string
    run(interpreters.create(), INSIDE % flag)


def main():
    import os
    import sys

    flag = sys.argv[1]
    thread = threading.Thread(target=host, args=(flag,))
    thread.start()
    ready()
    os.mkdir(flag)
    thread.join()
    done()


main()
