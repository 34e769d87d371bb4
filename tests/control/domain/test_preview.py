"""control/domain/preview.py, POST /v1/certauth/preview: what a change would do is what it then
does."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.api import certauth
from control.api.web import CHANGES
from control.domain import passwords
from control.domain import preview as foretelling
from control.policy import core
from control.policy import lines as policy
from control.reports import ClientCertificate, Node
from control.service import ca_line
from tests.kit.node import who
from tests.kit.plane import Plane, enrolled_node
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, wait_until

PREVIEW = "POST /v1/certauth/preview"


def known(cert: Cert, ca: Cert, user: str, **fields: Any) -> ClientCertificate:
    """A certificate as a login leaves it in the inventory."""
    found = core.identity(cert.pem)
    return ClientCertificate(
        found.cert, found.key, ca.key_id, found.issuer, found.serial, found.subject, user,
        not_before=0, not_after=found.not_after, first=1, last_login=1, bdb_uid=1, **fields,
    )  # fmt: skip


def preview(api: ControlPlane, *requests: str, body: Any = None, **options: Any) -> Any:
    """`preview(api, "DELETE /v1/users/2")`; the body is that of the last one."""
    changes: list[dict[str, Any]] = []
    for request in requests:
        method, path = request.split()
        changes.append({"method": method, "path": path})
    if body is not None:
        changes[-1]["body"] = body
    return api.ok(PREVIEW, {"changes": changes}, **options)["databases"]


@pytest.fixture
def api(api: ControlPlane, pki: Pki) -> ControlPlane:
    """Alice, with Read Only on database 1; her certificate has been seen."""
    api.alice_reads(pki.ca)
    api.store.inventory.record_seen(known(pki.alice, pki.ca, "alice"))
    return api


# ---- Lines ---------------------------------------------------------------------------------------

CASES: dict[str, tuple[str, Any]] = {
    "a user": ("POST /v1/users", {
        "name": "bob", "auth_method": "certificate", "role": "none",
        "certificate_subject_line": "CN=bob,OU=eng,O=acme",
    }),
    "no user": ("DELETE /v1/users/2", None),
    "another subject": ("PUT /v1/users/2", {"certificate_subject_line": "CN=alice,O=acme"}),
    "a gate": ("PUT /v1/bdbs/1", {
        "client_cert_subject_validation_type": "full_subject",
        "authorized_subjects": [{"CN": "bob"}],
    }),
    "an ACL": ("PUT /v1/redis_acls/2", {"acl": "+get ~*"}),
    "no rights": ("PUT /v1/bdbs/1", {"roles_permissions": []}),
    "no database": ("DELETE /v1/bdbs/1", None),
    "shadow": ("PUT /v1/bdbs/1", {"enforcement": "shadow"}),
    "a revocation": ("POST /v1/certauth/revocations", {"key": "a" * 64}),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "body"), CASES.values(), ids=CASES)
def test_the_lines_are_those_of_the_change(api: ControlPlane, request_: str, body: Any) -> None:
    """Added and removed, for each database; and until it is made, nothing has changed."""
    dumped, before = api.store.dump(), api.lines()
    (found,) = preview(api, request_, body=body)
    assert api.store.dump() == dumped
    api.ok(request_, body)
    assert set(found["added"]) == api.lines() - before
    assert set(found["removed"]) == before - api.lines()
    assert (found["bdb_uid"], found["bdb_name"]) == (1, "orders")


def test_several_changes_are_seen_as_one(api: ControlPlane) -> None:
    """Each on what those before it have made: what comes and goes again is none."""
    assert preview(api, "DELETE /v1/users/2", "DELETE /v1/bdbs/1")[0]["added"] == []
    role = {"uid": 77, "name": "ops"}
    changes = [
        {"method": "POST", "path": "/v1/roles", "body": role},
        {"method": "PUT", "path": "/v1/users/2", "body": {"role_uids": [77]}},
        {"method": "PUT", "path": "/v1/users/2", "body": {"role_uids": [6]}},
    ]
    assert api.ok(PREVIEW, {"changes": changes}) == {"databases": []}
    assert api("GET /v1/roles/77").status == 404


def test_a_change_that_would_be_refused_is_refused(api: ControlPlane, pki: Pki) -> None:
    """By the same handler, with the same error, and which of the changes it was."""
    for request, body in (
        ("DELETE /v1/users/1", None),
        ("DELETE /v1/users/99", None),
        ("POST /v1/users", {"name": "x"}),
        ("PUT /v1/users/2", {"certificate_subject_line": "x"}),
        ("POST /v1/roles", {"name": "Admin"}),
    ):
        method, path = request.split()
        wanted = api(request, body)
        got = api(PREVIEW, {"changes": [{"method": method, "path": path, "body": body}]})
        assert (got.status, got.code) == (wanted.status, wanted.code), request
        assert got.text == f"changes.0 ({request}): {wanted.text}"
    assert api("GET /v1/users/1").status == 200


def test_a_preview_needs_the_rights_of_the_change(api: ControlPlane) -> None:
    """Who may not make it does not learn what it would do."""
    for name, role, request in (
        ("m", "db_member", "DELETE /v1/users/2"),
        ("u", "user_manager", "DELETE /v1/bdbs/1"),
        ("v", "db_viewer", "DELETE /v1/bdbs/1"),
    ):
        auth = api.password_user(name, role)
        method, path = request.split()
        answer = api(PREVIEW, {"changes": [{"method": method, "path": path}]}, auth=auth)
        assert (answer.status, answer.code) == (403, "insufficient_permissions")
    assert len(preview(api, "DELETE /v1/users/2", auth=("u", "u's"))) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/authorize", "/v1/cluster/certificates/rotate", "/v1/certauth/preview",
        "/v1/users/2?dry_run", "/v1/nothing", "/v1/bdbs/1/passwords",
    ],
)  # fmt: skip
def test_only_changes_can_be_previewed(api: ControlPlane, path: str) -> None:
    """What does more than change rows could not be taken back."""
    answer = api(PREVIEW, {"changes": [{"method": "POST", "path": path, "body": {}}]})
    assert answer.status == 400


def test_what_can_be_previewed_is_there(api: ControlPlane) -> None:
    """Each path is one of the API's, with a method that changes something."""
    rules = {rule.rule: rule.methods or set() for rule in api.app.url_map.iter_rules()}
    assert set(rules) >= CHANGES
    assert all(rules[one] & {"PUT", "POST", "DELETE"} for one in CHANGES)


def test_a_preview_hashes_no_password(api: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand took 42 seconds, in which nobody could write. The rules hold as they do later."""
    bob = {"name": "bob", "password": "a password"}
    api.ok("POST /v1/users", bob)
    monkeypatch.setattr(passwords, "HASHER", None)
    carol = {"method": "POST", "path": "/v1/users", "body": {**bob, "name": "carol"}}
    same = {"method": "PUT", "path": "/v1/users/3", "body": {"password": "a password"}}
    assert api.ok(PREVIEW, {"changes": [carol, same]}) == {"databases": []}
    rule = {"method": "PUT", "path": "/v1/cluster", "body": {"password_complexity": True}}
    assert api(PREVIEW, {"changes": [rule, carol]}).code == "password_not_complex"


def test_a_preview_that_takes_long_is_refused(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how far it came. Others write again."""
    monkeypatch.setattr(certauth, "HELD", -1)
    roles = [{"method": "POST", "path": "/v1/roles", "body": {"name": f"r{n}"}} for n in range(3)]
    answer = api(PREVIEW, {"changes": roles})
    assert (answer.status, answer.code) == (406, "preview_too_long")
    assert "0 of the 3 changes" in answer.text
    api.ok("POST /v1/roles", {"name": "r0"})


def test_a_failed_preview_lets_others_write(api: ControlPlane) -> None:
    """Whatever comes of it, the store is free again, and what is remembered of it is true."""
    api(PREVIEW, {"changes": [{"method": "DELETE", "path": "/v1/users/99"}]})
    preview(api, "DELETE /v1/users/2")
    assert api.ok("GET /v1/users/2")["name"] == "alice"
    api.ok("PUT /v1/users/2", {"name": "al"})
    assert api.ok("GET /v1/users/2")["name"] == "al"


# ---- Certificates --------------------------------------------------------------------------------


def test_certificates_that_become_nobody_are_listed(api: ControlPlane, pki: Pki) -> None:
    """With who they were, and why they are refused then: what explain says after the change."""
    (found,) = preview(api, "DELETE /v1/users/2")
    assert found["certificates_changed"] == 1
    (one,) = found["certificates"]
    assert (one["cert"], one["subject"]) == (pki.alice.fingerprint, "CN=alice,OU=eng,O=acme")
    assert one["before"] == {"action": "login", "reason": "matched", "users": ["alice"]}
    assert one["after"] == {"action": "refuse", "reason": "no_binding", "users": []}


def test_certificates_that_become_somebody_else_are_listed(api: ControlPlane, pki: Pki) -> None:
    """A renamed user, and a certificate that nobody had yet."""
    api.store.inventory.record_seen(known(pki.bob, pki.ca, "bob"))
    (found,) = preview(api, "PUT /v1/users/2", body={"name": "al"})
    assert [one["after"]["users"] for one in found["certificates"]] == [["al"]]
    (found,) = preview(api, "POST /v1/users", body=CASES["a user"][1])
    assert [one["before"]["reason"] for one in found["certificates"]] == ["no_binding"]
    assert [one["after"]["users"] for one in found["certificates"]] == [["bob"]]


def test_a_certificate_of_an_unknown_ca_is_counted(api: ControlPlane, pki: Pki) -> None:
    """Below an intermediate that no line names: nobody can say without its path."""
    api.store.inventory.record_seen(known(pki.bob, pki.server_ca, "bob"))
    (found,) = preview(api, "DELETE /v1/users/2")
    assert (found["certificates_changed"], found["certificates_unknown"]) == (1, 1)


@pytest.mark.parametrize("gate", ["disabled", "full_subject", "san_cn"])
def test_what_is_known_of_a_certificate_decides_as_the_certificate_does(
    api: ControlPlane, pki: Pki, gate: str
) -> None:
    """By subject, by CN, by key, by hash, by serial number and by time."""
    extra = ["set gate " + gate, "allow CN=alice OU=eng O=acme", "allow CN=carol"]
    lines = [line for line in api.lines() if not line.startswith("set gate")]
    for more in (
        [], [f"revoke cert {pki.alice.fingerprint}"], [f"revoke key {pki.alice.key_id}"],
        [f"revoke serial {pki.ca.key_id} {pki.alice.serial}"], [f"bind key {pki.bob.key_id} bob"],
    ):  # fmt: skip
        policy = core.Policy([*lines, *extra, *more])
        for cert in (pki.alice, pki.bob, pki.ca.issue("CN=carol")):
            for now in (int(time.time()), 2**35):
                full = policy.decide(cert.pem, now)
                part = policy.decide_known(known(cert, pki.ca, "x"), now)
                if "ca_expired" not in full.reason:  # of a CA nothing but its key is known
                    assert (part.reason, part.users) == (full.reason, full.users)


# ---- Nodes ---------------------------------------------------------------------------------------


@pytest.fixture
def plane(tmp_path: Path, pki: Pki) -> Iterator[Plane]:
    made = Plane(tmp_path / "control")
    made.trust(pki.ca)
    made.user(pki.alice, "alice")
    made.user(pki.bob, "bob")
    yield made
    made.close()


def test_no_user_loses_a_password_that_is_the_mark_of_a_policy() -> None:
    """A user of a node's bootstrap file has it, and nobody logs in by it."""
    users = [f"user {name} on {' '.join(what)} ~* +@all" for name, what in (
        ("marked", [f"#{policy.MARK}"]), ("both", [f"#{policy.MARK}", "#" + "a" * 64]),
        ("free", ["nopass"]), ("other", ["#" + "a" * 64]),
    )]  # fmt: skip
    found = foretelling._users(lambda *_: users, frozenset({"marked", "both", "free"}))
    assert [(one["name"], one["passwords"]) for one in found] == [("both", 1), ("free", 0)]


def test_the_sessions_that_would_end_are_those_that_end(
    start: Any, installed: Server, plane: Plane, pki: Pki
) -> None:
    """By node, with who they are and what they would be."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    with server.tls(pki.alice).connect() as alice, server.tls(pki.bob).connect() as bob:
        number = int(alice.command("CLIENT", "ID"))
        (found,) = preview(plane, "DELETE /v1/users/2")
        (node,) = found["nodes"]
        assert (node["address"], node["error"]) == (f"127.0.0.1:{server.port}", "")
        assert node["sessions"] >= 3
        (one,) = node["ending"]
        assert (one["id"], one["user"], node["ends"]) == (number, "alice", 1)
        assert one["then"] == {"action": "refuse", "reason": "no_binding", "user": ""}
        assert alice.command("PING") == bob.command("PING") == b"PONG"
        plane.ok("DELETE /v1/users/2")
        wait_until(lambda: who(server, pki.alice) is None, "the change is there")
        assert bob.command("PING") == b"PONG"
        with pytest.raises((OSError, EOFError)):
            alice.command("PING")


def test_a_node_that_nobody_here_speaks_to_is_listed_with_why(api: ControlPlane) -> None:
    """Of several control planes one speaks to the nodes; another one does not know."""
    api.store.nodes.report(1, [Node(1, "10.0.0.5:6379", 1, True), Node(1, "s:1", 0, True,
                                                                 role="sentinel")])  # fmt: skip
    (node,) = preview(api, "DELETE /v1/users/2")[0]["nodes"]
    assert (node["address"], node["sessions"]) == ("10.0.0.5:6379", 0)
    assert node["error"].endswith("ask the leading control plane")


def test_a_node_that_cannot_say_is_listed_with_why(
    start: Any, installed: Server, plane: Plane, pki: Pki
) -> None:
    """Never as one where nothing would happen."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    server.stop()
    (node,) = preview(plane, "DELETE /v1/users/2")[0]["nodes"]
    assert node["error"].startswith("UNREACHABLE")


def test_what_is_known_is_decided_from_where_it_came(pki: Pki) -> None:
    """As the certificate itself would be, from the same address: names of any length, one after the
    other, each in its own memory."""
    names = [f"CN={'n' * length},O=acme" for length in range(1, 60)]
    lines = [f"bind subject {name} u{index} from=10.0.0.0/8" for index, name in enumerate(names)]
    lines += [f"user u{index} on +get ~*" for index in range(len(names))]
    policy = core.Policy(["set enforce on", ca_line(pki.ca.pem.decode()), *lines])
    for index, name in enumerate(names):
        one = known(pki.ca.issue(name), pki.ca, "")
        assert policy.decide_known(one, address="10.1.2.3").users == (f"u{index}",)
        assert policy.decide_known(one, address="11.1.2.3").reason == "address"
