"""Who will lose access, and when: by what ends first, unless something else takes its place."""

from dataclasses import replace
from typing import Any

from control.domain import forecast
from control.domain.forecast import End, Known
from control.policy import core
from control.reports import ClientCertificate, RevocationList
from tests.kit.certs import authority_line, ca
from tests.kit.rest import database

NOW, DAY = 1_800_000_000, 86400
ROOT, BETWEEN = ca().key_id, "b" * 64
LINES = ["set enforce on", authority_line(ca()), "bind subject CN=alice,O=acme alice",
         "bind cn bob bob from=10.0.0.0/8", "bind cn carl carl"]  # fmt: skip
LATE = RevocationList(1, "CN=Root", ROOT, (ROOT,), (ROOT,), "", "1", 0, NOW + 5 * DAY, "refuse")


def cert(number: int, days: float, user: str = "alice", **fields: Any) -> ClientCertificate:
    """A known certificate that ends in so many days."""
    usual: dict[str, Any] = {
        "cert": f"{number:064x}", "key": f"{number:064x}", "ca": ROOT, "issuer": "CN=Root",
        "serial": f"{number:02x}", "subject": f"CN={user},O=acme", "user": user,
        "not_before": NOW - 10 * DAY, "not_after": NOW + int(days * DAY), "first": NOW - 9 * DAY,
        "last_login": NOW - DAY,
    }  # fmt: skip
    return ClientCertificate(**{**usual, **fields})


def known(**fields: Any) -> Known:
    return Known(**{"now": NOW, "until": NOW + 30 * DAY, "ends": {}, "paths": {}, "lists": (),
                    **fields})  # fmt: skip


def lost(*certificates: ClientCertificate, **fields: Any) -> list[tuple[str, int, str, bool]]:
    """User, day, reason, and whether it is the user's last one."""
    policy = core.Policy(fields.pop("lines", LINES))
    found = forecast.losses(database(), policy, certificates, known(**fields))
    return [(one.user, (one.end.time - NOW) // DAY, one.end.reason, one.last) for one in found]


def test_a_certificate_that_ends_without_a_successor_is_lost() -> None:
    """Within the days that are asked for; the first to end first."""
    found = lost(cert(1, 20), cert(2, 10, "carl"), cert(3, 40, "carl", last_login=0, first=0))
    assert found == [("carl", 10, "expired", False), ("alice", 20, "expired", True)]
    assert lost(cert(1, 31)) == []
    assert lost(cert(1, 29)) == [("alice", 29, "expired", True)]


def test_a_successor_is_for_the_same_key_or_came_since() -> None:
    """Another device of the same user is none."""
    old = cert(1, 10)
    assert lost(old, cert(2, 200, key=old.key)) == []
    assert lost(old, cert(2, 200, first=NOW)) == []
    assert lost(old, cert(2, 200)) == [("alice", 10, "expired", False)]
    both = [("alice", 9, "expired", True), ("alice", 10, "expired", True)]
    assert lost(old, cert(2, 9, first=NOW)) == [("alice", 9, "expired", False), both[1]]
    assert lost(old, cert(2, 200, "carl", first=NOW)) == [("alice", 10, "expired", True)]


def test_who_does_not_get_in_today_loses_nothing() -> None:
    """No binding, another CA, a demand, a lock; where somebody connects from is not known."""
    assert lost(cert(1, 5, "stranger")) == []
    assert lost(cert(1, 5, ca="c" * 64)) == []
    assert lost(cert(1, 5), lines=[*LINES, "set max-lifetime 1d"]) == []
    assert lost(cert(1, 5), lines=[*LINES, "lock user alice"]) == []
    assert lost(cert(1, 5, "bob")) == [("bob", 5, "expired", True)]
    assert lost(cert(1, 5, "certauth-peer-replica")) == []


def test_a_ca_ends_what_is_below_it() -> None:
    """Each CA of the path; with its newest certificate, where its key was renewed."""
    paths = {ROOT: frozenset({ROOT, BETWEEN})}
    ends = {ROOT: NOW + 300 * DAY, BETWEEN: NOW + 7 * DAY}
    assert lost(cert(1, 20), ends=ends, paths=paths) == [("alice", 7, "ca_expired", True)]
    assert lost(cert(1, 3), ends=ends, paths=paths) == [("alice", 3, "expired", True)]
    assert lost(cert(1, 20), ends=ends) == [("alice", 20, "expired", True)]
    root = core.identity(ca().der)
    assert forecast.authority_ends([ca().der, ca().der]) == {ROOT: root.not_after}
    (found,) = forecast.losses(
        database(), core.Policy(LINES), [cert(1, 20)], known(ends=ends, paths=paths)
    )
    assert found.end == End(NOW + 7 * DAY, "ca_expired", BETWEEN)


def test_a_list_that_nobody_renews_ends_what_is_below_its_ca() -> None:
    """Where it is set to refuse; one that is fetched is on time as long as its fetches are."""
    assert lost(cert(1, 20), lists=[LATE]) == [("alice", 5, "ca_revoked", True)]
    for one in (
        replace(LATE, stale="warn"),
        replace(LATE, url="http://x"),
        replace(LATE, next_update=NOW + 40 * DAY),
        replace(LATE, ca="c" * 64, keys=("c" * 64,)),
        replace(LATE, overdue=True),
    ):
        assert lost(cert(1, 20), lists=[one]) == [("alice", 20, "expired", True)], one
    broken = replace(LATE, url="http://x", problem="refused")
    assert lost(cert(1, 20), lists=[broken]) == [("alice", 5, "ca_revoked", True)]
    assert known(lists=[LATE, replace(LATE, stale="warn")]).overdue() == [
        LATE,
        replace(LATE, stale="warn"),
    ]


def test_what_a_public_ca_renews_is_for_servers_alone() -> None:
    """Only what passes for a server's today, and ends within the days."""
    public = frozenset({ROOT})
    serving = cert(1, 10, serves=True)
    found = forecast.without_client_auth(
        [serving, cert(2, 10), cert(3, 40, serves=True), cert(4, 10, serves=True, ca="c" * 64)],
        known(public=public),
    )
    assert found == [serving]
    assert forecast.without_client_auth([serving], known()) == []
    assert all(len(key) == 64 for key in forecast.public_authorities())
