"""The query of a request: no parameter is ignored, and a dry run changes nothing."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.api.openapi import declared
from control.api.web import FLAGS
from control.domain import issuing
from control.domain.issuing import Authority
from control.nodes.waiting import IN_FORCE
from control.pki.pem import Issued
from control.pki.request import new_request
from control.policy import core
from control.records import API, Certificate, TrustSource
from control.reports import Node
from tests.kit import crls, tokens
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki, root

METHODS = {"POST", "PUT", "DELETE"}
# Calls of those methods that never change anything: they answer a question, or refuse.
QUESTIONS = {
    "POST /v1/users/authorize", "POST /v1/users/refresh_jwt", "POST /v1/redis_acls/validate",
    "POST /v1/certauth/explain", "POST /v1/certauth/preview", "POST /v1/bootstrap/{action}",
    "POST /v1/certauth/ca/{key}/ocsp",
    "POST /v1/bootstrap/validate/{action}", "PUT /v1/bdbs/{uid}/passwords",
    "PUT /v1/cluster/ldap", "DELETE /v1/cluster/ldap", "POST /v1/ldap_mappings",
    "PUT /v1/ldap_mappings/{uid}", "DELETE /v1/ldap_mappings/{uid}",
    "POST /v1/bdbs/{uid}/certificates", "DELETE /v1/bdbs/{uid}/certificates",
    "POST /v1/bdbs/{uid}/passwords", "DELETE /v1/bdbs/{uid}/passwords",
    "DELETE /v1/certauth/token",
}  # fmt: skip
# RFC 7030 knows no dry run, and errors are sentences of plain text.
EST = {"POST /.well-known/est/{operation}", "POST /.well-known/est/{label}/{operation}"}
SERVER = "127.0.0.1:7000"
ENDPOINTS = [{"addr": ["127.0.0.1"], "port": 6400}]
PASSWORDS = {"username": "bob", "new_password": "another password"}
ACL = {"name": "writes", "acl": "+@write ~*"}
SESSION = {"bdb_uid": 1, "node": SERVER, "id": 7, "cert": "ab" * 32}
CERT = "/v1/cluster/certificates"
SINK = "/v1/cluster/auditing/db_conns"
AUDITOR = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 9}


PATTERN = {
    "name": "devices",
    "kind": "dns",
    "template": "{id}.pods.acme.com",
    "user": "device:{id}",
    "role_uids": [6],
}


class Plane(ControlPlane):
    """With one of each kind of object, and what its calls need; `killed` are the clients that its
    servers were asked to close."""

    def __init__(self, folder: Path, pki: Pki, authority: Issued, content: bytes = b"") -> None:
        super().__init__(folder, content)
        self.killed: list[Any] = []
        self.sessions = [{"id": 7, "cert": "ab" * 32, "user": None}]
        self.authority = authority
        self.app.extensions["authority"] = lambda: authority
        self.app.extensions["ask"] = self.ask
        other = root("CN=the API's")
        self.app.extensions["rotate"] = lambda: self.store.settings.put_certificates(
            [Certificate(API, other.pem.decode(), other.key_pem.decode())]
        )
        self.pki = pki
        self.file = folder / "trust.pem"

    def ask(self, _uid: int, question: Any, _only: str = "", **_: Any) -> dict[str, Any]:
        def command(*words: Any) -> Any:
            if words[0] == "CLIENT":
                self.killed.append(words)
                return 1
            return {"sessions": self.sessions, "cursor": 0}

        return {SERVER: question(command)}

    def fill(self) -> None:
        clients = self.authority.certificate + self.pki.ca.pem.decode()
        self.ok(
            f"PUT {CERT}", {"certificates": [{"name": "mtls_trusted_ca", "certificate": clients}]}
        )
        self.ok(f"PUT {SINK}", {**AUDITOR, "audit_port": 601})
        self.ok("POST /v1/roles", {"name": "ops", "management": "none"})  # uid 8
        self.ok("POST /v1/redis_acls", {"name": "reads", "acl": "+@read ~*"})  # uid 4
        self.certificate_user("alice", "CN=alice", role_uids=[6])  # uid 2
        self.password_user("bob", "none")  # uid 3
        self.ok("POST /v1/users/password", {"username": "bob", "new_password": "second password"})
        self.database(roles_permissions=[{"role_uid": 6, "redis_acl_uid": 1}])
        self.store.nodes.report(1, [Node(1, SERVER, 0, True, origin="found")])
        self.ok("POST /v1/certauth/profiles", {"name": "short", "lifetime": 3600})  # uid 2
        self.ok("POST /v1/certauth/patterns", {**PATTERN, "template": "{id}.iot.acme.com"})  # uid 1
        issuer = {"url": tokens.ISSUER, "audiences": [tokens.AUDIENCE], "jwks": tokens.jwks()}
        rules = [{"identity": "user:{sub}"}]
        self.ok("POST /v1/certauth/issuers", {"name": "idp", "rules": rules, **issuer})  # uid 1
        self.file.write_bytes(self.pki.server_ca.pem)
        source = {"name": "followed", "location": str(self.file), "trust_grows": True}
        self.ok("POST /v1/certauth/trust_sources", source)  # uid 1
        state = self.store.trust_sources.state(1)
        more = replace(state, pending=root("CN=waits").pem.decode())
        (followed,) = self.store.objects.all(TrustSource)
        self.store.trust_sources.record(followed, more)
        asked = {"name": "theirs", "ca": self.pki.ca.key_id, "url": "http://ocsp.acme.example/"}
        self.ok("POST /v1/certauth/responders", asked)  # uid 1
        self.ok("POST /v1/certauth/revocations", {"cert": "cd" * 32})
        self.ok("POST /v1/certauth/crls", {"crl": crls.text(crls.crl(self.pki.ca))})
        self.ok("POST /v1/certauth/locks", {"network": "203.0.113.7"})  # uid 1

    def state(self) -> Any:
        """Every row there is, and what servers were asked to do."""
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as database:
            return list(database.iterdump()), list(self.killed)


def trusted(plane: Plane) -> Any:
    return {
        "name": "mtls_trusted_ca",
        "certificate": plane.pki.server_ca.pem.decode(),
        "trust_grows": True,
    }


def newer_list(plane: Plane) -> Any:
    return {"crl": crls.text(crls.crl(plane.pki.ca, plane.pki.alice, number=2))}


def request_of_alice(_: Plane) -> Any:
    return {"csr": new_request("ec").certificate, "user": "alice"}


def enrolment_of_alice(_: Plane) -> Any:
    return {"csr": new_request("ec").certificate, "token": tokens.token()}


def what_waits(plane: Plane) -> Any:
    return {"digest": plane.ok("GET /v1/certauth/trust_sources/1")["waits"]["digest"]}


def another_source(plane: Plane) -> Any:
    plane.file.write_bytes(root("CN=other").pem)
    return {"name": "other", "location": str(plane.file), "trust_grows": True}


def another_responder(plane: Plane) -> Any:
    key = core.identity(plane.authority.certificate.encode()).key
    return {"name": "other", "ca": key, "url": "http://ocsp.acme.example/"}


ISSUER = {"name": "other", "url": "https://other.example", "audiences": ["redis"]}
# Of each call that changes something: an address of it, and a body (or what makes one), that do.
REQUESTS: dict[str, tuple[str, Any]] = {
    "PUT /v1/cluster": ("/v1/cluster", {"password_complexity": True}),
    f"PUT {SINK}": (SINK, AUDITOR),
    f"DELETE {SINK}": (SINK, None),
    "PUT /v1/cluster/policy": ("/v1/cluster/policy", {"login_lockout_threshold": 7}),
    f"PUT {CERT}": (f"{CERT}?force", lambda plane: {"certificates": [trusted(plane)]}),
    "PUT /v1/cluster/update_cert": ("/v1/cluster/update_cert?force", trusted),
    f"POST {CERT}/rotate": (f"{CERT}/rotate", {"name": "api"}),
    f"DELETE {CERT}/{{name}}": (f"{CERT}/mtls_trusted_ca?force", None),
    "POST /v1/users": ("/v1/users", {"name": "eve", "password": "the password", "role": "none"}),
    "PUT /v1/users/{uid}": ("/v1/users/3", {"email": "bob@acme.example"}),
    "DELETE /v1/users/{uid}": ("/v1/users/2", None),
    "PUT /v1/users/password": ("/v1/users/password", PASSWORDS),
    "POST /v1/users/password": ("/v1/users/password", PASSWORDS),
    "DELETE /v1/users/password": (
        "/v1/users/password", {"username": "bob", "old_password": "bob's"}),
    "POST /v1/roles": ("/v1/roles", {"name": "dev"}),
    "PUT /v1/roles/{uid}": ("/v1/roles/8", {"name": "dev"}),
    "DELETE /v1/roles/{uid}": ("/v1/roles/8", None),
    "POST /v1/certauth/patterns": ("/v1/certauth/patterns", {**PATTERN, "name": "pods"}),
    "PUT /v1/certauth/patterns/{uid}": ("/v1/certauth/patterns/1", {"session": "8h"}),
    "DELETE /v1/certauth/patterns/{uid}": ("/v1/certauth/patterns/1", None),
    "POST /v1/redis_acls": ("/v1/redis_acls", ACL),
    "PUT /v1/redis_acls/{uid}": ("/v1/redis_acls/4", ACL),
    "DELETE /v1/redis_acls/{uid}": ("/v1/redis_acls/4", None),
    "POST /v1/bdbs": ("/v1/bdbs", {"name": "x", "endpoints": ENDPOINTS}),
    "POST /v2/bdbs": ("/v2/bdbs", {"bdb": {"name": "x", "endpoints": ENDPOINTS}}),
    "PUT /v1/bdbs/{uid}": ("/v1/bdbs/1", {"name": "x"}),
    "DELETE /v1/bdbs/{uid}": ("/v1/bdbs/1", None),
    "DELETE /v1/bdbs/{uid}/nodes/{address}": (f"/v1/bdbs/1/nodes/{SERVER}", None),
    "POST /v1/certauth/certificates": (
        "/v1/certauth/certificates", request_of_alice),
    "POST /v1/certauth/enrol": ("/v1/certauth/enrol", enrolment_of_alice),
    "POST /v1/certauth/issuers": ("/v1/certauth/issuers", ISSUER),
    "PUT /v1/certauth/issuers/{uid}": ("/v1/certauth/issuers/1", {"clock_skew": 5}),
    "DELETE /v1/certauth/issuers/{uid}": ("/v1/certauth/issuers/1", None),
    "POST /v1/certauth/trust_sources": ("/v1/certauth/trust_sources", another_source),
    "PUT /v1/certauth/trust_sources/{uid}": ("/v1/certauth/trust_sources/1", {"most": 1}),
    "DELETE /v1/certauth/trust_sources/{uid}": ("/v1/certauth/trust_sources/1", None),
    "POST /v1/certauth/trust_sources/{uid}/accept": (
        "/v1/certauth/trust_sources/1/accept?force", what_waits),
    "POST /v1/certauth/responders": ("/v1/certauth/responders", another_responder),
    "PUT /v1/certauth/responders/{uid}": ("/v1/certauth/responders/1", {"stale": "refuse"}),
    "DELETE /v1/certauth/responders/{uid}": ("/v1/certauth/responders/1", None),
    "POST /v1/certauth/profiles": ("/v1/certauth/profiles", {"name": "long"}),
    "PUT /v1/certauth/profiles/{uid}": ("/v1/certauth/profiles/2", {"lifetime": 7200}),
    "DELETE /v1/certauth/profiles/{uid}": ("/v1/certauth/profiles/2", None),
    "POST /v1/certauth/revocations": ("/v1/certauth/revocations", {"cert": "ab" * 32}),
    "DELETE /v1/certauth/revocations/{uid}": ("/v1/certauth/revocations/1", None),
    "POST /v1/certauth/crls": ("/v1/certauth/crls", newer_list),
    "PUT /v1/certauth/crls/{uid}": ("/v1/certauth/crls/1", {"stale": "refuse"}),
    "DELETE /v1/certauth/crls/{uid}": ("/v1/certauth/crls/1", None),
    "POST /v1/certauth/bulk": (
        "/v1/certauth/bulk",
        {"users": [{"name": "pod", "password": "the password", "role": "none"}]}),
    "POST /v1/certauth/locks": ("/v1/certauth/locks", {"user": "mallory"}),
    "DELETE /v1/certauth/locks/{uid}": ("/v1/certauth/locks/1", None),
    "DELETE /v1/certauth/sessions": ("/v1/certauth/sessions", SESSION),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> tuple[Issued, bytes]:
    folder = tmp_path_factory.mktemp("prepared")
    issuing.create(folder, "acme", "", "ec", lambda _: None)
    authority = Authority(folder, lambda: "")()
    made = Plane(folder, pki, authority)
    made.fill()
    made.close()
    return authority, (folder / "control.db").read_bytes()


@pytest.fixture
def plane(tmp_path: Path, pki: Pki, prepared: tuple[Issued, bytes]) -> Iterator[Plane]:
    made = Plane(tmp_path, pki, *prepared)
    yield made
    made.close()


def calls(plane: ControlPlane) -> Iterator[tuple[str, Any]]:
    """ "METHOD /path/{name}" and what is declared, of every route."""
    for route, rule, _ in declared(plane.app):
        path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", route.rule)
        for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"}):
            yield f"{method} {path}", rule


def with_query(path: str, parameter: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{parameter}"


def token(plane: Plane) -> str:
    """A login by password writes to the event log; one by token does not."""
    return f"Bearer {plane.ok('POST /v1/users/authorize', {})['access_token']}"


# ---- Dry runs ------------------------------------------------------------------------------------


def test_every_call_that_changes_something_has_a_dry_run(plane: Plane) -> None:
    """DELETE too; no other call takes the parameter, and the next test knows them all."""
    takes = {call for call, rule in calls(plane) if "dry_run" in rule.query}
    changing = {call for call, _ in calls(plane) if call.split()[0] in METHODS}
    assert takes == changing - QUESTIONS - EST
    assert takes == set(REQUESTS)


@pytest.mark.parametrize("call", REQUESTS)
def test_a_dry_run_changes_nothing_and_the_run_does(plane: Plane, call: str) -> None:
    """After the dry run every row is as it was, generations and events among them, and no client
    was closed; the same request without it, which `dry_run=false` is, changes something."""
    who = token(plane)
    (path, given), method = REQUESTS[call], call.split()[0]
    body = given(plane) if callable(given) else given
    before = plane.state()
    for asked in ("dry_run", "dry_run=true", "dry_run=1"):
        plane.ok(f"{method} {with_query(path, asked)}", body, auth=who)
        assert plane.state() == before, asked
    plane.ok(f"{method} {with_query(path, 'dry_run=false')}", body, auth=who)
    assert plane.state() != before


@pytest.mark.parametrize("call", REQUESTS)
def test_a_change_of_a_policy_says_how_far_it_is(plane: Plane, call: str) -> None:
    """In a header, and, where somebody waits, in the body with the servers that are pending: of
    each call whose change servers have to follow, and of no other one."""
    who = token(plane)
    (path, given), method = REQUESTS[call], call.split()[0]
    before = plane.store.policies.targets()
    asked = f"{method} {with_query(path, 'wait_for_sync=0')}"
    answer = plane(asked, given(plane) if callable(given) else given, auth=who)
    follow = plane.store.policies.targets() != before or call == "PUT /v1/bdbs/{uid}"
    told = answer.headers.get(IN_FORCE, "")
    assert bool(told) == follow
    assert answer.json.get("in_force", "") == told
    assert answer.status == (202 if answer.json.get("pending") else 200)
    assert bool(answer.json.get("pending")) == follow


def test_a_dry_run_of_issuing_hands_no_certificate_out(plane: Plane) -> None:
    """It would be good, and in no inventory."""
    call = "POST /v1/certauth/certificates"
    told = plane.ok(f"{call}?dry_run", request_of_alice(plane))
    assert (told["user"], told["certificate"]) == ("alice", "")
    assert "BEGIN CERTIFICATE" in plane.ok(call, request_of_alice(plane))["certificate"]


def test_a_dry_run_is_refused_for_the_reasons_of_the_run(plane: Plane) -> None:
    """DELETE of what is in use, or is not there."""
    for call, status in (("roles/1", 406), ("redis_acls/1", 409), ("users/99", 404)):
        refused = plane(f"DELETE /v1/{call}?dry_run")
        assert refused.status == status
        assert refused.json == plane(f"DELETE /v1/{call}").json


# ---- Parameters that there are not ---------------------------------------------------------------


def filled(call: str) -> str:
    """An address of the call, for what is refused before anything is looked up."""
    return re.sub(r"{(\w+)}", lambda found: "1" if found[1] == "uid" else "x", call)


def test_a_parameter_that_a_call_does_not_take_is_refused_by_name(plane: Plane) -> None:
    """On every route, and it is said what the route takes: a dry run that is misspelt would be the
    change itself. Nothing is changed."""
    who = token(plane)
    before = plane.state()
    for call, rule in calls(plane):
        for name in ("dryrun", "DRY_RUN", "forse"):
            refused = plane(f"{filled(call)}?{name}=true", {} if rule.takes else None, auth=who)
            if "/est/" in call:
                assert refused.status == 400, call
                continue
            assert (refused.status, refused.code) == (400, "unknown_param"), call
            assert refused.text.startswith(f"{name}: ")
            assert refused.text.endswith(f"takes: {', '.join(rule.query) or 'none'}")
    assert plane.state() == before


def test_a_flag_says_true_or_false(plane: Plane) -> None:
    """Anything else is refused, and so is a parameter that is there twice, on every route that has
    one: neither is guessed at."""
    who = token(plane)
    before = plane.state()
    for call, rule in calls(plane):
        for name in FLAGS.intersection(rule.query):
            for said in (f"{name}=maybe", f"{name}=2", f"{name}=&{name}=false"):
                refused = plane(f"{filled(call)}?{said}", {} if rule.takes else None, auth=who)
                assert (refused.status, refused.code) == (400, "invalid_param"), (call, said)
                assert refused.text.startswith(f"{name}: ")
    assert plane.state() == before


def test_who_may_not_call_learns_nothing_of_its_parameters(plane: Plane) -> None:
    """401 and 403 come first."""
    assert plane("GET /v1/users?nonsense", auth=None).status == 401
    assert plane("GET /v1/users?nonsense", auth=("bob", "bob's")).status == 403


def test_force_false_does_not_force(plane: Plane) -> None:
    """As typed clients send it with every call: a CA in use stays, with or without a dry run."""
    live = {"user": "alice", "cert": "ab" * 32, "path": [core.identity(plane.pki.ca.pem).key]}
    plane.sessions = [live]
    entry = trusted(plane)
    for query in ("force=false", "force=0", "dry_run&force=false"):
        refused = plane(f"PUT /v1/cluster/update_cert?{query}", entry)
        assert (refused.status, refused.code) == (406, "ca_in_use"), query
    plane.ok("PUT /v1/cluster/update_cert?force=true", entry)


def test_a_dry_run_sends_nobody_to_wait(plane: Plane) -> None:
    """There is nothing that a server could follow."""
    told = plane("PUT /v1/redis_acls/4?dry_run&wait_for_sync=9", {"acl": "+get ~*"})
    assert (told.status, "pending" in told.json) == (200, False)
