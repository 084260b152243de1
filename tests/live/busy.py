"""Real work of the standard library, without end: JSON, regular expressions, tokens, trees, sorting, text.

Then tells every line its code can be at, so that no name of a profile needs to be believed.
"""
import io
import json
import json.decoder
import random
import re
import textwrap
import threading
import tokenize

from contact import done, ready, tell_code

SOURCE = open(json.decoder.__file__).read()


def documents():
    document = {"key%d" % i: {"values": list(range(10)), "text": "x" * 20} for i in range(60)}
    return json.loads(json.dumps(document, indent=1, sort_keys=True))


def tokens():
    return sum(1 for _ in tokenize.generate_tokens(io.StringIO(SOURCE).readline))


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

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.value
        if self.right:
            yield from self.right.walk()


def tree(rng):
    root = Node(500)
    for _ in range(300):
        root.insert(rng.randrange(1000))
    return list(root.walk())


def once(rng):
    documents()
    tokens()
    words()
    tree(rng)
    textwrap.fill(SOURCE[:3000], 60)


def work(stop):
    rng = random.Random(1)
    while not stop.is_set():
        once(rng)


def main():
    stop = threading.Event()
    once(random.Random(1))
    worker = threading.Thread(target=work, args=(stop,))
    worker.start()
    ready()
    stop.set()
    worker.join()
    tell_code()
    done()


main()
