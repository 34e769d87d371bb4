"""control/http/server.py under siege, in front of the real application: what `redis-certauth serve`
runs answers everybody else, whatever two hundred peers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from control.service import Config
from control.store import Store
from tests.kit.plane import Https, initialised
from tests.kit.rest import user
from tests.kit.siege import ATTACKS, HEAD, ONCE, Attack, Siege, listens, probe, serving
from tests.kit.support import SERVER, Cert, Pki, root, wait_until
from tests.kit.tls_client import has_ipv6


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return initialised(tmp_path / "control")


pytestmark = pytest.mark.slow
PROBES = 48
SPACING = 0.125  # seconds from probe to probe: together they outlast the deadline of handshakes
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


def besieged(config: Config, attack: Attack) -> list[int]:
    """What the probes are answered meanwhile."""
    statuses = []
    with serving(config), Siege(config, attack):
        for _ in range(PROBES):
            due = time.monotonic() + SPACING
            statuses.append(probe(config))
            time.sleep(max(0, due - time.monotonic()))
    return statuses


@pytest.mark.parametrize("name", ATTACKS)
def test_two_hundred_hostile_peers_stop_nobody_else(config: Config, name: str) -> None:
    """Every one of 48 fresh connections is answered, across the deadlines that cut the peers."""
    assert besieged(config, ATTACKS[name]) == [200] * PROBES


@pytest.mark.parametrize("host", ["::1"] if has_ipv6() else [])
def test_the_same_holds_on_ipv6(config: Config, host: str) -> None:
    """Where all peers are of one /64."""
    there = replace(config, host=host)
    assert besieged(there, ATTACKS["ClientHello, then silence"]) == [200] * PROBES


# ---- Slow readers --------------------------------------------------------------------------------


def test_a_large_answer_to_slow_readers_stops_nobody_and_arrives_whole(config: Config) -> None:
    """Five readers with a tiny window take nothing of it while others are answered, and then,
    kilobyte by kilobyte, all of it."""
    store = Store(config.url)
    for number in range(200):
        store.objects.create(user(0, f"u{number}", email=f"{number}@{'x' * 30000}"))
    store.close()
    with serving(config), contextlib.ExitStack() as stack:
        readers = [stack.enter_context(slow_reader(config)) for _ in range(5)]
        assert [probe(config) for _ in range(PROBES)] == [200] * PROBES
        for reader in readers:
            content = bytearray()
            while piece := reader.recv(4096):
                content += piece
            head, _, body = bytes(content).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert len(body) > 6_000_000  # More than the kernel takes for a peer.
            assert len(json.loads(body)) == 201


def slow_reader(config: Config) -> ssl.SSLSocket:
    """Has asked for all users, and read nothing yet."""
    plain = socket.socket()
    plain.settimeout(20)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before the window is agreed on
    plain.connect((config.host, config.port))
    context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
    wrapped = context.wrap_socket(plain, server_hostname="localhost")
    asked = ONCE.replace(b"cluster", b"users")[:-2] + authorization(config) + b"\r\n"
    wrapped.sendall(asked)
    return wrapped


def authorization(config: Config) -> bytes:
    """A header line with a token of the administrator."""
    with Https(config) as api:
        token = api("POST /v1/users/authorize").json["access_token"]
    return f"Authorization: Bearer {token}\r\n".encode()


# ---- Certificates --------------------------------------------------------------------------------


class Load:
    """Clients that ask without a pause, on fresh connections and on kept ones."""

    def __init__(self, config: Config, cert: Cert) -> None:
        self._config, self._over = config, threading.Event()
        self.failed: list[object] = []
        self.answered = 0
        work = [(None, False), (None, True), (cert, False), (cert, True)]
        self._threads = [threading.Thread(target=self._work, args=one) for one in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, cert: Cert | None, kept: bool) -> None:
        try:
            while not self._over.is_set():
                with Https(self._config, cert) as api:
                    self._ask(api)
                    while kept and not self._over.is_set():
                        self._ask(api)
        except Exception as error:
            self.failed.append(error)

    def _ask(self, api: Https) -> None:
        status = api("GET /v1/users/role").status
        self.answered += 1
        if status != 200:
            self.failed.append(status)


def test_twenty_changes_of_certificate_and_ca_under_load_fail_no_request(
    config: Config, pki: Pki
) -> None:
    """The API's own and the CA of clients, in turn: who is admitted before and after is so
    throughout, and each new certificate is shown."""
    authority = root("CN=API CA")
    with open(config.home / "ca.crt", "a") as trusted:
        trusted.write(authority.pem.decode())
    names = ("dns:localhost", "ip:127.0.0.1")
    shown = [authority.issue("CN=localhost", san=names, eku=(SERVER,)) for _ in range(2)]
    others = [pki.ca.pem + root(f"CN=Other {number}").pem for number in range(2)]
    with serving(config), Https(config) as api:
        done = api("PUT /v1/cluster/update_cert", trust(others[0]))
        assert done.status == 200, done.json
        assert api("PUT /v1/cluster", {"mtls_certificate_authentication": True}).status == 200
        alice = {"auth_method": "certificate", "certificate_subject_line": "CN=alice,OU=eng,O=acme"}
        assert api("POST /v1/users", {"name": "alice", "role": "admin", **alice}).status == 200
        with Load(config, pki.alice) as load:
            for turn in range(20):
                before, mine = load.answered, shown[turn % 2]
                upload = {"certificate": mine.presented.decode(), "key": mine.key_pem.decode()}
                for body in ({"name": "api", **upload}, trust(others[turn % 2])):
                    done = api("PUT /v1/cluster/update_cert", body)
                    assert done.status == 200, done.json
                wait_until(lambda mine=mine: presents(config, mine), "the new one is shown")
                wait_until(lambda before=before: load.failed or load.answered > before + 4, "load")
    assert load.failed == []


def trust(pem: bytes) -> dict[str, Any]:
    return {"name": "mtls_trusted_ca", "certificate": pem.decode(), "trust_grows": True}


def presents(config: Config, cert: Cert) -> bool:
    with Https(config) as api:
        api.connection.connect()
        return bool(api.connection.sock.getpeercert(True) == cert.der)


# ---- The end -------------------------------------------------------------------------------------


def test_a_stop_finishes_what_has_begun(config: Config) -> None:
    """A request half of which is there when the signal comes is answered and done; an idle
    connection ends, and nobody new comes in."""
    body = json.dumps({"name": "late", "password": "a long password", "role": "none"}).encode()
    context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
    with serving(config) as process, contextlib.ExitStack() as stack:
        head = HEAD + authorization(config) + b"Content-Length: %d\r\n" % len(body)
        idle, busy = (
            stack.enter_context(
                context.wrap_socket(
                    socket.create_connection((config.host, config.port), 20),
                    server_hostname="localhost",
                )
            )
            for _ in range(2)
        )
        busy.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert busy.recv(100).startswith(b"HTTP/1.1 100 ")
        busy.sendall(body[:10])
        process.terminate()
        assert idle.recv(1) == b""
        wait_until(lambda: not listens(config), "nobody new comes in")
        busy.sendall(body[10:])
        assert busy.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert process.wait(20) == 0
    store = Store(config.url)
    assert store.objects.user_by_login("late") is not None
    store.close()
