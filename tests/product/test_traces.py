"""Anyone whom a node refuses, in the TLS handshake or by its policy, leaves the same trace in
CERTAUTH.LOG, in INFO, in the control plane's event log and in /metrics."""

import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.kit.alerts import scraped
from tests.kit.chains import Table, table
from tests.kit.node import Start, mapping
from tests.kit.plane import Plane, enrolled_node
from tests.kit.policies import Node
from tests.kit.presented import COUNTED, EXCEPTIONS, peer, shake, sources, without
from tests.kit.servers import Server
from tests.kit.support import TlsPeer, wait_until

# What an entry says of who was refused and why; the event log leaves out what is empty.
SAID = ("address", "reason", "subject", "issuer", "serial", "cert", "key", "ca", "detail")
BY = {"handshake": "handshake", "refused": "policy"}  # who refused, by the event
Trace = tuple[str, ...]


def refusals(entries: Iterable[Mapping[str, Any]], event: str) -> list[Trace]:
    """Event, and what is said, of those entries that tell of a refusal, oldest first."""
    named = [(str(entry[event]).removeprefix("client_"), entry) for entry in entries]
    return [
        (kind, *(str(entry.get(name) or "") for name in SAID))
        for kind, entry in named
        if kind in BY
    ]


class Log:
    """What CERTAUTH.LOG tells of refusals, as it is read on."""

    def __init__(self, node: Node) -> None:
        self.node, self.last, self.told = node, 0, list[Trace]()

    def read(self) -> list[Trace]:
        page = mapping(self.node.call("CERTAUTH.LOG", "SINCE", self.last, "COUNT", 1000))
        self.last = page["last"]
        found = refusals(map(mapping, page["entries"]), "event")
        self.told += found
        return found


def counted(node: Node) -> Counter[tuple[str, str]]:
    """What INFO counts of them, by who refused and the reason."""
    prefixes = {COUNTED: "handshake", "refused_": "policy"}
    return Counter({
        (by, name.removeprefix(prefix)): number
        for name, number in node.counters().items()
        for prefix, by in prefixes.items()
        if name.startswith(prefix) and number
    })  # fmt: skip


def metrics(plane: Plane) -> Counter[tuple[str, str]]:
    """What /metrics counts of them."""
    return Counter({
        (dict(labels)["by"], dict(labels)["reason"]): int(value)
        for (name, labels), value in scraped(plane).items()
        if name == "certauth_node_refused_total" and value
    })  # fmt: skip


def clients(node: Node, made: Table) -> dict[str, TlsPeer]:
    """One of each kind, and one without a certificate."""
    found, unloaded = {"nothing": without(node)}, set()
    for shown in made.shown:
        try:
            found[shown.name] = peer(node, shown)
        except ssl.SSLError:
            unloaded.add(shown.name)
    assert unloaded == set(EXCEPTIONS)
    return found


def revoke(plane: Plane, made: Table) -> None:
    """What the table's own policy revokes."""
    for kind, *what in (line.split()[1:] for line in made.lines if line.startswith("revoke ")):
        names = {"serial": ("ca", "serial"), "key": ("key",)}[kind]
        plane.ok("POST /v1/certauth/revocations", dict(zip(names, what, strict=True)))


@pytest.mark.few_servers
def test_each_refusal_leaves_the_same_trace_everywhere(
    server_kind: Server, start: Start, plane: Plane
) -> None:
    """Every kind of chain, and no certificate: one entry in the node's log for each client that is
    refused, and none for any other; the event log has each with its reason and subject; the numbers
    of INFO and /metrics are those of the entries."""
    made = table()
    node = Node(enrolled_node(start, server_kind, plane.config.home, made.pki, trust=made.trust,
                              tls_auth_clients="yes"))  # fmt: skip
    plane.trust(made.pki.ca)
    plane.certificate_user("a", "CN=alice", role="admin")
    revoke(plane, made)
    plane.register(node.server)
    plane.in_step()
    log = Log(node)
    for (name, client), source in zip(clients(node, made).items(), sources(), strict=False):
        is_in = shake(client, source)
        assert [one[1] for one in log.read()] == ([] if is_in else [source]), name
    expected = Counter((BY[kind], reason) for kind, _, reason, *_ in log.told)
    assert len(expected) > 12, expected

    def told() -> list[Trace]:
        found = plane.ok("GET /v1/logs?type=client_&order=asc&limit=1000")
        return refusals(found, "type")

    wait_until(lambda: len(told()) >= len(log.told), "the event log has them")
    assert told() == log.told
    assert counted(node) == expected
    wait_until(lambda: metrics(plane) == expected, f"/metrics counts {expected}")
