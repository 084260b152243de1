"""A small JSON service under load, all in one process: what `make demo` looks at.

An HTTP server on a loopback port of the system's choice, and client threads that keep it busy until the process is
stopped. A request parses an order, prices it and answers. `similar_products` is where its CPU time goes: it compares
the order with every product of the catalogue, word by word, each time.
"""
import http.client
import json
import os
import random
import re
import threading

try:
    from http.server import ThreadingHTTPServer
except ImportError:  # before 3.7
    from http.server import HTTPServer
    from socketserver import ThreadingMixIn

    class ThreadingHTTPServer(ThreadingMixIn, HTTPServer):
        daemon_threads = True

from http.server import BaseHTTPRequestHandler

CLIENTS = 4
WORDS = "steel blue small large round oak cotton lamp chair table shelf box cable light frame glass".split()
random.seed(7)
CATALOGUE = [
    {"id": i, "price": 100 + i * 3, "text": " ".join(random.choice(WORDS) for _ in range(8))}
    for i in range(400)
]


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def similar_products(text, limit=5):
    wanted = words_of(text)
    scored = []
    for product in CATALOGUE:
        words = words_of(product["text"])
        scored.append((len(wanted & words) / len(wanted | words), product["id"]))
    scored.sort(reverse=True)
    return [product for _, product in scored[:limit]]


def price(order):
    total = sum(CATALOGUE[line["id"]]["price"] * line["count"] for line in order["lines"])
    return {"total": total, "tax": round(total * 0.19, 2)}


def answer(body):
    order = json.loads(body)
    reply = price(order)
    reply["similar"] = similar_products(order["text"])
    return json.dumps(reply).encode()


class Orders(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait for an acknowledgement

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        reply = answer(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


def client(port, seed):
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while True:
        lines = [{"id": rng.randrange(len(CATALOGUE)), "count": rng.randrange(1, 4)} for _ in range(3)]
        order = {"lines": lines, "text": " ".join(rng.choice(WORDS) for _ in range(6))}
        connection.request("POST", "/orders", json.dumps(order), {"Content-Type": "application/json"})
        connection.getresponse().read()


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Orders)
    for seed in range(CLIENTS):
        threading.Thread(target=client, args=(server.server_port, seed), name="client", daemon=True).start()
    print(os.getpid(), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
