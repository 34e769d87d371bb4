"""How fast the REST API is, through the real front."""

import base64
import itertools
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
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Barrier

from flask import Flask

from control.http.server import Listen, Server
from tests.bench.lab import Lab, by_turns
from tests.bench.report import Answer
from tests.kit.rest import ADMIN, ControlPlane

NUMBER, TITLE = 7, "REST"
HOW = """Requests over 8 kept connections, one under way on each, from a process of its own: a
Flask app that says hello, on the same server and TLS layer, then GET /v1/users/1 and POST
/v1/users with durable commits. Processor time is the serving process's a request. On a machine of
two processors the client has one."""
CONNECTIONS = 8
RATE, COST = "requests a second", "processor time of the serving process a request, µs"
LIMIT = 0.6


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


def measure(port: int, make: Callable[[int], bytes], numbers: range) -> tuple[float, float]:
    """One round: requests a second, and microseconds of processor time each."""
    here, there = multiprocessing.Pipe()
    arguments = (port, make, numbers, there)
    child = multiprocessing.get_context("fork").Process(target=load, args=arguments)
    used = time.process_time()
    child.start()
    there.close()
    rate = len(numbers) / here.recv()
    child.join()
    return rate, (time.process_time() - used) / len(numbers) * 1e6


def hello() -> Flask:
    app = Flask("hello")
    app.add_url_rule("/", view_func=lambda: {"hello": "world"})
    return app


def run(lab: Lab, answer: Answer) -> None:
    chain, key = lab.pki.server.pem, lab.pki.server.key_pem
    count = lab.size(240, 24)
    with tempfile.TemporaryDirectory() as folder:
        api = ControlPlane(Path(folder))
        api.database(roles_permissions=[{"role_uid": 5, "redis_acl_uid": 1}])
        login = base64.b64encode(":".join(ADMIN).encode()).decode()
        json_by = f"Authorization: Basic {login}\r\nContent-Type: application/json\r\n"
        servers = [Server(app, Listen("127.0.0.1", 0), chain, key) for app in (hello(), api.app)]
        bare, real = (server.start() for server in servers)
        root, one = request("GET", "/", json_by), request("GET", "/v1/users/1", json_by)
        starts = itertools.count(1000, count)

        def post() -> tuple[float, float]:
            start = next(starts)
            return measure(real, lambda n: user(n, json_by), range(start, start + count // 3))

        arms: dict[str, Callable[[], tuple[float, float]]] = {
            "hello, world": partial(measure, bare, lambda _: root, range(count)),
            "GET /v1/users/1": partial(measure, real, lambda _: one, range(count)),
            "POST /v1/users": post,
        }
        found = by_turns(lab.rounds, arms)
        for server in servers:
            server.stop()
        api.close()
    for index, what in enumerate((RATE, COST)):
        rows = [
            answer.row("the control plane", what, arm, [pair[index] for pair in values])
            for arm, values in found.items()
        ]
        if what == RATE:
            answer.bar(rows[1], LIMIT, rows[0], least=True)
