"""A busy program that, on the word, exits (`exit`) or becomes another program (`exec`)."""
import os
import sys
import threading

from contact import ready


def spin():
    return sum(i * i for i in range(1000))


def before_exec():
    while True:
        spin()


def after_exec():
    while True:
        spin()


def main():
    if sys.argv[1] == "again":
        threading.Thread(target=after_exec, daemon=True).start()
        ready()
        os._exit(0)
    threading.Thread(target=before_exec, daemon=True).start()
    ready()
    if sys.argv[1] == "exec":
        os.execv(sys.executable, [sys.executable, __file__, "again"])
    os._exit(7)


main()
