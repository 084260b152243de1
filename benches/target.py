"""`target.py realistic|deep COUNTER`: works without end and counts what it has done in a file others can watch."""
import io
import json
import json.decoder
import mmap
import random
import re
import struct
import sys
import textwrap
import tokenize

SOURCE = open(json.decoder.__file__).read()
DEPTH = 200


def tokens():
    return sum(1 for _ in tokenize.generate_tokens(io.StringIO(SOURCE).readline))


def documents():
    document = {"key%d" % i: {"values": list(range(10)), "text": "x" * 20} for i in range(60)}
    return json.loads(json.dumps(document, indent=1, sort_keys=True))


def words():
    counts = {}
    for word in re.findall(r"\w+", SOURCE):
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:20]


class Node:
    __slots__ = ("left", "right", "value")

    def __init__(self, value):
        self.left = self.right = None
        self.value = value

    def insert(self, value):
        side = "left" if value < self.value else "right"
        child = getattr(self, side)
        if child is None:
            setattr(self, side, Node(value))
        else:
            child.insert(value)


def tree():
    rng = random.Random(1)
    root = Node(500)
    for _ in range(300):
        root.insert(rng.randrange(1000))


def realistic(count):
    while True:
        for step in (tokens, documents, words, tree, lambda: textwrap.fill(SOURCE[:3000], 60)):
            step()
            count()


def leaf():
    total = 0
    for i in range(2000):
        total += i
    return total


def deep(count, depth=DEPTH):
    if depth:
        return deep(count, depth - 1)
    while True:
        leaf()
        count()


def main():
    kind, path = sys.argv[1:]
    with open(path, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    done = 0

    def count():
        nonlocal done
        done += 1
        struct.pack_into("Q", shared, 0, done)

    sys.setrecursionlimit(5000)
    {"realistic": realistic, "deep": deep}[kind](count)


main()
