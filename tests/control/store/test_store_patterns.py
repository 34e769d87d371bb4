"""Patterns in the store: their lines follow from the rows, and each generation is a policy."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control import store
from control.errors import Refusal
from control.policy import core
from control.records import Cluster, Database, Pattern, RedisAcl, RolePermission, User
from control.store import Store
from tests.kit.rest import database, user
from tests.kit.rows import ADMIN

TEMPLATES = ("spiffe://a/{ns}/{sa}", "spiffe://b/{ns}/{sa}", "spiffe://a/shop/{sa}")
USERS = ("app:{sa}", "app:x:{sa}", "dev:{sa}", "u1", "u2")
ACLS = ("~{sa}:* +@read", "~{sa}:* +@all", "+get", "~{ns}:* +get", "~{sa}* +get")
KINDS = ["make", "make", "change", "drop", "user", "leave", "rename", "acl", "grants", "delete"]
ACTIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 59)), max_size=16)


def pattern(uid: int, number: int = 0, **fields: Any) -> Pattern:
    usual: dict[str, Any] = {"template": TEMPLATES[number % 3], "user": USERS[number % 5]}
    usual |= {"role_uids": (5, 6)[: number % 4] if number % 5 < 3 else ()}
    return Pattern(uid, f"p{uid}", "uri", **{**usual, **fields})


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = new(tmp_path_factory)
    yield opened
    opened.close()


def new(folders: pytest.TempPathFactory) -> Store:
    """Two databases, on which role 6 has the ACL 4."""
    opened = Store(f"sqlite:///{folders.mktemp('store')}/control.db")
    opened.settings.initialise(Cluster("acme", "id", 1), ADMIN)
    opened.objects.create(RedisAcl(4, "own", ACLS[0]))
    for uid in (1, 2):
        given = (RolePermission(6, 4), RolePermission(5, 2))
        opened.objects.create(database(uid, [uid], roles_permissions=given))
    return opened


@given(actions=ACTIONS)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_generation_is_a_policy_and_the_last_follows_from_the_rows(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    """Whatever is changed in whatever order: a server could hold each step of the way, and at the
    end all that rendering everything again would give."""
    opened = new(tmp_path_factory)
    for action, number in actions:
        act(opened, action, number)
    for uid in (1, 2):
        held = core.Policy()
        for change in opened.policies.changes(uid, 0, "") or ():
            gone = [f"-{line}" for line in change.removed]
            held.patch([*gone, *(f"+{line}" for line in change.added)])
            assert held.digest == change.digest
        with opened._kernel.read() as connection:
            fresh = {line for _, line in store.lines.render_lines(connection, uid, own=False)}
        assert set(held.lines) == fresh == set(opened.policies.whole(uid)[1])
    opened.close()


def act(opened: Store, action: str, number: int) -> None:
    objects = opened.objects
    given = tuple(RolePermission(6 - i, (4, 2)[(number + i) % 2]) for i in range(number % 3))
    name, uid = ("u1", "u2", "dev:x")[number % 3], 10 + number % 3
    acts: dict[str, Any] = {
        "make": lambda: objects.create(pattern(1 + number % 4, number // 4)),
        "change": lambda: objects.update(
            Pattern, 1 + number % 4, lambda one: pattern(one.uid, number // 4)
        ),
        "drop": lambda: objects.delete(Pattern, 1 + number % 4),
        "user": lambda: objects.create(user(uid, name, role_uids=(5 + number % 2,))),
        "leave": lambda: objects.update(User, uid, lambda u: replace(u, role_uids=())),
        "rename": lambda: objects.update(User, uid, lambda u: replace(u, name=f"u{number % 5}")),
        "acl": lambda: objects.update(RedisAcl, 4, lambda a: replace(a, acl=ACLS[number % 5])),
        "grants": lambda: objects.update(
            Database, 1 + number % 2, lambda d: replace(d, roles_permissions=given)
        ),
        "delete": lambda: objects.delete(User, uid),
    }
    with contextlib.suppress(Refusal):
        acts[action]()


def test_a_pattern_is_there_after_opening_again(made: Store) -> None:
    """With its roles, its networks and its lines."""
    one = pattern(1, 0, role_uids=(5, 6), networks=("10.0.0.0/8",), session="8h", comment="x")
    made.objects.create(one)
    before = made.policies.whole(1)
    again = Store(str(made._kernel._connections._engine.url))  # type: ignore[attr-defined]
    assert again.objects.get(Pattern, 1) == one
    assert again.objects.find(Pattern, "P", 10, 0) == (one,)
    assert again.policies.whole(1) == before
    again.close()


def test_a_pattern_that_the_core_refuses_now_stops_nobody(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an older version: the lines of all others must not wait for it."""
    made.objects.create(pattern(1, 0, role_uids=(6,)))
    made.objects.create(user(0, "alice", role_uids=(5,)))
    canonical = core.canonical

    def stricter(line: str) -> str:
        if line.startswith("pattern "):
            raise core.CoreError("no")
        return canonical(line)

    monkeypatch.setattr("control.policy.core.canonical", stricter)
    made.policies.refresh()
    words = {line.split()[0] for line in made.policies.whole(1)[1]}
    assert "user" in words
    assert "pattern" not in words
