"""/v1/certauth/policies: a policy is read in pages, each line with what it is there for."""

from typing import Any

from tests.kit.rest import ControlPlane
from tests.kit.support import Pki

POLICY = "GET /v1/certauth/policies/1"


def filled(api: ControlPlane, pki: Pki) -> None:
    """A database with lines of each owner: its own, of users, of a pattern, revoked ones."""
    api.alice_reads(pki.ca)
    for name in ("bob", "carol"):
        api.certificate_user(name, f"CN={name},O=acme", role_uids=[6])
    pattern = {"kind": "dns", "template": "{id}.pods.acme.com", "user": "device:{id}"}
    api.ok("POST /v1/certauth/patterns", {"name": "devices", "role_uids": [6], **pattern})
    for serial in ("0a", "0b"):
        api.ok("POST /v1/certauth/revocations", {"ca": pki.ca.key_id, "serial": serial})


def lines(found: dict[str, Any]) -> list[str]:
    return [one["line"] for one in found["lines"]]


def test_pages_are_the_whole_policy(api: ControlPlane, pki: Pki) -> None:
    """Of whatever size, each line once: the database's own first, revocations last."""
    filled(api, pki)
    target = api.store.policies.target(1)
    whole = api.ok(POLICY)
    assert (whole["generation"], whole["digest"]) == (target.generation, target.digest)
    assert sorted(lines(whole)) == sorted(api.lines())
    owners = [one["owner"] for one in whole["lines"]]
    assert list(dict.fromkeys(owners)) == ["database", "user", "pattern", "revocations"]
    for size in (1, 3, 7):
        pages = [api.ok(f"{POLICY}?limit={size}&offset={at}")
                 for at in range(0, len(owners) + size, size)]  # fmt: skip
        assert [line for page in pages for line in lines(page)] == lines(whole)
    assert api(f"{POLICY}?limit=1").headers["X-Total-Count"] == str(len(owners))
    assert api.ok(f"{POLICY}?limit=0")["lines"] == []


def test_a_line_names_whom_it_is_for(api: ControlPlane, pki: Pki) -> None:
    """Its user or pattern, by uid and name; and of one owner, or with a text in any case, only
    those are found and counted."""
    filled(api, pki)
    uids = {one["name"]: one["uid"] for one in api.ok("GET /v1/users")}
    bob = api.ok(f"{POLICY}?search=CN%3DBOB")["lines"]
    assert [(one["owner"], one["owner_uid"], one["owner_name"]) for one in bob] == [
        ("user", uids["bob"], "bob")
    ]
    answer = api(f"{POLICY}?owner=user&search=bob&limit=1")
    assert answer.headers["X-Total-Count"] == "2"  # its `bind` and its `user` line
    (made,) = api.ok(f"{POLICY}?owner=pattern")["lines"]
    assert (made["owner_name"], made["line"][:8]) == ("devices", "pattern ")
    assert len(api.ok(f"{POLICY}?owner=revocations")["lines"]) == 2
    assert api(f"{POLICY}?owner=revocations&offset=5").json["lines"] == []
    assert api.ok(f"{POLICY}?search=%25")["lines"] == []  # no wildcard


def test_it_is_not_for_everybody(api: ControlPlane, pki: Pki) -> None:
    """It names users and what they are known by: who may explain certificates reads that."""
    filled(api, pki)
    for role, status in (("db_member", 200), ("cluster_viewer", 403)):
        assert api(POLICY, auth=api.password_user(role, role)).status == status
    assert api("GET /v1/certauth/policies/9").status == 404
    answer = api(f"{POLICY}?owner=nobody")
    assert (answer.status, "database, user, pattern, revocations" in answer.text) == (400, True)
