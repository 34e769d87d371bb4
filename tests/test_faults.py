"""Disks, clocks, networks and neighbours that fail: nothing that was acknowledged is lost, no node
accepts whom the truth refuses, everything converges, and the logs say what happened.

What is killed is in test_chaos.py, what a journal says after each flipped bit in test_journal.py.
"""

import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from control import core
from control.lease import Lease
from control.store import Store
from control.sync import Worker
from tests.control import (
    SOON,
    Https,
    Plane,
    Serving,
    authority_of,
    enrolled_node,
    initialised,
    operator,
)
from tests.faults import Clock, Cut, Disk, Proxy, Silence, Silent, under
from tests.nodes import (
    Start,
    enrolled,
    is_open,
    journal,
    patch,
    reasons,
    show,
    status,
    turned_away,
    usual,
    who,
)
from tests.policies import (
    HANDSHAKE,
    LOGIN,
    Node,
    client_id,
    closed,
    make_node,
    policy_of,
    refuse,
)
from tests.servers import Server
from tests.support import Cert, Pki, RedisServer, days, wait_until
from tests.test_lease import certificate_user

# ---- Writes to a node, and its disk --------------------------------------------------------------

KEPT = 3  # changing lines in force
SAID = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}


def line_of(generation: int) -> str:
    """Now and then longer than what is written at a time, so that a kill can fall between."""
    size = 90_000 if generation % 7 == 0 else 10
    return f"user u{generation} on ~{'k' * size}"


def lines_at(generation: int, pki: Pki) -> set[str]:
    """The policy that `Writer` has made by then."""
    changing = {line_of(g) for g in range(max(2, generation - KEPT + 1), generation + 1)}
    return {core.canonical(line) for line in {*usual(pki), *changing, revoked(pki)}}


def revoked(pki: Pki) -> str:
    return f"revoke cert {pki.bob.fingerprint}"


class Writer:
    """Changes a node's policy again and again, in a thread of its own, until it is stopped or the
    node ends; keeps what was acknowledged, and what was refused for the journal."""

    def __init__(self, server: RedisServer) -> None:
        self._admin = server.admin()
        self.generation = status(self._admin)["generation"]
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(redis.ConnectionError):
            while not self._stop.is_set():
                self._write(self.generation + 1)

    def _write(self, generation: int) -> None:
        changes = [f"+{line_of(generation)}"]
        if generation > KEPT + 1:
            changes.append(f"-{line_of(generation - KEPT)}")
        try:
            patch(self._admin, generation - 1, generation, changes)
        except redis.ResponseError as error:
            self.refused.append(str(error))
        else:
            self.generation = generation


def holds_what_was_acknowledged(server: RedisServer, last: int, pki: Pki) -> int:
    """The generation, which is the last acknowledged one or the one that was under way; and the
    policy is that of it, in force and by its digest."""
    admin = server.admin()
    now = status(admin)
    reached = int(now["generation"])
    assert last <= reached <= last + 1
    assert now["journal"] == "ok"
    assert set(show(admin)) == lines_at(reached, pki)
    assert now["digest"] == core.digest(lines_at(reached, pki))
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob, admin) == "revoked"
    return reached


ROUNDS = [pytest.param(3, id="a few"), pytest.param(40, marks=pytest.mark.slow, id="many")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_server_that_is_killed_within_writes_loses_nothing(
    installed: Server, start: Start, pki: Pki, rng: random.Random, rounds: int
) -> None:
    """At any moment of any write: after the restart it has the last policy that it acknowledged, or
    the one that was under way, whole; it refuses whom that refuses from the first connection on."""
    kills_within_writes(installed, start, pki, rng, rounds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_server_that_is_killed_within_writes_loses_nothing(
    server_kind: Server, start: Start, pki: Pki, rng: random.Random
) -> None:
    """The same on every server of the matrix."""
    kills_within_writes(server_kind, start, pki, rng, 15)


def kills_within_writes(
    kind: Server, start: Start, pki: Pki, rng: random.Random, rounds: int
) -> None:
    server = enrolled(start, kind, pki, revoked(pki))
    reached, torn = 1, 0
    for _ in range(rounds):
        with Writer(server) as writer:
            time.sleep(rng.uniform(0, 0.2))
            server.kill()
        server.stop()  # its clients
        server.start()
        torn += "journal: dropped" in server.log
        reached = holds_what_was_acknowledged(server, writer.generation, pki)
    print(f"\n{kind}: {rounds} kills, {reached} generations, {torn} torn records")
    assert reached > rounds


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_that_fails_at_random_loses_nothing(
    server_kind: Server, disk: Disk, start: Start, pki: Pki, rng: random.Random
) -> None:
    """Full, or with errors of fsync, at any moment, for a while or once, then killed: each refusal
    tells the system's reason, and nothing but what was acknowledged is there in the end."""
    server = enrolled(start, server_kind, pki, revoked(pki))
    refusals = 0
    for _ in range(15):
        with Writer(server) as writer:
            for _ in range(rng.randint(1, 4)):
                call, error = rng.choice([("pwrite", errno.ENOSPC), ("fsync", errno.EIO)])
                before = len(writer.refused)
                disk.fail(call, error)
                wait_until(lambda: len(writer.refused) > before, "a write is refused")  # noqa: B023
                assert writer.refused[-1].startswith("JOURNAL ")
                assert SAID[error] in writer.refused[-1]
                time.sleep(rng.uniform(0, 0.02))
                disk.heal()
                done = writer.generation
                wait_until(lambda: writer.generation > done, "it writes again")  # noqa: B023
            if rng.random() < 0.5:
                server.kill()
        refusals += len(writer.refused)
        if not server.running:
            server.stop()
            server.start()
        holds_what_was_acknowledged(server, writer.generation, pki)
    print(f"\n{server_kind}: {refusals} writes refused, generation {writer.generation}")
