"""control/pki/trust.py: what a CA is for is what was said, whatever else is in the list."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from control.api.app import init_cluster
from control.pki import trust
from control.pki.pem import CertificateError
from control.pki.trust import read_trust
from control.policy import lines as policy
from control.records import Certificate, Database, Trust
from control.store import Store, load
from tests.kit.rest import ADMIN, ControlPlane, database
from tests.kit.rows import cut
from tests.kit.support import Cert, root

UPDATE = "PUT /v1/cluster/update_cert"
ROOT = root("CN=Root")
LEFT, RIGHT = ROOT.authority("CN=Left"), ROOT.authority("CN=Right")
BELOW, OTHER = LEFT.authority("CN=Below"), root("CN=Other")
ALL = (ROOT, LEFT, RIGHT, BELOW, OTHER)
# Of a leaf of each CA: the key ids of those above it, which it brings along.
PATHS = {
    one: {one.key_id, *(above.key_id for above in one.above)} for one in ALL
}  # fmt: skip
# Lists that lead up to their roots: others are refused, see `ca.check_trust`.
PARTS = [
    part
    for size in range(len(ALL) + 1)
    for part in combinations(ALL, size)
    if all(above in part for one in part for above in one.above)
]


def pem(*cas: Cert) -> str:
    return "".join(one.pem.decode() for one in cas)


def first(*cas: Cert) -> Trust:
    """What a place trusts that is given these, and had none."""
    return then(Trust(), cas)


def then(before: Trust, cas: tuple[Cert, ...], clients: list[str] | None = None) -> Trust:
    return trust.stored(pem(*cas), trust.settled(before, pem(*cas), clients))


def let_in(found: Trust) -> set[str]:
    """The CAs whose leaves may be somebody."""
    return {str(one.certificate.subject.rfc4514_string()) for one in ALL if admits(found, one)}


def admits(found: Trust, one: Cert) -> bool:
    return trust.admits(found, PATHS[one])


# ---- Pure ----------------------------------------------------------------------------------------


def test_the_first_list_says_it_by_its_order_of_issuing() -> None:
    """As it was always read: `ca.read_trust`."""
    for part in PARTS:
        read = read_trust(pem(*part))
        assert (set(first(*part).cas), set(first(*part).anchors)) == (
            set(read.cas), set(read.anchors),
        )  # fmt: skip


def test_taking_away_never_gives() -> None:
    """Of each list, each shorter one: nobody comes in who did not before, no CA becomes more than
    it was, and the leaves of a CA that went are refused."""
    for part in PARTS:
        before = first(*part)
        for fewer in (one for one in PARTS if set(one) < set(part)):
            after = then(before, fewer)
            assert trust.grown(before, after) == []
            assert let_in(after) <= let_in(before)
            assert set(after.anchors) == set(before.anchors) & {one.der for one in fewer}
            gone = set(part) - set(fewer)
            assert not any(admits(after, one) for one in gone), (part, fewer)


def test_who_was_taken_away_is_refused_under_a_root_that_admits_all() -> None:
    """Also what stands below it, no matter who says afterwards that the root is one of clients."""
    before = first(ROOT, LEFT, RIGHT, BELOW)
    assert let_in(before) == {"CN=Right", "CN=Below"}
    wide = then(then(before, (ROOT, RIGHT)), (ROOT, RIGHT), [ROOT.key_id])
    assert let_in(wide) == {"CN=Root", "CN=Right"}
    assert sorted(wide.removed) == sorted([LEFT.key_id, BELOW.key_id])
    assert policy.removed_lines(wide) == [f"revoke key {one}" for one in wide.removed]
    again = then(wide, (ROOT, RIGHT, LEFT))
    assert trust.grown(wide, again) == ["CN=Left (taken away before)"]
    assert "CN=Left" in let_in(again)
    assert let_in(then(wide, (OTHER,))) == {"CN=Other"}


def test_adding_changes_nothing_about_what_is_there() -> None:
    """Neither the use of another CA, nor who comes in by it."""
    for part in PARTS:
        before = first(*part)
        for more in (one for one in PARTS if set(one) > set(part)):
            after = then(before, more)
            assert set(before.cas) <= set(after.cas)
            assert set(before.anchors) <= set(after.anchors)
            assert let_in(before) <= let_in(after)
            assert bool(trust.grown(before, after)) == (set(before.cas) < set(after.cas))


def test_a_use_that_is_said_is_that() -> None:
    """In both directions, and it stays; of a certificate that is not there, it is an error."""
    before = first(ROOT, LEFT)
    both = then(before, (ROOT, LEFT), [ROOT.key_id.upper(), LEFT.key_id])
    assert trust.grown(before, both) == ["CN=Root (so far only above others)"]
    assert let_in(both) == {"CN=Root", "CN=Left", "CN=Right", "CN=Below"}
    assert then(both, (ROOT, LEFT)) == both
    assert let_in(then(both, (ROOT, LEFT), [])) == set()
    with pytest.raises(CertificateError, match=f"no certificate here has the key {OTHER.key_id}"):
        then(before, (ROOT, LEFT), [OTHER.key_id])


# ---- The REST API --------------------------------------------------------------------------------


def entry(*cas: Cert, **more: Any) -> dict[str, Any]:
    return {"name": "mtls_trusted_ca", "certificate": pem(*cas), **more}


def own(*cas: Cert, **more: Any) -> dict[str, Any]:
    return {"authentication_ssl_client_certs": [{"client_cert": pem(one)} for one in cas], **more}


def test_more_trust_is_said_and_wants_a_yes(api: ControlPlane) -> None:
    """By each call that can bring it, and in a dry run; a first list is not asked, of the cluster
    or of a database. Nothing is changed by what is refused."""
    api.ok(UPDATE, entry(ROOT, LEFT))
    api.database("own", 6381, **own(ROOT, LEFT))
    api.database("follows", 6382)
    api.ok("PUT /v1/bdbs/2", own(OTHER))
    together = {"certificates": [entry(ROOT, LEFT, OTHER)]}
    before = api.store.dump()
    for call, body, said in (
        (UPDATE, entry(ROOT, LEFT, OTHER), "CN=Other"),
        (f"{UPDATE}?dry_run", entry(ROOT, LEFT, OTHER), "CN=Other"),
        (f"{UPDATE}?force", entry(ROOT, LEFT, RIGHT), "CN=Right"),
        ("PUT /v1/cluster/certificates", together, "CN=Other"),
        (UPDATE, entry(ROOT, LEFT, client_cas=[ROOT.key_id]), "CN=Root (so far only above"),
        ("PUT /v1/bdbs/1", own(ROOT, LEFT, OTHER), "CN=Other"),
        ("PUT /v1/bdbs/1", {"client_cas": [ROOT.key_id, LEFT.key_id]}, "CN=Root (so far only"),
        ("PUT /v1/bdbs/2", own(), "CN=Left"),  # those of the cluster from then on
    ):
        answer = api(call, body)
        assert (answer.status, answer.code) == (406, "trust_grows"), body
        assert said in answer.text
        assert "trust_grows: true" in answer.text
    assert api.store.dump() == before
    api.ok("PUT /v1/bdbs/2", own(trust_grows=True))
    api.ok("PUT /v1/bdbs/1", {"client_cas": [ROOT.key_id], "trust_grows": True})
    api.ok(UPDATE, entry(ROOT, LEFT, OTHER, trust_grows=True))
    shown = {one["subject"]: one for one in api.ok("GET /v1/certauth/ca")["cas"]}
    assert (shown["CN=Root"]["admits"], shown["CN=Root"]["anchors"]) == ([1], [0, 2])
    assert (shown["CN=Left"]["admits"], shown["CN=Left"]["anchors"]) == ([0, 2], [1])


def test_a_ca_that_went_is_shown_and_refused(api: ControlPlane) -> None:
    """On the databases and in the REST API; a revocation of the same key by hand is its own, and
    leaves the policy whole when it goes."""
    api.ok(UPDATE, entry(ROOT, LEFT, RIGHT))
    api.database(tls_mode="enabled")
    api.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    api.ok(UPDATE, entry(ROOT, RIGHT))
    line = f"revoke key {LEFT.key_id}"
    assert line in api.lines()
    assert api.ok("GET /v1/certauth/ca")["removed"] == [{"ca": LEFT.key_id, "refused": [0, 1]}]
    explained = {"certificate": pem(LEFT.issue("CN=a"), LEFT)}
    for where in ({}, {"bdb_uid": 1}):
        told = api.ok("POST /v1/certauth/explain", explained | where)
        assert told["reason"] in ("ca_revoked", "untrusted_issuer"), told
    api.ok(UPDATE, entry(ROOT, RIGHT, client_cas=[ROOT.key_id], trust_grows=True))
    assert api.ok("POST /v1/certauth/explain", explained | {"bdb_uid": 1})["reason"] == "ca_revoked"
    (made,) = api.ok("POST /v1/certauth/revocations", {"key": LEFT.key_id})["revocations"]
    assert [one for one in api.store.policies.whole(1)[1] if one == line] == [line]
    api.ok(f"DELETE /v1/certauth/revocations/{made['uid']}")
    assert line in api.lines()
    api.ok(UPDATE, entry(ROOT, LEFT, RIGHT, trust_grows=True))
    assert line not in api.lines()


# ---- Rows from before ----------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path}/control.db")
    init_cluster(made, "acme", *ADMIN)
    yield made
    made.close()


def test_rows_of_an_older_version_mean_what_they_meant(opened: Store, tmp_path: Path) -> None:
    """The lines of every database, and who comes in here, are the same; and taking away does not
    give, from then on."""
    lists = {1: (ROOT, LEFT), 2: (ROOT,), 3: (ROOT, LEFT, BELOW, OTHER), 4: ()}
    uses = trust.settled(Trust(), pem(ROOT, LEFT, RIGHT))
    opened.settings.put_certificates(
        [Certificate("mtls_trusted_ca", pem(ROOT, LEFT, RIGHT), uses=uses)]
    )
    for uid, cas in lists.items():
        own_cas = tuple(pem(one) for one in cas)
        said = trust.settled(Trust(), pem(*cas))
        fields: dict[str, Any] = {"authentication_ssl_client_certs": own_cas}
        opened.objects.create(database(uid, [6400 + uid], client_ca_uses=said, **fields))
    lines = {uid: opened.policies.whole(uid) for uid in lists}
    load(f"sqlite:///{tmp_path}/again.db", cut(opened.dump(), "0004", tmp_path))
    again = Store(f"sqlite:///{tmp_path}/again.db")
    try:
        assert {uid: again.policies.whole(uid) for uid in lists} == lines
        assert again.settings.trust() == opened.settings.trust() == first(ROOT, LEFT, RIGHT)
        kept = again.objects.get(Database, 1)
        assert kept == replace(opened.objects.get(Database, 1), created=kept.created)
        assert again.settings.certificates() == opened.settings.certificates()
    finally:
        again.close()
