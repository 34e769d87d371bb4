"""What takes rights away goes first, and one user's bad rules are nobody else's outage."""

import signal
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.nodes.client import Node, NodeError
from control.policy import core, refusals, taking
from control.records import RedisAcl
from control.reports import Refused
from tests.kit.node import (
    Start,
    authority,
    is_open,
    patch,
    rules,
    show,
    status,
    turned_away,
    who,
)
from tests.kit.plane import SOON, Plane, Serving, enrolled_node, operator
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, root, wait_until

TYPO = "+@all -@dangeros ~x:*"


# ---- In two --------------------------------------------------------------------------------------

KEY = "a" * 64
ALICE, BOB = "bind subject CN=alice alice", "bind subject CN=bob bob"
RULES = "user alice on +@all ~*"
NODE, BOTH = f"bind key {KEY} certauth-peer-replica", f"bind key {KEY} certauth-peer-both"


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        pytest.param([f"+revoke key {KEY}", f"+{BOB}"], [f"+revoke key {KEY}"], id="revoked"),
        pytest.param([f"-revoke key {KEY}"], [], id="revoked no more"),
        pytest.param([f"-{ALICE}", f"-{RULES}", f"+{BOB}"], [f"-{ALICE}", f"-{RULES}"], id="gone"),
        pytest.param(
            [f"-{ALICE}", "+bind subject CN=alice bob"], [f"-{ALICE}"], id="somebody else's"
        ),
        pytest.param(
            [f"-{ALICE}", f"+{ALICE} session=60"], [f"-{ALICE}", f"+{ALICE} session=60"],
            id="the same user",
        ),
        pytest.param(
            [f"-{NODE}", f"+{BOTH}", "-user certauth-peer-replica on +psync",
             "+user certauth-peer-both on +psync"], [], id="a peer stays one",
        ),
        pytest.param(
            [f"-{RULES}", f"+{RULES} -@dangerous"], [f"-{RULES}", f"+{RULES} -@dangerous"],
            id="fewer rights",
        ),
        pytest.param([f"-{RULES}", "+user alice on ~*"], [f"-{RULES}", "+user alice on ~*"],
                     id="a rule less"),
        pytest.param([f"-{RULES}", f"+{RULES} +@admin"], [], id="more rights"),
        pytest.param(["-user a on -@all +get", "+user a on +get -@all"], [], id="another order"),
        pytest.param([f"-{RULES}", "+user alice off"], [f"-{RULES}", "+user alice off"], id="off"),
        pytest.param(["+user default adopt off"], ["+user default adopt off"], id="default"),
        pytest.param(["-user default adopt off"], [], id="default again"),
        pytest.param(["-set enforce off", "+set enforce on"],
                     ["-set enforce off", "+set enforce on"], id="enforced"),
        pytest.param(["-set enforce on", "+set enforce shadow"], [], id="enforced no more"),
        pytest.param(["-set password-auth allow"], ["-set password-auth allow"], id="no passwords"),
        pytest.param(["+set password-auth allow"], [], id="passwords"),
        pytest.param(
            ["-set gate disabled", "+set gate san_cn", "+allow CN=a"],
            ["-set gate disabled", "+set gate san_cn", "+allow CN=a"], id="gated",
        ),
        pytest.param(["-allow CN=a OU=b", "+allow CN=a"], ["-allow CN=a OU=b", "+allow CN=a"],
                     id="one gate, another gate"),
        pytest.param(["+allow CN=a"], [], id="a wider gate"),
    ],
)  # fmt: skip
def test_what_takes_goes_first(changes: list[str], first: list[str]) -> None:
    """And what only changes hands, or keeps somebody who he is, stays together."""
    found, rest = taking.parts(changes)
    assert sorted(found) == sorted(first)
    assert sorted(found + rest) == sorted(changes)


def test_a_renewed_ca_takes_the_place_of_the_old_one_at_once() -> None:
    """Both have one key: between them, nobody would be its client. Another CA's end comes first; so
    does what makes a CA a mere anchor."""
    old, other = root("CN=CA"), root("CN=other")
    new = root("CN=CA", key=old.key, serial=2)
    renewed = [f"-{authority(old)}", f"+{authority(new)}"]
    gone = f"-{authority(other)}"
    assert taking.parts([*renewed, gone]) == ((gone,), tuple(renewed))
    less = (f"-{authority(old)}", f"+{authority(old, 'anchor')}")
    assert taking.parts(less) == (less, ())
    more = (f"-{authority(old, 'anchor')}", f"+{authority(old)}")
    assert taking.parts(more) == ((), more)


LINES = [
    ALICE, "bind subject CN=alice bob", BOB, RULES, f"{RULES} -@admin", "user bob on +get ~*",
    "user bob off", f"revoke key {KEY}", "set enforce on", "set enforce off", "set gate san_cn",
    "set gate disabled", "allow CN=a", "set unmatched leave", NODE, BOTH,
]  # fmt: skip


def one_a_key(lines: Iterable[str]) -> frozenset[str]:
    """A policy: of the lines that cannot be in one at the same time, the first."""
    policy: list[str] = []
    for line in lines:
        try:
            core.Policy([*policy, line])
        except core.CoreError:
            continue
        policy.append(line)
    return frozenset(policy)


POLICIES = st.lists(st.sampled_from(LINES)).map(one_a_key)


@given(POLICIES, POLICIES)
def test_both_parts_lead_from_policy_to_policy(
    before: frozenset[str], after: frozenset[str]
) -> None:
    """A server takes the one and then the other; and a part is not taken apart again, so that a
    server that holds the first knows what is missing."""
    changes = [f"-{line}" for line in before - after] + [f"+{line}" for line in after - before]
    first, rest = taking.parts(changes)
    policy = core.Policy(before)
    policy.patch(first)
    policy.patch(rest)
    assert set(policy.lines) == after
    assert taking.parts(first) == (first, ())
    assert taking.parts(rest) == ((), rest)


# ---- What a server refuses -----------------------------------------------------------------------


def test_only_what_the_server_names_is_left_out() -> None:
    """By the number of the line, or by how a line begins that it holds; never a line that is to go,
    nor one that is not there, nor any of two that begin alike."""
    bad = "user oops on -@dangeros ~*"
    found = refusals.blamed("1 bad, nothing changed; line 2: why; not", ["+x", f"+{bad}"], (), ())
    assert found == (Refused(bad, "user oops off", "why; not", "oops"),)
    held = f"1 bad, nothing changed; the policy's line '{bad[:20]}...': why"
    assert refusals.blamed(held, ["+set enforce on"], (), (bad, ALICE)) == (
        Refused(bad, "user oops off", "why", "oops"),
    )
    for text, sent in (("line 1: why", [f"-{bad}"]), ("line 7: why", [f"+{bad}"])):
        assert refusals.blamed(f"1 bad, nothing changed; {text}", sent, (), ()) is None
    assert refusals.blamed(held, (), (), (bad, f"{bad} +get")) is None
    assert refusals.blamed("1 bad, nothing changed", (), (), ()) is None


@pytest.fixture
def one(installed: Server, start: Start, plane: Plane, pki: Pki) -> RedisServer:
    return enrolled_node(start, installed, plane.config.home, pki)


@pytest.fixture
def server(server_kind: Server, start: Start, plane: Plane, pki: Pki) -> RedisServer:
    return enrolled_node(start, server_kind, plane.config.home, pki)


def granted(plane: Plane, acl: str, name: str = "oops", uid: int = 1) -> tuple[int, int]:
    """A role of its own that this ACL is given to on a database. The uids of ACL and role."""
    made = plane.ok("POST /v1/redis_acls", {"name": name, "acl": acl})["uid"]
    role = plane.ok("POST /v1/roles", {"name": name, "management": "none"})["uid"]
    given = plane.ok(f"GET /v1/bdbs/{uid}")["roles_permissions"]
    more = {"role_uid": role, "redis_acl_uid": made}
    plane.ok(f"PUT /v1/bdbs/{uid}", {"roles_permissions": [*given, more]})
    return int(made), int(role)


def user(plane: Plane, cert: Cert, name: str, role: int) -> int:
    subject = cert.certificate.subject.rfc4514_string()
    return int(plane.certificate_user(name, subject, role_uids=[role])["uid"])


def spoil(plane: Plane, acl: int) -> None:
    """As an upgrade brings it, from a version that tried no rules when they were saved."""
    plane.store.objects.update(RedisAcl, acl, lambda now: replace(now, acl=TYPO))


def revoke(plane: Plane, cert: Cert) -> None:
    plane.ok("POST /v1/certauth/revocations", {"certificate": cert.pem.decode()})


def test_a_revocation_holds_whatever_else_is_wrong(
    server: RedisServer, plane: Plane, pki: Pki
) -> None:
    """One typo in one ACL, then a certificate is stolen: it is out all the same, and so is a user
    who is deleted; others come in as before."""
    plane.register(server)
    stolen, gone = pki.ca.issue("CN=stolen"), pki.ca.issue("CN=gone")
    plane.user(stolen, "stolen")
    leaver = plane.user(gone, "gone")
    plane.in_step()
    assert who(server, stolen) == "stolen"
    acl, role = granted(plane, "+get ~x:*")
    user(plane, pki.bob, "oops", role)
    spoil(plane, acl)
    revoke(plane, stolen)
    plane.ok(f"DELETE /v1/users/{leaver}")
    wait_until(lambda: who(server, stolen) is None, "the stolen certificate is out", SOON)
    wait_until(lambda: who(server, gone) is None, "the deleted user is out", SOON)
    admin = operator(server)
    assert turned_away(server, stolen, admin) == "revoked"
    assert turned_away(server, gone, admin) == "no_binding"
    assert turned_away(server, pki.bob, admin) == "user_off"
    assert who(server, pki.alice) == "alice"
    later = pki.ca.issue("CN=later")
    plane.user(later, "later")
    wait_until(lambda: who(server, later) == "later", "who comes later is in", SOON)


def test_a_bad_rule_costs_its_users_alone_and_is_named(
    server: RedisServer, plane: Plane, pki: Pki
) -> None:
    """On the user, the database and the server, with the server's own words; once the ACL is right
    the user is in, and nothing is said any more."""
    plane.register(server)
    acl, role = granted(plane, "+get ~x:*")
    uid = user(plane, pki.bob, "oops", role)
    spoil(plane, acl)
    said = plane.says("REFUSED")
    address = f"127.0.0.1:{server.port}"
    assert said.startswith(f"{address}: REFUSED user oops is off here: ")
    assert "-@dangeros" in said
    (one,) = plane.ok("GET /v1/bdbs/1")["refused"]
    assert (one["address"], one["user"]) == (address, "oops")
    assert "-@dangeros" in one["why"]
    for shown in (plane.ok(f"GET /v1/users/{uid}"), plane.ok("GET /v1/users")[-1]):
        assert shown["off_on"] == [{"bdb_uid": 1, "address": address, "why": one["why"]}]
    (node,) = plane.ok("GET /v1/certauth/nodes")["nodes"]
    assert not node["in_step"]
    assert node["error"] == said.removeprefix(f"{address}: ")
    assert rules(operator(server), "oops").split()[0] == "off"
    plane.ok(f"PUT /v1/redis_acls/{acl}", {"acl": "+@all -@dangerous ~x:*"})
    plane.in_step()
    assert who(server, pki.bob) == "oops"
    assert plane.ok("GET /v1/bdbs/1")["refused"] == []
    assert "off_on" not in plane.ok(f"GET /v1/users/{uid}")
    assert set(show(operator(server))) == plane.lines()


def test_a_user_that_the_server_has_by_itself_is_bound_to_nobody(
    server: RedisServer, plane: Plane, pki: Pki
) -> None:
    """Its rights are the server's to give, and strangers may be let in here: anyone who has the
    certificate is refused all the same, others come in; when the user is gone, ours is there."""
    plane.register(server, default_user=True)
    plane.in_step()
    admin = operator(server)
    admin.acl_setuser("bob", enabled=True, nopass=True, commands=["+@all"])
    plane.user(pki.bob, "bob")
    said = plane.says("REFUSED user bob is off here")
    assert "has a user of this name already" in said
    assert turned_away(server, pki.bob, admin) == "user_missing"
    assert rules(admin, "bob") != "off"
    carol = pki.ca.issue("CN=carol")
    plane.user(carol, "carol")
    # Until then she is left as `default`, and such a session is cut.
    wait_until(lambda: rules(admin, "carol") is not None, "others come in", SOON)
    assert who(server, carol) == "carol"
    assert turned_away(server, pki.bob, admin) == "user_missing"


def test_what_was_refused_is_tried_again(
    one: RedisServer, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own user is removed: a little later ours is there, and no drift is reported."""
    monkeypatch.setattr("control.nodes.reconcile.RETRY_REFUSED_SECONDS", 0.5)
    plane.register(one)
    plane.in_step()
    admin = operator(one)
    admin.acl_setuser("bob", enabled=True, nopass=True)
    plane.user(pki.bob, "bob")
    plane.says("REFUSED user bob")
    admin.acl_deluser("bob")
    plane.in_step()
    assert who(one, pki.bob) == "bob"
    assert set(show(admin)) == plane.lines()
    assert not plane.ok("GET /v1/logs?type=node_drift")


def test_a_server_that_dies_between_the_parts_goes_on(
    one: RedisServer, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost who was to go, and when it is back it gets the rest, as a change and not as the
    whole policy: it has not drifted."""
    plane.register(one)
    leaver = plane.user(pki.bob, "bob")
    plane.in_step()
    patch, sent = Node.patch, list[tuple[str, ...]]()

    def dies(self: Node, base: int, to: object, changes: Iterable[str], *more: object) -> None:
        sent.append(tuple(changes))
        if len(sent) == 2:
            one.kill()
        patch(self, base, to, sent[-1], *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Node, "load", lambda *_, **__: pytest.fail("the whole policy"))
    one.stop()
    carol = pki.ca.issue("CN=carol")
    plane.user(carol, "carol")
    plane.ok(f"DELETE /v1/users/{leaver}")
    plane.says("UNREACHABLE")
    monkeypatch.setattr(Node, "patch", dies)
    one.start()
    wait_until(lambda: len(sent) == 2 and not one.running, "it has died", 20)
    first, rest = sent
    assert all(line.startswith("-") for line in first)
    assert {line.split()[0] for line in rest} == {"+bind", "+user"}
    one.start()
    plane.in_step(deadline=20)
    assert len(sent) == 3
    assert who(one, carol) == "carol"
    assert who(one, pki.bob) is None
    assert not plane.ok("GET /v1/logs?type=node_drift")


# Ends the process right behind the first change that a server has confirmed.
DIES = """
import os, signal
from control.nodes.client import Node
patch = Node.patch
Node.patch = lambda *words: (patch(*words), os.kill(os.getpid(), signal.SIGKILL))
"""


def told_while_away(plane: Plane, server: RedisServer, change: Callable[[], object]) -> None:
    """Changes that the server has yet to hear of, when no control plane runs and it is back."""
    server.stop()
    plane.open()
    change()
    plane.close()
    server.start()


def killed_between_the_parts(plane: Plane) -> None:
    serving = Serving(plane.config, DIES)
    try:
        assert serving.process.wait(20) == -signal.SIGKILL
    finally:
        serving.kill()


@pytest.mark.parametrize("kills", [1, 2])
@pytest.mark.parametrize("ends", ["as it began", "by hand"])
def test_a_control_plane_that_dies_between_the_parts_is_no_drift(
    one: RedisServer, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch, kills: int, ends: str
) -> None:
    """By `kill -9`, right behind what takes, of several changes that the server missed: the next
    one goes on from there, without the whole policy and without an event; what somebody wrote there
    by hand meanwhile is one."""
    plane.register(one)
    certs = [pki.ca.issue(f"CN=new{number}") for number in range(2 * kills)]
    leavers = [plane.user(pki.ca.issue(f"CN=old{number}"), f"old{number}") for number in (0, 1)]
    plane.in_step()
    plane.close()

    def change(number: int) -> None:
        plane.user(certs[2 * number], f"new{2 * number}")
        plane.ok(f"DELETE /v1/users/{leavers[number]}")
        plane.user(certs[2 * number + 1], f"new{2 * number + 1}")

    admin = operator(one)
    for number in range(kills):
        told_while_away(plane, one, lambda: change(number))  # noqa: B023
        before = status(admin)["generation"]
        killed_between_the_parts(plane)
        assert status(admin)["generation"] > before
        assert rules(admin, f"old{number}") is None
        assert rules(admin, f"new{2 * number}") is None
    if ends == "by hand":
        now = status(admin)
        words = ["OWNER", now["owner"], "EPOCH", str(now["epoch"])]
        patch(admin, now["generation"], now["generation"] + 1, ["+user mallory on +@all"], *words)
    else:
        monkeypatch.setattr(Node, "load", lambda *_, **__: pytest.fail("the whole policy"))
    plane.open()
    plane.in_step(deadline=20)
    assert set(show(admin)) == plane.lines()
    assert [who(one, cert) for cert in certs] == [f"new{n}" for n in range(2 * kills)]
    drifts = plane.ok("GET /v1/logs?type=node_drift")
    told = [one["unknown_lines"] for one in drifts]
    assert told == ([["user mallory on +@all"]] if ends == "by hand" else [])


def test_what_takes_does_not_wait_for_what_gives(
    one: RedisServer, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that holds up a change that gives rights, such as a user who comes: who was
    revoked after that is out."""
    plane.register(one)
    stolen = pki.ca.issue("CN=stolen")
    plane.user(stolen, "stolen")
    plane.in_step()
    patch = Node.patch

    def held_up(self: Node, base: int, to: object, changes: Iterable[str], *more: object) -> None:
        changes = tuple(changes)
        if any(line.startswith("+user") for line in changes):
            raise NodeError("SLOW", "the disk")
        patch(self, base, to, changes, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Node, "patch", held_up)
    plane.user(pki.bob, "bob")
    plane.says("SLOW")
    revoke(plane, stolen)
    wait_until(lambda: who(one, stolen) is None, "the stolen certificate is out", SOON)
    monkeypatch.undo()
    plane.in_step()
    assert who(one, pki.bob) == "bob"


def test_enforcement_begins_without_whom_the_server_refuses(
    server: RedisServer, plane: Plane, pki: Pki
) -> None:
    """It is said before; a user who is off already stays so when the control plane starts again,
    and is not a drift."""
    plane.register(server, enforcement="shadow")
    acl, role = granted(plane, "+get ~x:*")
    user(plane, pki.bob, "oops", role)
    spoil(plane, acl)
    plane.says("REFUSED user oops is off here")
    admin = operator(server)
    admin.ping()
    alice = plane.ok("PUT /v1/bdbs/1", {"enforcement": "refuse"})["generation"]
    plane.says("REFUSED user oops is off here")
    wait_until(lambda: status(admin)["enforce"] == "on", "it is enforced", SOON)
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob, admin) == "user_off"
    open_ = server.client(pki.alice, single_connection_client=True)
    assert open_.acl_whoami() == "alice"
    plane.close()
    plane.open()
    carol = pki.ca.issue("CN=carol")
    plane.user(carol, "carol")
    wait_until(lambda: who(server, carol) == "carol", "a change arrives", SOON)
    assert plane.status().startswith(f"127.0.0.1:{server.port}: REFUSED user oops")
    assert is_open(open_)
    assert alice < status(admin)["generation"]
    assert not plane.ok("GET /v1/logs?type=node_drift")


def test_many_users_of_one_bad_rule(
    one: RedisServer, plane: Plane, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server names only some of them in its answer: all are off after a second try, and nobody
    else."""
    plane.register(one)
    acl, role = granted(plane, "+get ~x:*")
    for number in range(60):
        plane.certificate_user(f"oops{number}", f"CN=oops{number}", role_uids=[role])
    plane.in_step()
    patch, sent = Node.patch, list[object]()
    monkeypatch.setattr(Node, "patch", lambda *words: (sent.append(words), patch(*words)))
    spoil(plane, acl)
    plane.says("and 55 more")
    assert len(plane.ok("GET /v1/bdbs/1")["refused"]) == 60
    assert len(sent) == 2
    assert who(one, pki.alice) == "alice"
