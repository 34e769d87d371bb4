"""control/store: the inventory of clients' certificates, and profiles of those issued."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.api.app import init_cluster
from control.errors import Refusal
from control.records import DEFAULT_PROFILE, Cluster, Profile, Role, User
from control.reports import CertificateFigures, ClientCertificate, Event
from control.store import InventoryFilter, Store, load
from control.store.inventory import ENDED_CERT_KEEP_SECONDS, LAST_LOGIN_LAG_SECONDS
from tests.kit.rest import ADMIN, user
from tests.kit.rows import ADMIN as FIRST
from tests.kit.rows import cut

NOW = 1_800_000_000
DAY = 86400


@pytest.fixture
def peopled(url: str) -> Iterator[Store]:
    """A store with an administrator and the users of the certificates."""
    opened = Store(url)
    opened.settings.initialise(Cluster("acme", "id", 1), FIRST)
    for name in ("alice", "bob", "eve", "0", "1", "2"):
        opened.objects.create(User(0, name, "certificate", ()))
    yield opened
    opened.close()


def known(cert: str = "a1", **fields: Any) -> ClientCertificate:
    """alice's, valid from a day ago for four."""
    usual: dict[str, Any] = {"key": f"key of {cert}", "ca": "ca", "issuer": "CN=CA", "serial": cert}
    usual |= {"subject": "CN=alice", "user": "alice", "not_before": NOW - DAY}
    usual |= {"not_after": NOW + 3 * DAY, "first": NOW - DAY}
    return ClientCertificate(cert, **{**usual, **fields})


def state(peopled: Store) -> str:
    return peopled.inventory.find(InventoryFilter(now=NOW), limit=1)[0].state


def test_the_state_of_a_certificate(peopled: Store) -> None:
    """The first that holds: near its end, followed by another, of nobody, ended, revoked."""
    one = known(last_login=NOW - DAY)
    peopled.inventory.record_seen(one)
    assert state(peopled) == "valid"
    peopled.inventory.record_seen(known("a2", not_after=NOW + 9 * DAY, first=NOW, last_login=NOW))
    assert state(peopled) == "superseded"
    peopled.objects.delete(
        User, next(u.uid for u in peopled.objects.all(User) if u.name == "alice")
    )
    assert state(peopled) == "orphaned"
    peopled.revocations.revoke(["revoke cert " + "a" * 64], "unspecified")
    assert state(peopled) == "orphaned"
    gone = known(
        "e" * 64, ca="c" * 64, key="d" * 64, serial="77", not_after=NOW - 1, first=NOW - DAY
    )
    peopled.inventory.record_issued(gone)
    assert state(peopled) == "expired"
    peopled.revocations.revoke([f"revoke serial {'c' * 64} 77"], "keyCompromise")
    assert state(peopled) == "revoked"
    (event,) = [e for e in peopled.events.between(0, NOW * 2, True, 1, 0) if e.type == "revoked"]
    assert (event.detail["subjects"], event.detail["users"]) == (["CN=alice"], ["alice"])
    found = peopled.inventory.find(InventoryFilter(states=("revoked",), now=NOW), limit=9)
    assert [one.cert for one in found] == [gone.cert]
    found = peopled.inventory.find(InventoryFilter(search="EE:EE:EE:EE:EE"), limit=9)
    assert [one.cert for one in found] == [gone.cert]


def test_what_nobody_can_use_does_not_end_soon(peopled: Store) -> None:
    """A revoked one needs no successor, nor does one of a user that is gone."""
    one = known("e" * 64, ca="c" * 64, not_after=NOW + 100, serial="77")
    other = known("f" * 64, user="nobody", not_after=NOW + 100)
    peopled.inventory.record_issued(one)
    peopled.inventory.record_issued(other)
    soon = InventoryFilter(ends_soon=NOW)
    assert [found.cert for found in peopled.inventory.find(soon, limit=9)] == [one.cert]
    peopled.revocations.revoke([f"revoke serial {'c' * 64} 77"], "superseded")
    assert peopled.inventory.find(soon, limit=9) == ()
    assert peopled.inventory.figures(NOW).expiring == 0


def every(peopled: Store) -> tuple[ClientCertificate, ...]:
    return peopled.inventory.find(InventoryFilter(), limit=100)


def test_a_certificate_seen_is_remembered_with_its_last_login(peopled: Store) -> None:
    """The newest login counts, in whatever order they are told; others change nothing."""
    one = known(last_login=NOW, bdb_uid=1, node="a:1")
    later = replace(one, last_login=NOW + 100, bdb_uid=2, node="b:2", first=NOW + 100)
    peopled.inventory.record_seen(later, one)
    assert every(peopled) == (replace(later, first=one.first),)
    peopled.inventory.record_seen(replace(one, last_login=NOW + 50))
    assert every(peopled) == (replace(later, first=one.first),)


def test_certificates_are_found_by_subject_and_san(peopled: Store) -> None:
    """A part of either, in any case; what is a wildcard of SQL is text."""
    pod = known("b2", subject="", sans=("uri:spiffe://acme/Cart", "dns:a_b.acme"), last_login=NOW)
    peopled.inventory.record_seen(known(last_login=NOW), pod)

    def found(text: str) -> list[str]:
        return [one.cert for one in peopled.inventory.find(InventoryFilter(search=text), limit=9)]

    assert found("ACME/cart") == found("a_b") == ["b2"]
    assert found("cn=ALI") == ["a1"]
    assert found("a%b") == found("axb") == []
    peopled.inventory.record_seen(known("a1", sans=("upn:a@ad",), last_login=NOW + 100))
    assert found("upn:a@") == ["a1"]  # of a server that said none before


def test_a_login_within_the_minute_writes_nothing(peopled: Store) -> None:
    """Clients that connect all the time cost no write each."""
    one = known(last_login=NOW)
    peopled.inventory.record_seen(one)
    peopled.inventory.record_seen(
        replace(one, last_login=NOW + LAST_LOGIN_LAG_SECONDS - 1, node="other")
    )
    assert every(peopled) == (one,)
    peopled.inventory.record_seen(
        replace(one, last_login=NOW + LAST_LOGIN_LAG_SECONDS, node="other")
    )
    assert every(peopled)[0].node == "other"


def test_a_login_keeps_what_is_known_of_a_certificate_issued_here(peopled: Store) -> None:
    """A node does not know its profile nor its text, and may have been faster than we were."""
    issued = known(issued=True, profile="default", pem="PEM", first=NOW)
    peopled.inventory.record_issued(issued)
    peopled.inventory.record_seen(known(not_before=0, ca="", first=NOW + 5, last_login=NOW + 5))
    assert every(peopled) == (replace(issued, last_login=NOW + 5),)


def test_certificates_are_found_by_user_ca_and_end(peopled: Store) -> None:
    """Those that end first are first."""
    peopled.inventory.record_seen(
        known("a", last_login=NOW),
        known("b", last_login=NOW, user="bob", not_after=NOW + DAY),
        known("c", last_login=NOW, ca="other", not_after=NOW - 1),
    )

    def found(**wanted: Any) -> list[str]:
        return [one.cert for one in peopled.inventory.find(InventoryFilter(**wanted), limit=10)]

    assert found() == ["c", "b", "a"]
    assert found(of_user="bob") == ["b"]
    assert found(from_ca="other") == ["c"]
    assert found(ends_by=NOW + DAY) == ["c", "b"]
    assert found(ends_by=NOW + DAY, good_at=NOW) == ["b"]
    assert peopled.inventory.get("b").user == "bob"
    with pytest.raises(Refusal, match="no such certificate"):
        peopled.inventory.get("d")


def soon(peopled: Store, now: int) -> list[str]:
    return [one.cert for one in peopled.inventory.find(InventoryFilter(ends_soon=now), limit=10)]


def test_a_certificate_ends_soon_in_the_last_quarter_of_its_life(peopled: Store) -> None:
    """Renewal is due at two thirds. Of a long life, the last thirty days count; one whose beginning
    is not known counts as long."""
    peopled.inventory.record_seen(
        known("short", last_login=NOW),
        known("long", user="bob", not_after=NOW + 300 * DAY, last_login=NOW),
        known("half known", user="eve", not_before=0, not_after=NOW + 400 * DAY, last_login=NOW),
    )
    assert soon(peopled, NOW + 2 * DAY) == []
    assert soon(peopled, NOW + 2 * DAY + 1) == ["short"]
    assert soon(peopled, NOW + 3 * DAY) == []  # it has ended
    assert soon(peopled, NOW + 270 * DAY + 1) == ["long"]
    assert soon(peopled, NOW + 370 * DAY + 1) == ["half known"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"key": "key of old"}, []),  # renewed
        ({"first": NOW + 1}, []),  # another key, and the old certificate was not used since
        ({"first": NOW - 1}, ["old"]),  # another machine's, while the old one is in use
        ({"key": "key of old", "not_after": NOW + 3 * DAY - 1}, ["old"]),  # ends even earlier
        ({"key": "key of old", "user": "bob"}, ["old"]),
    ],
)
def test_a_certificate_with_a_successor_does_not_end_soon(
    peopled: Store, other: dict[str, Any], expected: list[str]
) -> None:
    """Its own renewal; or what its user has used since. Not just any other of that user."""
    second = {"not_after": NOW + 9 * DAY, "last_login": NOW + 1, **other}
    peopled.inventory.record_seen(known("old", last_login=NOW), known("new", **second))
    now = NOW + 3 * DAY - 60
    assert [cert for cert in soon(peopled, now) if cert == "old"] == expected


def test_the_event_log_tells_once_that_a_certificate_ends(peopled: Store) -> None:
    """With the user and the end; and what ended long ago is forgotten."""
    peopled.inventory.record_seen(known(last_login=NOW))

    def told() -> list[Event]:
        return [
            e
            for e in peopled.events.between(0, 2**40, False, 99, 0)
            if e.type == "certificate_expiring"
        ]

    peopled.inventory.watch(NOW)
    assert told() == []
    for _ in range(2):
        peopled.inventory.watch(NOW + 3 * DAY - 60)
    (event,) = told()
    assert (event.severity, event.detail["user_name"]) == ("WARNING", "alice")
    assert event.detail["not_after"] == NOW + 3 * DAY
    peopled.inventory.watch(NOW + 3 * DAY + ENDED_CERT_KEEP_SECONDS - 1)
    assert every(peopled)
    peopled.inventory.watch(NOW + 3 * DAY + ENDED_CERT_KEEP_SECONDS)
    assert every(peopled) == ()


def test_many_that_end_at_once_do_not_hold_the_database(
    peopled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many a time, the first to end first; the others are told the next time."""
    monkeypatch.setattr("control.store.inventory.EVENTS_PER_TYPE", 2)
    peopled.inventory.record_seen(
        *[known(str(n), user=str(n), not_after=NOW + 9 - n, last_login=NOW) for n in range(3)]
    )

    def told() -> list[Any]:
        found = peopled.events.between(0, 2**40, False, 99, 0)
        return [e.detail["cert"] for e in found if e.type == "certificate_expiring"]

    peopled.inventory.watch(NOW)
    assert told() == ["2", "1"]
    peopled.inventory.watch(NOW)
    assert told() == ["2", "1", "0"]


def test_certificates_are_counted(peopled: Store) -> None:
    """Good ones, those that end soon among them, those that have ended, and the next end."""
    assert peopled.inventory.figures(NOW) == CertificateFigures()
    peopled.inventory.record_seen(
        known("a", last_login=NOW),
        known("b", user="bob", not_after=NOW + 100, last_login=NOW),
        known("c", user="eve", not_after=NOW, last_login=NOW),
        known("d", user="dan", not_before=0, not_after=0, last_login=NOW),
    )
    assert peopled.inventory.figures(NOW) == CertificateFigures(3, 1, 1, NOW + 100)


def test_a_user_that_is_renamed_keeps_its_certificates(peopled: Store) -> None:
    """They are looked for by its name."""
    alice = peopled.objects.create(user(0, "dora"))
    peopled.inventory.record_seen(known(last_login=NOW, user="dora"))
    peopled.objects.update(User, alice.uid, lambda now: replace(now, name="alicia"))
    assert [one.user for one in every(peopled)] == ["alicia"]


def test_a_role_that_a_profile_names_stays(peopled: Store) -> None:
    """Without it the profile would be nobody's, and nobody would know why."""
    role = peopled.objects.create(Role(0, "apps", "none"))
    apps = peopled.objects.create(Profile(0, "apps", role_uids=(role.uid,)))
    assert apps.uid > DEFAULT_PROFILE.uid
    with pytest.raises(Refusal, match="certificate profiles name this role: apps"):
        peopled.objects.delete(Role, role.uid)
    peopled.objects.delete(Profile, apps.uid)
    peopled.objects.delete(Role, role.uid)
    with pytest.raises(Refusal, match="there is no role 99"):
        peopled.objects.create(Profile(0, "apps", role_uids=(99,)))


def test_a_control_plane_made_before_gets_the_first_profile(tmp_path: Path) -> None:
    """As one that is peopled now."""
    url = f"sqlite:///{tmp_path}/control.db"
    opened = Store(url)
    init_cluster(opened, "acme", *ADMIN)
    assert opened.objects.all(Profile) == (DEFAULT_PROFILE,)
    dumped = opened.dump()
    opened.close()
    counters = dumped["tables"]["counters"]
    counters["rows"] = [row for row in counters["rows"] if "profile" not in row]
    load(f"sqlite:///{tmp_path}/again.db", cut(dumped, "0003", tmp_path))
    opened = Store(f"sqlite:///{tmp_path}/again.db")
    assert opened.objects.all(Profile) == (DEFAULT_PROFILE,)
    assert opened.objects.create(Profile(0, "other")).uid == 2
    opened.close()
