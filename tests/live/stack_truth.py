"""Calls getppid() from many shapes of code and writes down each time which stack that was.

A frame is `name (file:line)` with the file's last component, a stack runs from the root to the leaf joined by `;`.
"""
import os
import re
import sys
import threading
from functools import reduce

from contact import done, ready, tell

ROUNDS = 10
DEPTH = 300
told = []


def text_of(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        frames.append("%s (%s:%d)" % (name, os.path.basename(code.co_filename), frame.f_lineno or 0))
        frame = frame.f_back
    return ";".join(reversed(frames))


def mark(*_):
    text = text_of(sys._getframe()); os.getppid()  # on one line, so that the leaf's line is the same
    told.append(text)
    return 0


# Calls and statements over several lines.

def several_lines(depth):
    numbers = [
        1,
        mark(),
        sum([2,
             mark()]),
    ]
    if depth:
        return from_handler(
            depth - 1,
            rest=numbers,
        )
    return (
        "%d"
        % mark()
    )


def from_handler(depth, rest=()):
    try:
        try:
            raise LookupError(depth)
        except LookupError:
            mark()
            raise KeyError(depth)
        finally:
            mark()
    except KeyError as error:
        mark(error)
    else:
        raise AssertionError("not reached")
    return several_lines(depth)


def loops():
    for i in range(2):
        while i < 1:
            i += 1
            mark()
        else:
            mark()


# Functions inside functions, and the shapes that make one without a `def`.

def closures(value):
    def middle():
        def inner():
            return value, mark()
        return inner()
    return middle()


def comprehensions():
    listed = [mark() for _ in range(2)]
    nested = {i: [mark() for _ in range(1)]
              for i in range(2)}
    return listed, nested, {mark() for _ in range(1)}, tuple(mark() for _ in range(2))


def lambdas():
    return (lambda value: (lambda:
                           mark())())(1)


def default(value=None, *rest, **named):
    with open(os.devnull) as file:
        return (value, rest, named,
                file, mark())


# Generators and coroutines.

def numbers(count):
    for number in range(count):
        try:
            yield number
        finally:
            mark()


def delegating(count):
    mark()
    yield from numbers(count)
    mark()


def thrown_into():
    generator = numbers(3)
    next(generator)
    try:
        generator.throw(ValueError("from outside"))
    except ValueError:
        mark()


class Waiting:
    def __await__(self):
        mark()
        yield


async def asynchronous(depth):
    async with Context():
        mark()
        if depth:
            return await asynchronous(depth - 1)
        await Waiting()
        return [number async for number in produced()]


async def produced():
    for number in range(2):
        mark()
        yield number


class Context:
    async def __aenter__(self):
        mark()

    async def __aexit__(self, *_):
        mark()


def run(coroutine):
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


# Classes.

class Meta(type):
    def __new__(mcs, name, bases, body):
        mark()
        return super().__new__(mcs, name, bases, body)


def class_body():
    class Made(metaclass=Meta):
        mark()

        class Inner:
            inside = mark()

    return Made


class Thing:
    def __init__(self, rank=0):
        self.rank = rank
        self.made = [mark() for _ in range(1)]

    def __lt__(self, other):
        mark()
        return self.rank < other.rank

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return mark()

    def __del__(self):
        mark()

    @property
    def worth(self):
        return (lambda: mark())()

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def still():
        return mark()


def methods():
    things = sorted([Thing(2), Thing(1)])
    things[0].worth
    things[0].missing
    Thing.make().still()
    del things


class Missing(dict):
    def __missing__(self, key):
        return mark()


# From C back into Python.

def callbacks():
    list(map(mark, [1, 2]))
    sorted([2, 1], key=lambda _: mark())
    reduce(lambda a, b: mark(), [1, 2, 3])
    re.sub("[ab]", lambda found: str(mark()), "a-b")
    Missing()["nothing"]
    max([1, 2], key=mark)


def deep(depth):
    if depth == 0:
        return mark()
    return deep(depth - 1)


# Code that is gone a moment later, code with long names and tables, names that are not ASCII.

def made_at_run_time(round_number):
    exec("mark()\n\nmark()")
    eval("(mark(),\n mark())")
    for name in ("one", "two", "three"):
        scope = {"mark": mark}
        exec("\n" * round_number + "def made_%s():\n    mark()\nmade_%s()" % (name, name), scope)


def long_one():
    name = "long_" + "name_" * 40
    body = "".join("    value = %d +\\\n        len('x')\n" % number for number in range(400))
    scope = {"mark": mark}
    exec(compile("def %s():\n%s    return mark()" % (name, body), "generated_" + "file_" * 60 + ".py", "exec"), scope)
    return scope[name]


def größe(ñ):
    def 漢字():
        return mark(ñ)
    return 漢字()


LONG = long_one()
FOREIGN = compile("mark()\n", "/tmp/größe/漢字.py", "exec")


def everything(round_number):
    several_lines(2)
    loops()
    closures(1)
    comprehensions()
    lambdas()
    default(1, 2, named=3)
    list(delegating(2))
    thrown_into()
    run(asynchronous(2))
    class_body()
    methods()
    callbacks()
    deep(DEPTH)
    made_at_run_time(round_number)
    LONG()
    größe(1)
    exec(FOREIGN)


def main():
    sys.setrecursionlimit(3000)
    ready()
    for round_number in range(ROUNDS):
        everything(round_number)
        thread = threading.Thread(target=several_lines, args=(1,))
        thread.start()
        thread.join()
    for text in told:
        tell("stack", text)
    done()


main()
