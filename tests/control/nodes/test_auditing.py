"""control/nodes/auditing.py: what an auditor hears of connections, over each of its protocols, and
what becomes of it while nobody listens."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.nodes import auditing
from control.nodes.audit import UNSAID, Collector
from control.nodes.auditing import Auditor, is_wanted
from control.records import AddressFilter, AuditSettings, Database, UsernameFilter
from tests.kit.node import Start, mapping
from tests.kit.policies import LOGIN, make_node, policy_of
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Pki, free_port, wait_until

NODE = "10.1.0.1:6380"
SINK = "PUT /v1/cluster/auditing/db_conns"


class Listener:
    """Keeps what comes to a socket, of all connections."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket, self.content = listening, b""
        self.connections = list[socket.socket]()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        if self._socket.type == socket.SOCK_DGRAM:
            while found := self._socket.recv(65536):
                self.content += found + b"\n"
        while True:
            connection, _ = self._socket.accept()
            self.connections.append(connection)
            while found := connection.recv(65536):
                self.content += found

    def end(self) -> None:
        """Ends the connections that have come."""
        for one in self.connections:
            one.shutdown(socket.SHUT_RDWR)

    def lines(self) -> list[dict[str, Any]]:
        whole, _, _ = self.content.rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def hears(self, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.lines()) >= count, f"{count} records", 30)
        return self.lines()


def entry(event: str, client: int = 7, user: str = "alice", **fields: Any) -> dict[str, Any]:
    """Of CERTAUTH.LOG."""
    usual = {"time_us": 1_779_874_366_500_000, "event": event, "client": client, "user": user}
    return {**UNSAID, "address": "10.0.0.1", "port": 46252, **usual, **fields}


@pytest.fixture
def auditor(api: ControlPlane) -> Iterator[Auditor]:
    made = Auditor(api.store)
    made.start()
    yield made
    made.stop()


def listening(api: ControlPlane) -> Listener:
    """The auditor of this control plane, at a port of this machine."""
    found = socket.create_server(("127.0.0.1", 0))
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1"}
    api.ok(SINK, {**sink, "audit_port": found.getsockname()[1]})
    return Listener(found)


def audited(api: ControlPlane, **fields: Any) -> Database:
    """A database that is."""
    api.database("D1", audit_settings={"audit_mode": "connection", **fields})
    return api.store.objects.get(Database, 1)


def test_a_connection_is_told_in_the_records_of_redis_enterprise(
    api: ControlPlane, auditor: Auditor
) -> None:
    """Field by field as its documentation has them: its beginning, its login, its end."""
    heard = listening(api)
    auditor.queue_records(audited(api), NODE, [entry("login"), entry("disconnected")])
    about = {
        "id": 7,
        "srcip": "10.0.0.1",
        "srcp": "46252",
        "trgip": "10.1.0.1",
        "trgp": "6380",
        "bdb_name": "D1",
        "bdb_uid": "1",
    }
    worker = {"audit_worker_id": 0}
    who = {"status": 8, "username": "alice", "identity": "user:alice"}
    assert heard.hears(3) == [
        {"ts": 1779874366, "new_conn": about, **worker, "audit_seq": 0},
        {"ts": 1779874366, "action": "auth", **about, **who, **worker, "audit_seq": 1},
        {"ts": 1779874366, "close_conn": about, **worker, "audit_seq": 2},
    ]


def test_a_login_is_told_with_the_rules_of_its_user(api: ControlPlane, auditor: Auditor) -> None:
    """`acl-rules` as the policy of that database has them; a pattern's filled in for the name; a
    node's; none for a user of the server's own, nor where nobody came in."""
    heard = listening(api)
    for name, acl in (("reads", "+@read ~cached:* &news"), ("own", "+@all ~{ns}:{sa}:*")):
        api.ok("POST /v1/redis_acls", {"name": name, "acl": acl})
        api.ok("POST /v1/roles", {"name": name, "management": "none"})
    pattern = {"kind": "uri", "template": "spiffe://acme/ns/{ns}/sa/{sa}"}
    api.certificate_user("alice", "CN=alice", role_uids=[8])
    spaced = api.certificate_user("me:own", "CN=spaced", role_uids=[8])
    grants = [{"role_uid": 8, "redis_acl_uid": 4}, {"role_uid": 9, "redis_acl_uid": 5}]
    audited(api)
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": grants})
    database = api.store.objects.get(Database, 1)
    api.ok(
        "POST /v1/certauth/patterns",
        {"name": "apps", **pattern, "user": "app:{ns}:{sa}", "role_uids": [9]},
    )
    names = ["alice", spaced["name"], "app:shop:cart", "app:shop", "ops", ""]
    auditor.queue_records(
        database, NODE, [entry("login", n, name) for n, name in enumerate(names, 1)]
    )
    api.database("other", 6381, audit_settings={"audit_mode": "connection"})
    auditor.queue_records(api.store.objects.get(Database, 2), NODE, [entry("login", 1)])
    auths = [one for one in heard.hears(14) if "action" in one]
    rules = "+@read ~cached:* &news"
    shown = [one.get("acl-rules") for one in auths]
    assert shown == [rules, rules, "+@all ~shop:cart:*", None, None, None, None]


def test_what_an_auditor_was_told_is_counted(
    api: ControlPlane, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the names of Redis Enterprise: sent, connected, and dropped by why."""
    figures = auditor.figures

    def are(**wanted: int) -> None:
        def found() -> dict[str, Any]:
            return {name: getattr(figures, name) for name in wanted}

        wait_until(lambda: found() == wanted, f"{wanted}, not {found()}", 30)

    heard, database = listening(api), audited(api)
    auditor.queue_records(database, NODE, [entry("login")])
    size = sum(len(json.dumps(one)) for one in heard.hears(2))
    are(sent_messages=2, sent_bytes=size, pending_bytes=0, connect_events=1, connected_workers=1)
    assert figures.last_sent is not None
    assert size >= figures.queue_high_watermark_bytes > 0
    heard.end()
    are(connected_workers=0, disconnect_events=1, dropped_messages=0)
    settings = {"audit_port": free_port(), "audit_queue_max_bytes": 500}
    api.ok(SINK, settings)
    auditor.queue_records(database, NODE, [entry("login", n) for n in range(100, 103)])
    assert figures.dropped_queue_full_messages > 0
    assert figures.waiting_since is not None
    kept = figures.pending_bytes
    api.ok(SINK, {"audit_queue_max_bytes": 10})
    auditor.queue_records(database, NODE, [entry("login", 200)])
    are(dropped_record_too_large_messages=2, pending_bytes=kept)
    api.ok(SINK, {"audit_reconnect_max_attempts": 1})
    are(dropped_disconnected_messages=kept // 150, pending_bytes=0, reconnect_attempts_exhausted=1)
    assert figures.waiting_since is None
    api.ok(SINK, {"audit_queue_max_bytes": 10_000, "audit_reconnect_max_attempts": 0})
    auditor.queue_records(database, NODE, [entry("login", 300)])
    api.ok("PUT /v1/bdbs/1", {"db_conns_auditing": False})
    api.ok("DELETE /v1/cluster/auditing/db_conns")
    are(dropped_queue_disabled_messages=2)
    named = [name for name in vars(figures) if name.startswith("dropped_") and name.count("_") > 1]
    assert figures.dropped_messages == sum(getattr(figures, name) for name in named)
    assert figures.dropped_bytes > figures.dropped_messages
    assert figures.sent_messages == 2


def heard_of(api: ControlPlane, auditor: Auditor, *entries: dict[str, Any], **fields: Any) -> Any:
    """The records of these entries: `new`, `close`, or the status of an `auth`."""
    heard, database = listening(api), audited(api, **fields)
    end = entry("refused", client=999_999, user="", address="192.0.2.1")
    auditor.queue_records(database, NODE, [*entries, end])
    off: Any = {key: {"enabled": False} for key in ("source_ip_filter", "username_filter")}
    api.ok("PUT /v1/bdbs/1", {"audit_settings": off})
    auditor.queue_records(
        api.store.objects.get(Database, 1), NODE, [entry("login", client=1_000_000)]
    )
    wait_until(lambda: any(said(one)[0] == 1_000_000 for one in heard.lines()), "the last", 30)
    return [said(one) for one in heard.lines() if said(one)[0] < 999_999]


def said(record: dict[str, Any]) -> tuple[int, Any]:
    if "action" in record:
        return record["id"], record["status"]
    kind = "new_conn" if "new_conn" in record else "close_conn"
    return record[kind]["id"], kind.removesuffix("_conn")


def test_what_becomes_of_a_client_is_a_status(api: ControlPlane, auditor: Auditor) -> None:
    """A choice is pending until it is made; a client that may not stay, or never came in, has
    failed; nodes at their doors and the node itself are not connections."""
    found = heard_of(
        api, auditor,
        entry("choose", 1, ""), entry("login", 1), entry("closed", 1), entry("disconnected", 1),
        entry("refused", 2, ""), entry("disconnected", 2, ""), entry("left", 3, ""),
        entry("full", 4), entry("handshake", 0, ""), entry("would-refuse", 5, ""),
        entry("peer-joined", 0, ""), entry("journal", 0, ""),
    )  # fmt: skip
    assert found == [
        (1, "new"), (1, 10), (1, 8), (1, 0), (1, "close"), (2, "new"), (2, 0), (2, "close"),
        (3, "new"), (3, 2), (4, "new"), (4, 0), (0, 0), (5, "new"), (5, 2),
    ]  # fmt: skip


def test_the_filters_of_the_beginning_count_to_the_end(api: ControlPlane, auditor: Auditor) -> None:
    """Both must let a record through; who is nobody yet is told of where that is allowed."""
    names = {"enabled": True, "usernames": ["alice"], "filter_type": "inclusive"}
    addresses = {"enabled": True, "cidr_ranges": ["10.0.0.0/24"]}
    found = heard_of(
        api, auditor,
        entry("login", 1), entry("login", 2, "bob"), entry("disconnected", 2, "bob"),
        entry("login", 3, address="10.0.1.1"), entry("refused", 4, ""),
        entry("choose", 5, ""), entry("login", 5), entry("disconnected", 5),
        entry("strayed", 1, ""), entry("disconnected", 1, ""),
        username_filter=names, source_ip_filter=addresses,
    )  # fmt: skip
    assert found == [(1, "new"), (1, 8), (5, "new"), (5, 8), (5, "close"), (1, "close")]


@pytest.mark.parametrize(
    ("names", "addresses", "user", "address", "wanted"),
    [
        ({}, {}, "alice", "10.0.0.1", True),
        ({"usernames": ("bob",)}, {}, "bob", "", True),
        ({"usernames": ("bob",)}, {}, "alice", "", False),
        ({"usernames": ("bob",)}, {}, "", "", False),
        ({"usernames": ("bob",), "allow_while_username_unknown": True}, {}, "", "", True),
        ({"usernames": ("bob",), "filter_type": "exclusive"}, {}, "bob", "", False),
        ({"usernames": ("bob",), "filter_type": "exclusive"}, {}, "alice", "", True),
        ({}, {"ip_addresses": ("::1",)}, "a", "::1", True),
        ({}, {"ip_addresses": ("::1",)}, "a", "::2", False),
        ({}, {"ip_addresses": ("10.0.0.1",)}, "a", "::ffff:10.0.0.1", True),
        ({}, {"cidr_ranges": ("10.0.0.0/8",)}, "a", "10.9.9.9", True),
        ({}, {"cidr_ranges": ("fd00::/8",)}, "a", "10.9.9.9", False),
        ({}, {"cidr_ranges": ("0.0.0.0/0",)}, "a", "", False),
        ({}, {"cidr_ranges": ("10.0.0.0/8",), "filter_type": "exclusive"}, "a", "10.9.9.9", False),
        ({}, {"cidr_ranges": ("10.0.0.0/8",), "filter_type": "exclusive"}, "a", "", True),
        ({"usernames": ("a",)}, {"ip_addresses": ("::1",)}, "a", "::2", False),
    ],
)  # fmt: skip
def test_a_filter_lists_or_leaves_out(
    names: dict[str, Any], addresses: dict[str, Any], user: str, address: str, wanted: bool
) -> None:
    settings = AuditSettings(
        "connection",
        UsernameFilter(bool(names), **names),
        AddressFilter(bool(addresses), **addresses),
    )
    assert is_wanted(settings, user, address) == wanted


def test_a_full_filter_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of the ten thousand records of a visit, behind which the policy waits."""
    ranges = tuple(f"10.{n // 200}.{n % 200}.0/24" for n in range(512))
    settings = AuditSettings("connection", source_ip_filter=AddressFilter(True, (), ranges))
    read, real = list[str](), auditing.ipaddress.ip_network

    def ip_network(text: str, strict: bool) -> Any:
        read.append(text)
        return real(text, strict)

    monkeypatch.setattr(auditing.ipaddress, "ip_network", ip_network)
    for last in range(20):
        assert is_wanted(settings, "alice", f"10.1.7.{last}")
        assert not is_wanted(settings, "alice", f"10.9.7.{last}")
    assert len(read) <= 512


def test_ranges_of_both_versions_are_told_apart() -> None:
    def among(address: str, *ranges: str) -> bool:
        found = AddressFilter(True, ("10.0.0.7", "::1"), ranges)
        return is_wanted(AuditSettings("connection", source_ip_filter=found), "alice", address)

    assert among("10.0.0.7")
    assert among("::ffff:10.0.0.7")
    assert among("::1")
    assert not among("::2")
    assert not among("10.0.0.8")
    assert among("10.0.0.8", "0.0.0.0/0")
    assert not among("fd00::1", "0.0.0.0/0")
    assert among("fd00::1", "::/0")
    assert not among("", "0.0.0.0/0", "::/0")


def test_what_was_known_of_a_removed_database_is_forgotten(
    api: ControlPlane, auditor: Auditor
) -> None:
    listening(api)
    first = audited(api)
    auditor.queue_records(first, "127.0.0.1:6380", [entry("login")])
    api.store.objects.delete(Database, first.uid)
    api.store.nodes.forget_database(first.uid)
    uid = api.database("other", 6381, audit_settings={"audit_mode": "connection"})["uid"]
    auditor.queue_records(api.store.objects.get(Database, uid), "127.0.0.1:6381", [entry("login")])
    assert {one for one, _ in auditor._known} == {uid}


def test_a_database_that_is_not_audited_says_nothing(api: ControlPlane, auditor: Auditor) -> None:
    """Nor does one whose auditor has gone; what is told later is numbered without a gap."""
    heard = listening(api)
    api.database("mute")
    auditor.queue_records(api.store.objects.get(Database, 1), NODE, [entry("login")])
    api.database("D2", 6381, audit_settings={"audit_mode": "connection"})
    auditor.queue_records(api.store.objects.get(Database, 2), NODE, [entry("login")])
    assert [one["audit_seq"] for one in heard.hears(2)] == [0, 1]
    assert {said(one)[1] for one in heard.lines()} == {"new", 8}


@pytest.mark.parametrize("protocol", ["local", "syslog", "syslog over TCP"])
def test_other_ways_to_an_auditor(
    api: ControlPlane, auditor: Auditor, tmp_path: Path, protocol: str
) -> None:
    """A stream socket, /dev/log's kind of socket, and RFC 5424 with RFC 6587's lengths."""
    path = str(tmp_path / "s")
    if protocol == "syslog over TCP":
        found = socket.create_server(("127.0.0.1", 0))
        where: dict[str, Any] = {"audit_address": "127.0.0.1"}
        where["audit_port"] = found.getsockname()[1]
    else:
        stream = protocol == "local"
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        found.bind(path)
        if stream:
            found.listen()
        where = {"audit_address": path}
    heard = Listener(found)
    api.ok(SINK, {"audit_protocol": protocol.partition(" ")[0], **where})
    auditor.queue_records(audited(api), NODE, [entry("refused", user="")])
    if protocol == "local":
        assert [said(one)[1] for one in heard.hears(2)] == ["new", 0]
        return
    wait_until(lambda: heard.content.count(b"}") >= 3, "two messages", 30)
    assert b"}\n{" not in heard.content
    if protocol == "syslog":
        first, second = heard.content.splitlines()
        assert first.startswith(b"<110>")
        assert b" redis-certauth[" in first
        assert json.loads(second.partition(b"]: ")[2])["status"] == 0
        return
    length, _, rest = heard.content.partition(b" ")
    message, rest = rest[: int(length)], rest[int(length) :]
    assert message.startswith(b"<110>1 2026-05-27T09:32:46Z ")
    assert b" audit - {" in message
    assert message.endswith(b"}")
    assert rest.partition(b" ")[2].endswith(b"}")


def test_what_nobody_takes_waits_and_then_is_dropped_and_counted(
    api: ControlPlane, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the bound of the queue; the event log says that the auditor is not reached, and how
    many records are lost; what waited is told when it is there again."""
    monkeypatch.setattr(auditing, "DROPPED_EVENT_SECONDS", 0.0)
    place = socket.create_server(("127.0.0.1", 0))
    port = place.getsockname()[1]
    place.close()
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": port}
    api.ok(SINK, {**sink, "audit_queue_max_bytes": 700})
    database = audited(api)
    auditor.queue_records(database, NODE, [entry("login", number) for number in range(1, 11)])

    def events(kind: str) -> list[Any]:
        return [one for one in api.ok("GET /v1/logs") if one["type"] == kind]

    wait_until(lambda: events("audit_records_dropped"), "the loss is told", 30)
    lost = sum(one["lost"] for one in events("audit_records_dropped"))
    assert "audit_queue_max_bytes" in events("audit_records_dropped")[0]["description"]
    wait_until(lambda: events("audit_sink_unreachable"), "and why", 30)
    heard = Listener(socket.create_server(("127.0.0.1", port)))
    kept = heard.hears(20 - lost)
    assert len(kept) == 20 - lost < 20
    assert [one["audit_seq"] for one in kept] == list(range(len(kept)))


def test_attempts_have_an_end_where_one_is_set(
    api: ControlPlane, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is dropped then, until the auditor is configured again."""
    monkeypatch.setattr(auditing, "DROPPED_EVENT_SECONDS", 0.0)
    place = socket.create_server(("127.0.0.1", 0))
    port = place.getsockname()[1]
    place.close()
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": port}
    api.ok(SINK, {**sink, "audit_reconnect_max_attempts": 1})
    database = audited(api)
    auditor.queue_records(database, NODE, [entry("login")])

    def dropped() -> list[Any]:
        return [one for one in api.ok("GET /v1/logs") if one["type"] == "audit_records_dropped"]

    wait_until(dropped, "the records are dropped", 30)
    assert "audit_reconnect_max_attempts" in dropped()[0]["description"]
    heard = listening(api)
    auditor.queue_records(database, NODE, [entry("login", 8)])
    assert [said(one) for one in heard.hears(2)] == [(8, "new"), (8, 8)]


def command(asked: list[tuple[Any, ...]], old: bool) -> Callable[..., Any]:
    """A node whose log has one login and its end; `old` does not know ENDS."""

    def call(*words: Any) -> Any:
        if words[0] == "INFO":
            return ""
        asked.append(words)
        if "ENDS" in words and old:
            raise RuntimeError("ERR takes SINCE and COUNT")
        found = [entry("login") | {"seq": 1}, entry("disconnected") | {"seq": 2}]
        since = words[2]
        return {"boot": "b", "last": 2, "lost": 0, "entries": found[since:]}

    return call


@pytest.mark.parametrize("old", [False, True])
def test_a_node_is_asked_for_ends_where_an_auditor_is(
    api: ControlPlane, auditor: Auditor, old: bool
) -> None:
    """An older module once after each of its starts. Ends are not events of the event log."""
    heard, asked = listening(api), list[tuple[Any, ...]]()
    collector = Collector(api.store, auditor)
    collector.collect(audited(api), NODE, command(asked, old))
    assert [said(one)[1] for one in heard.hears(3)] == ["new", 8, "close"]
    assert asked[0][-2:] == ("ENDS", 60)
    collector.collect(api.store.objects.get(Database, 1), NODE, command(asked, old))
    assert ("ENDS" in asked[-1]) != old
    kinds = [one["type"] for one in api.ok("GET /v1/logs")]
    assert kinds.count("client_login") == 1
    assert not any("disconnected" in kind for kind in kinds)
    api.ok("PUT /v1/bdbs/1", {"db_conns_auditing": False})
    collector.collect(api.store.objects.get(Database, 1), NODE, command(asked, False))
    assert "ENDS" not in asked[-1]


def test_a_servers_connections_are_heard_of(
    api: ControlPlane, auditor: Auditor, installed: Server, start: Start, pki: Pki
) -> None:
    """Of a real one: with the port that the client had, until it has gone."""
    heard, database = listening(api), audited(api)
    node = make_node(start, installed, *policy_of(pki))

    def call(*words: Any) -> Any:
        if words[0] == "INFO":
            return ""
        reply = mapping(node.call(*words))
        return {**reply, "entries": [mapping(one) for one in reply["entries"]]}

    collector = Collector(api.store, auditor)
    collector.collect(database, NODE, call)
    assert node.outcome(pki.alice) == LOGIN

    def ended() -> bool:
        collector.collect(database, NODE, call)
        return any("close_conn" in one for one in heard.lines())

    wait_until(ended, "the end is heard of", 30)
    begun, auth, over = (one for one in heard.lines() if said(one)[1] in ("new", 8, "close"))
    assert begun["new_conn"] == over["close_conn"]
    assert int(begun["new_conn"]["srcp"]) > 0
    assert (auth["username"], auth["srcip"]) == ("alice", "127.0.0.1")
