"""Stands still at the end of many kinds of frames and tells its own stack and thread pointer."""
import functools
import sys
import threading


def tell(frame):
    sys.stdout.buffer.write(b"thread %d\n" % threading.get_ident())
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        sys.stdout.buffer.write(("%s\t%s\t%d\n" % (name, code.co_filename, frame.f_lineno)).encode())
        frame = frame.f_back
    sys.stdout.buffer.write(b"still\n")
    sys.stdout.buffer.flush()


def stand_still():
    tell(sys._getframe()); sys.stdin.read()  # on one line, so that the line told is the line it stands on


def generator():
    yield stand_still()


class Größe:
    @property
    def 漢字(self):
        return [value for value in generator()]

    def __lt__(self, other):
        return self.漢字


async def coroutine(depth):
    if depth:
        return await coroutine(depth - 1)
    return sorted([Größe(), Größe()])


def recursion(depth):
    if depth:
        return recursion(depth - 1)
    return functools.reduce(
        lambda _, value: coroutine(value).send(None),
        [0, 3],
    )


if sys.argv[1] == "thread":
    thread = threading.Thread(target=recursion, args=(200,))
    thread.start()
    thread.join()
else:
    exec("recursion(200)")
