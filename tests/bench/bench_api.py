"""How fast the REST API is, through the real front: `python -m tests.bench.bench_api`.

Prints requests a second, and processor time of the server a request, which says the same on a busy
machine. The bars: GET /v1/users/1 at least 0.6 of a bare hello-world of the same server, and more
than 200 POST /v1/users a second with durable commits."""

import base64
import json
import multiprocessing
import os
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Barrier

from flask import Flask

from control.server import Listen, Server
from tests.api import ADMIN, ControlPlane
from tests.support import Pki

CONNECTIONS = 8
ROUNDS = 15


def request(method: str, path: str, headers: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def user(number: int, headers: str) -> bytes:
    fields = {
        "name": f"user{number}",
        "auth_method": "certificate",
        "certificate_subject_line": f"CN=user{number},O=acme",
        "role": "db_viewer",
    }
    return request("POST", "/v1/users", headers, json.dumps(fields).encode())


def drive(port: int, make: Callable[[int], bytes], numbers: range, begin: Barrier) -> None:
    """Sends these requests over one connection, one after the other. Ends the process where one
    fails."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as link:
        begin.wait()
        for number in numbers:
            link.sendall(make(number))
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += link.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                print(f"not a 200: {answer!r}", file=sys.stderr, flush=True)
                os._exit(1)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += link.recv(65536)


def load(port: int, make: Callable[[int], bytes], numbers: range, took: Connection) -> None:
    """All requests over CONNECTIONS connections; runs in a process of its own. Sends how long it
    took, without the handshakes."""
    begin = Barrier(CONNECTIONS + 1)
    parts = [numbers[start::CONNECTIONS] for start in range(CONNECTIONS)]
    threads = [threading.Thread(target=drive, args=(port, make, part, begin)) for part in parts]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took.send(time.perf_counter() - began)


@dataclass
class Measured:
    """Of several rounds: requests a second, and the server's processor time a request, in us."""

    name: str
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        rate, cost = median(self.rates), median(self.costs)
        return f"{self.name:20}{rate:8.0f} requests/s{cost:8.0f} us of processor time each"


def measure(told: Measured, port: int, make: Callable[[int], bytes], numbers: range) -> None:
    """One round."""
    here, there = multiprocessing.Pipe()
    arguments = (port, make, numbers, there)
    child = multiprocessing.get_context("fork").Process(target=load, args=arguments)
    used = time.process_time()
    child.start()
    there.close()
    told.rates.append(len(numbers) / here.recv())
    child.join()
    told.costs.append((time.process_time() - used) / len(numbers) * 1e6)


def hello() -> Flask:
    app = Flask("hello")
    app.add_url_rule("/", view_func=lambda: {"hello": "world"})
    return app


def main() -> None:
    pki = Pki()
    chain, key = pki.server.pem, pki.server.key_pem
    with tempfile.TemporaryDirectory() as folder:
        api = ControlPlane(Path(folder))
        api.database(roles_permissions=[{"role_uid": 5, "redis_acl_uid": 1}])
        login = base64.b64encode(":".join(ADMIN).encode()).decode()
        json_by = f"Authorization: Basic {login}\r\nContent-Type: application/json\r\n"
        servers = [Server(app, Listen("127.0.0.1", 0), chain, key) for app in (hello(), api.app)]
        bare, real = (server.start() for server in servers)
        get = request("GET", "/v1/users/1", json_by)
        root = request("GET", "/", json_by)
        hello_world, one, new = map(Measured, ("hello, world", "GET /v1/users/1", "POST /v1/users"))
        # By turns: what else runs on the machine then slows down all of them.
        for start in range(1000, 1000 + ROUNDS * 240, 240):
            measure(hello_world, bare, lambda _: root, range(240))
            measure(one, real, lambda _: get, range(240))
            measure(new, real, lambda n: user(n, json_by), range(start, start + 80))
        print(hello_world, one, new, sep="\n")
        for word, pairs in (
            ("rate", zip(one.rates, hello_world.rates, strict=True)),
            ("processor time", zip(hello_world.costs, one.costs, strict=True)),
        ):
            print(f"ratio by {word}: {median(a / b for a, b in pairs):.2f} (bar: 0.6)")
        for server in servers:
            server.stop()
        api.close()


if __name__ == "__main__":
    main()
