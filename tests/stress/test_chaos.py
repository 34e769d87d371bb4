"""Everything is killed at random, and nothing that was acknowledged is lost: real control planes,
nodes and PostgreSQL, by `kill -9`."""

import itertools
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from control import service
from control.nodes.waiting import IN_FORCE
from control.policy import core
from control.service import Config
from control.store import Store
from tests.kit.node import show, status, who
from tests.kit.plane import NAMES, Serving, certificate_user, database, enrolled_node, operator
from tests.kit.postgres import Postgres, postgres
from tests.kit.rest import ADMIN, Answer
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, free_port, wait_until

CHANGES = 500
PAUSE = (0.5, 2.5)  # seconds between two kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def running() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture
def planes(tmp_path: Path, running: Postgres, pki: Pki) -> Iterator[tuple[Serving, Serving]]:
    first = Config(tmp_path / "one", "127.0.0.1", free_port(), running.new())
    service.init(first, "acme", *ADMIN, NAMES)
    shutil.copytree(first.home, tmp_path / "two")
    made = Serving(first), Serving(replace(first, home=tmp_path / "two", port=free_port()))
    ca = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    made[0].ok("PUT /v1/cluster/update_cert", ca)
    yield made
    for one in made:
        one.kill()


class Changes:
    """Makes users and deletes some of them again, locks and revokes, at either control plane, and
    keeps what was acknowledged. A change without an answer may be there or not. What an answer says
    to be in force is looked for at once, on each node that it does not name as pending."""

    def __init__(
        self, planes: tuple[Serving, Serving], rng: random.Random, nodes: Sequence[RedisServer]
    ) -> None:
        self._rng, self._nodes = rng, nodes
        self.checked = self.partly = 0  # how often something was in force everywhere, or on some
        self._turn = itertools.cycle(planes)
        self.made: dict[str, int] = {}  # name → uid, acknowledged, and not asked to go
        self.gone: set[str] = set()  # acknowledged as deleted
        self.lines: set[str] = set()  # acknowledged locks and revocations
        self.unsure = self.answers = 0

    def run(self, count: int) -> None:
        """Until so many changes were asked for and answered."""
        for number in itertools.count():
            if self.answers >= count:
                return
            wait = "?wait_for_sync=2" if number % 5 > 2 else ""
            if number % 10 == 1:
                self._add("locks", {"network": f"203.0.{number // 256}.{number % 256}"}, wait)
            elif number % 10 == 3:
                self._add("revocations", {"cert": f"{number:064x}"}, wait)
            else:
                self._make(f"user{number}", wait)
            if number % 5 == 4 and self.made:
                self._delete(self._rng.choice(sorted(self.made)), wait)

    def _make(self, name: str, wait: str) -> None:
        if answer := self._ask(f"POST /v1/users{wait}", certificate_user(name)):
            self.made[name] = answer.json["uid"]
            self._check(answer, lambda node: name in users_of(node))

    def _delete(self, name: str, wait: str) -> None:
        if answer := self._ask(f"DELETE /v1/users/{self.made.pop(name)}{wait}"):
            self.gone.add(name)
            self._check(answer, lambda node: name not in users_of(node))

    def _add(self, noun: str, body: dict[str, str], wait: str) -> None:
        if answer := self._ask(f"POST /v1/certauth/{noun}{wait}", body):
            (one,) = answer.json.get("revocations", [answer.json])
            self.lines.add(one["line"])
            self._check(answer, lambda node: one["line"] in show(operator(node)))

    def _check(self, answer: Answer, holds: Callable[[RedisServer], bool]) -> None:
        """Also on a node that was killed meanwhile: it has it on its disk."""
        done, _, all_ = answer.headers[IN_FORCE].partition("/")
        assert int(all_) == len(self._nodes)
        pending = answer.json.get("pending", [])
        named = [
            node
            for node in self._nodes
            if not any(one.startswith(f"127.0.0.1:{node.port}: ") for one in pending)
        ]
        if len(named) != int(done):  # the answer has no room for who is pending
            return
        self.checked += done == all_
        self.partly += bool(named) and done != all_
        for node in named:
            found = wait_until(lambda: answered(holds, node), "the node says what it holds", 60)  # noqa: B023
            assert found == [True], f"{answer.json} is said to be in force on {node.port}"

    def _ask(self, request: str, body: Any = None) -> Any:
        """The answer, from anyone who gives one; None where it is not known what was done. One that
        is not there has not done it, so the other is asked."""
        try:
            answer = self._asked(request, body) or next(self._turn).api(request, body)
        except OSError:
            time.sleep(0.05)  # nobody there: no haste
            self.unsure += 1
            return None
        if answer.status in (200, 202):  # the latter: it waited, and not all hold it
            self.answers += 1
            return answer
        assert answer.status >= 500, answer.json
        time.sleep(0.05)  # else all changes are spent while the database starts
        self.unsure += 1
        return None

    def _asked(self, request: str, body: Any) -> Answer | None:
        try:
            return next(self._turn).api(request, body)
        except ConnectionRefusedError:
            return None


def test_what_was_acknowledged_is_on_every_node_in_the_end(
    planes: tuple[Serving, Serving],
    running: Postgres,
    start: Any,
    installed: Server,
    pki: Pki,
    rng: random.Random,
) -> None:
    """500 changes at two control planes, while one of them, a node or the database is killed again
    and again: every user that was made is on every node, and every one that was deleted on none; at
    every moment, what an answer says to be in force is in force."""
    nodes = [enrolled_node(start, installed, planes[0].config.home, pki) for _ in range(2)]
    planes[0].ok("POST /v1/bdbs?wait_for_sync=20", database(*nodes))
    count = {"plane": 0, "node": 0, "database": 0}

    def plane() -> None:
        one = rng.choice(planes)
        count["plane"] += 1
        one.kill()
        one.start()

    def node() -> None:
        one = rng.choice(nodes)
        count["node"] += 1
        one.kill()
        one.start()

    def crash() -> None:
        count["database"] += 1
        running.kill()
        running.start()

    changes, told = Changes(planes, random.Random(rng.random()), nodes), list[BaseException]()

    def work() -> None:
        try:
            changes.run(CHANGES)
        except BaseException as error:
            told.append(error)

    # Nodes end with the thread that has started them, so that is this one.
    thread = threading.Thread(target=work)
    thread.start()
    begun = time.monotonic()
    while thread.is_alive():
        rng.choice([plane, node, crash])()  # which is back when the next one goes
        holds_what_is_shown(planes, nodes)
        thread.join(rng.uniform(*PAUSE))
    assert not told, told
    spent = time.monotonic() - begun
    print(f"\n{CHANGES} changes in {spent:.0f} s, killed {count}, {changes.unsure} without answer")
    print(f"said to be in force, and was: {changes.checked} on all nodes, {changes.partly} on some")
    assert changes.made
    assert changes.lines
    assert changes.checked
    try:
        wait_until(lambda: in_step(planes[0]), "the servers are in step", 90)
    finally:
        print(planes[0].api("GET /v1/certauth/nodes").json)
    told_by = Store(planes[0].config.url)
    target, lines = told_by.policies.whole(1)
    told_by.close()
    for server in nodes:
        with_operator = operator(server)
        assert set(show(with_operator)) == set(lines)
        assert changes.lines <= set(lines)
        found = status(with_operator)
        assert (found["generation"], found["digest"]) == (target.generation, target.digest)
        assert found["digest"] == core.digest(lines)
        users = {one.split()[1] for one in with_operator.acl_list()}
        assert changes.made.keys() <= users
        assert not changes.gone & users
        some = rng.choice(sorted(changes.made))
        assert who(server, pki.ca.issue(f"CN={some}")) == some


def users_of(node: RedisServer) -> set[str]:
    return {one.split()[1] for one in operator(node).acl_list()}


def answered(holds: Callable[[RedisServer], bool], node: RedisServer) -> list[bool] | None:
    """None of a node that does not answer now, or loads its data."""
    try:
        return [holds(node)]
    except redis.RedisError:
        return None


def holds_what_is_shown(planes: Sequence[Serving], nodes: Sequence[RedisServer]) -> None:
    """No node holds an older policy than any control plane has shown."""
    for one in planes:
        try:
            answer = one.api("GET /v1/certauth/nodes")
        except OSError:
            continue
        for shown in answer.json["nodes"] if answer.status == 200 else ():
            (node,) = (one for one in nodes if shown["address"].endswith(f":{one.port}"))
            assert status(operator(node))["generation"] >= shown["generation"]


def in_step(plane: Serving) -> bool:
    answer = plane.api("GET /v1/certauth/nodes")
    found = answer.json["nodes"] if answer.status == 200 else []
    return bool(found) and all(one["in_step"] for one in found)
