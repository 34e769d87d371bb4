"""control/nodes/audit.py: from the log of a node into the event log and its file, and nothing is
lost without a word."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.nodes import audit
from control.nodes.audit import Collector, follow
from control.records import Database, Endpoint
from control.store import InventoryFilter
from tests.kit.node import Start, turned_away, who
from tests.kit.plane import Plane, enrolled_node, operator
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until

BDB = Database(1, "orders", (Endpoint(("127.0.0.1",), 6380),))
NODE = "127.0.0.1:6380"


class Ring:
    """A node's log as CERTAUTH.LOG shows it, with the newest `size` entries."""

    def __init__(self, size: int = 4096) -> None:
        self.size, self.boot, self.seq = size, "a", 0

    def happens(self, count: int) -> None:
        self.seq += count

    def restarts(self) -> None:
        self.boot, self.seq = self.boot + "a", 0

    def __call__(self, *words: Any) -> Any:
        if words[0] == "INFO":
            return f"# certauth\r\ncertauth_logins:{self.seq}\r\ncertauth_digest:0:00\r\n"
        _, _, since, _, count = words
        first = max(since, self.seq - self.size)
        shown = range(first + 1, min(self.seq, first + count) + 1)
        return {
            "boot": self.boot, "last": self.seq, "lost": max(0, self.seq - self.size - since),
            "entries": [self.entry(number) for number in shown],
        }  # fmt: skip

    def entry(self, seq: int) -> dict[str, Any]:
        return {
            "seq": seq, "time_us": 1_700_000_000_000_000 + seq, "event": "login",
            "reason": "matched", "client": 7, "address": "10.0.0.1", "user": "alice",
            "subject": "CN=alice", "issuer": "CN=ca", "serial": "0102",
            "cert": "c" * 64, "key": "d" * 64, "ca": None, "not_after": 1_800_000_000,
        }  # fmt: skip


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path)
    made.database(port=6380)
    yield made
    made.close()


def told(api: ControlPlane) -> list[dict[str, Any]]:
    """What nodes told, from /v1/logs."""
    return [one for one in api.ok("GET /v1/logs") if one["type"].startswith("client_")]


def seqs(api: ControlPlane) -> list[Any]:
    """The numbers of the entries, and for a gap how many were lost."""
    return [one.get("seq", f"lost {one.get('lost')}") for one in told(api)]


# ---- From the nodes into the store ---------------------------------------------------------------


def test_an_entry_is_told_in_the_shape_of_the_event_log(api: ControlPlane) -> None:
    """Who, what, from where, with which certificate, on which node of which database."""
    ring = Ring()
    ring.happens(1)
    Collector(api.store).collect(BDB, NODE, ring)
    assert told(api) == [
        {
            "time": "2023-11-14T22:13:20Z", "type": "client_login", "severity": "INFO",
            "bdb_uid": 1, "bdb_name": "orders", "node": NODE, "seq": 1,
            "time_us": 1_700_000_000_000_001, "reason": "matched", "client": 7,
            "address": "10.0.0.1", "username": "alice", "subject": "CN=alice", "issuer": "CN=ca",
            "serial": "0102", "cert": "c" * 64, "key": "d" * 64, "not_after": 1_800_000_000,
        }
    ]  # fmt: skip


def test_a_login_is_in_the_inventory_of_certificates(api: ControlPlane) -> None:
    """Whose it is, until when it is good, and where it was used last."""
    ring = Ring()
    ring.happens(1)
    Collector(api.store).collect(BDB, NODE, ring)
    (found,) = api.store.inventory.find(InventoryFilter(), limit=10)
    assert (found.cert, found.user, found.not_after) == ("c" * 64, "alice", 1_800_000_000)
    assert (found.bdb_uid, found.node, found.last_login) == (1, NODE, 1_700_000_000)


def test_every_entry_comes_once(api: ControlPlane) -> None:
    """However many there are at a time, and no matter who collects."""
    ring, first, second = Ring(), Collector(api.store), Collector(api.store)
    for count in (3, 0, 2500, 1):
        ring.happens(count)
        first.collect(BDB, NODE, ring)
        second.collect(BDB, NODE, ring)
    assert seqs(api) == list(range(1, 2505))


def test_of_two_that_collect_at_once_one_does(api: ControlPlane) -> None:
    """A batch that somebody else has taken over meanwhile is not written again."""
    ring = Ring()
    ring.happens(5)

    def command(*words: Any) -> Any:
        reply = ring(*words)
        if words[0] == "CERTAUTH.LOG" and not seqs(api):
            Collector(api.store).collect(BDB, NODE, ring)
        return reply

    Collector(api.store).collect(BDB, NODE, command)
    assert seqs(api) == [1, 2, 3, 4, 5]


def test_a_gap_is_an_entry_that_says_so(api: ControlPlane) -> None:
    """More than the node keeps: how many are gone stands where they would stand."""
    ring, collector = Ring(size=10), Collector(api.store)
    ring.happens(2)
    collector.collect(BDB, NODE, ring)
    ring.happens(25)
    collector.collect(BDB, NODE, ring)
    assert seqs(api) == [1, 2, "lost 15", *range(18, 28)]
    gap = told(api)[2]
    assert (gap["type"], gap["severity"], gap["node"]) == ("client_log_gap", "WARNING", NODE)
    assert gap["description"] == audit.OVERWRITTEN


def test_a_restart_of_the_node_is_an_entry_that_says_so(api: ControlPlane) -> None:
    """Its numbers begin again, and what it did last may not have been read."""
    ring, collector = Ring(), Collector(api.store)
    ring.happens(2)
    collector.collect(BDB, NODE, ring)
    ring.restarts()
    ring.happens(3)
    collector.collect(BDB, NODE, ring)
    assert seqs(api) == [1, 2, "lost 0", 1, 2, 3]
    assert told(api)[2]["description"] == audit.RESTARTED


def test_a_node_that_cannot_be_read_stops_nobody(
    api: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and what it has to tell is read when it can be."""
    ring, collector = Ring(), Collector(api.store)
    ring.happens(1)

    def denied(*_: Any) -> Any:
        raise RuntimeError("NOPERM no")

    for _ in range(3):
        collector.collect(BDB, NODE, denied)
    assert [one.message for one in caplog.records] == [
        f"{NODE} of 'orders': its log is not read: NOPERM no"
    ]
    assert collector.figures == {}
    collector.collect(BDB, NODE, ring)
    assert seqs(api) == [1]
    assert collector.figures == {(1, NODE): {"logins": 1}}


def test_nothing_is_collected_for_a_database_that_is_gone(api: ControlPlane) -> None:
    """It may have gone while its node was asked."""
    ring = Ring()
    ring.happens(1)
    api.store.nodes.forget_database(1)
    Collector(api.store).collect(BDB, NODE, ring)
    assert told(api) == []


# ---- From the store into a file ------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_holds_what_the_event_log_does(api: ControlPlane, tmp_path: Path) -> None:
    """Each event a line, for its owner only; what comes later is appended."""
    path = tmp_path / "audit.jsonl"
    follow(api.store, path)
    api.ok("POST /v1/roles", {"name": "ops"})
    follow(api.store, path)
    follow(api.store, path)
    found = lines(path)
    assert [one.pop("id") for one in found] == [*range(1, len(found) + 1)]
    assert {one.pop("store") for one in found} == {api.store.settings.cluster().stores[0][0]}
    assert found == api.ok("GET /v1/logs")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_line_is_written_again(api: ControlPlane, tmp_path: Path) -> None:
    """What a crash has left of the last line is cut off, and the event is there once."""
    path = tmp_path / "audit.jsonl"
    follow(api.store, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    follow(api.store, path)
    assert path.read_bytes() == whole


def test_the_file_is_rotated(
    api: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its size; so many are kept, and none of what they hold is there twice."""
    monkeypatch.setattr(audit, "FILE_BYTES", 1)
    monkeypatch.setattr(audit, "FILES_KEPT", 3)
    path = tmp_path / "audit.jsonl"
    follow(api.store, path)
    for number in range(4):
        api.ok("POST /v1/roles", {"name": f"r{number}"})
        follow(api.store, path)
    assert sorted(one.name for one in tmp_path.glob("audit*")) == [
        "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3",
    ]  # fmt: skip
    names = [one["role_name"] for n in (3, 2, 1) for one in lines(tmp_path / f"audit.jsonl.{n}")]
    assert names == ["r1", "r2", "r3"]


def test_what_had_to_go_unwritten_is_told(
    api: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be written for so long that the event log has moved on."""
    path = tmp_path / "audit.jsonl"
    follow(api.store, path)
    monkeypatch.setattr("control.store.events.EVENTS_PER_TYPE", 5)
    monkeypatch.setattr("control.store.events.TRIM_BATCH", 1)
    for _ in range(20):
        api.store.events.note("login_failed")
    follow(api.store, path)
    types = [one["type"] for one in lines(path)]
    assert types[-6:] == ["log_gap", *["login_failed"] * 5]
    follow(api.store, path)
    assert len(lines(path)) == len(types)


def test_after_a_restore_the_file_begins_again(api: ControlPlane, tmp_path: Path) -> None:
    """Twice rather than never: the numbers of another store say nothing about this one's."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"id": 1000000}\n')
    follow(api.store, path)
    assert [one["id"] for one in lines(path)][:3] == [1000000, 1, 2]


# ---- A real node ---------------------------------------------------------------------------------

MakeNode = Callable[..., RedisServer]


def test_what_a_node_finds_broken_is_in_the_event_log(
    start: Any, installed: Server, plane: Plane, pki: Pki
) -> None:
    """Its journal was removed: nobody has changed anything, and the event says what was done."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    assert server.module is not None
    Path(server.module[1], "policy").unlink()
    found = wait_until(
        lambda: [one for one in plane.ok("GET /v1/logs") if one["type"] == "node_journal"],
        "it is told",
        20,
    )
    assert found[0]["severity"] == "WARNING"
    assert "has been written there again" in found[0]["description"]
    assert "client" not in found[0]
    assert "reason" not in found[0]


def test_what_happens_on_a_node_is_in_the_event_log(
    start: Any, installed: Server, plane: Plane, pki: Pki
) -> None:
    """A login, a refusal and a session that a change ended, within moments; and the start of the
    server afterwards, with what happened since."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()

    def seen(kind: str, **fields: Any) -> bool:
        return any(one["type"] == kind and fields.items() <= one.items() for one in told(plane))

    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob, operator(server)) == "no_binding"
    serial = format(pki.alice.certificate.serial_number, "x")
    alice = {"username": "alice", "address": "127.0.0.1", "node": f"127.0.0.1:{server.port}"}
    wait_until(lambda: seen("client_login", **alice), "alice's login is told")
    login = next(one for one in told(plane) if one.get("username") == "alice")
    assert int(login["serial"], 16) == int(serial, 16)
    assert login["issuer"] == pki.ca.certificate.subject.rfc4514_string()
    wait_until(lambda: seen("client_refused", reason="no_binding"), "bob's refusal is told")
    with server.tls(pki.alice).connect() as connection:
        assert connection.command("PING") == b"PONG"
        plane.ok("DELETE /v1/users/2")
        wait_until(lambda: seen("client_closed", username="alice"), "alice's end is told", 30)
    server.stop()
    server.start()
    plane.in_step()
    assert turned_away(server, pki.alice, operator(server)) == "no_binding"
    wait_until(lambda: seen("client_log_gap", lost=0), "the restart is told")
    gap = next(i for i, one in enumerate(told(plane)) if one["type"] == "client_log_gap")
    wait_until(
        lambda: any(one["type"] == "client_refused" for one in told(plane)[gap:]), "what came since"
    )


def test_a_certificate_without_a_subject_is_told_by_its_sans(
    plane: Plane, start: Start, installed: Server, pki: Pki
) -> None:
    """In the events and the inventory, which are searched by them, and in the server's log; what
    is too long for an entry ends in "...", and the cure of explain works as it stands."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.trust(pki.ca)
    plane.register(server)
    plane.in_step()
    pod = pki.ca.issue("", san=("uri:spiffe://acme/Cart", "ip:10.0.0.1"))
    many = pki.ca.issue("", san=[f"uri:urn:{'x' * 200}{n}" for n in range(4)])
    assert who(server, pod) != "cart"
    who(server, many)
    logs = "GET /v1/logs?type=client_refused&search="
    wait_until(lambda: plane.ok(f"{logs}ACME/cart"), "the refusal is found by its SAN")
    (refusal,) = plane.ok(f"{logs}ACME/cart")
    assert refusal["sans"] == ["uri:spiffe://acme/Cart", "ip:10.0.0.1"]
    assert "(subject -, SAN uri:spiffe://acme/Cart)" in server.log
    wait_until(lambda: plane.ok(f"{logs}urn:xxx"), "the long ones are told")
    assert plane.ok(f"{logs}urn:xxx")[0]["sans"][2:] == ["..."]
    cure = plane.ok("POST /v1/certauth/explain",
                    {"bdb_uid": 1, "certificate": pod.pem.decode()})["trace"][-1]  # fmt: skip
    assert "user identity add <user> --uri 'spiffe://acme/Cart'" in cure
    identity = [{"uri": "spiffe://acme/Cart"}]
    plane.ok("POST /v1/users", {"name": "cart", "auth_method": "certificate", "role": "admin",
                                "certificate_identities": identity})  # fmt: skip
    wait_until(lambda: who(server, pod) == "cart", "cart logs in")
    listed = "GET /v1/certauth/certificates?search=acme/cart"
    wait_until(lambda: plane.ok(listed), "the certificate is found by its SAN")
    assert plane.ok(listed)[0]["sans"] == refusal["sans"]
