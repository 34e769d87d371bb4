"""control/domain/guard.py, control/domain/passwords.py, control/api/web.py: who is asking, and what
they may do."""

import base64
import re
from typing import Any, get_args

import pytest

from control.domain import passwords
from control.domain.guard import PERMISSIONS
from control.domain.passwords import Passwords, new_password
from control.records import Management
from tests.kit.rest import ADMIN, Answer, ControlPlane, Peer
from tests.kit.support import SERVER, Cert, Pki, days, root

ALICE = "CN=alice, OU=eng, O=acme"
PUBLIC = "nobody's"
ROUTES = {
    "GET /openapi.json": PUBLIC,
    "GET /docs": PUBLIC,
    "GET /v1/local/node/master_healthcheck": PUBLIC,
    "GET /livez": PUBLIC,
    "GET /readyz": PUBLIC,
    "POST /v1/users/authorize": PUBLIC,
    "GET /v1/cluster": "view_cluster_info",
    "PUT /v1/cluster": "update_cluster",
    "GET /v1/cluster/policy": "view_cluster_info",
    "PUT /v1/cluster/policy": "update_cluster",
    "GET /v1/cluster/certificates": "view_cluster_info",
    "PUT /v1/cluster/certificates": "update_cluster",
    "PUT /v1/cluster/update_cert": "update_cluster",
    "POST /v1/cluster/certificates/rotate": "update_cluster",
    "DELETE /v1/cluster/certificates/<name>": "update_cluster",
    "GET /v1/cluster/check": "view_all_nodes_checks",
    "GET /v1/cluster/auditing/db_conns": "view_cluster_info",
    "PUT /v1/cluster/auditing/db_conns": "update_cluster",
    "DELETE /v1/cluster/auditing/db_conns": "update_cluster",
    "GET /v1/cluster/ldap": "view_cluster_info",
    "PUT /v1/cluster/ldap": "update_cluster",
    "DELETE /v1/cluster/ldap": "update_cluster",
    "GET /v1/ldap_mappings": "view_cluster_info",
    "POST /v1/ldap_mappings": "update_cluster",
    "GET /v1/ldap_mappings/<uid>": "view_cluster_info",
    "PUT /v1/ldap_mappings/<uid>": "update_cluster",
    "DELETE /v1/ldap_mappings/<uid>": "update_cluster",
    "GET /v1/cluster/stats": "view_cluster_stats",
    "DELETE /v1/certauth/token": "any",
    "GET /v1/cluster/alerts": "view_cluster_alerts",
    "GET /v1/cluster/alerts/<name>": "view_cluster_alerts",
    "GET /v1/bdbs/certificates": "view_all_bdbs_info",
    "GET /v1/bdbs/<uid>/certificates": "view_bdb_info",
    "POST /v1/bdbs/<uid>/certificates": "update_bdb",
    "DELETE /v1/bdbs/<uid>/certificates": "update_bdb",
    "POST /v1/certauth/bulk": "create_new_user",
    "GET /v4/cluster/health": "view_cluster_info",
    "GET /v1/users": "view_all_users_info",
    "GET /v1/users/<uid>": "view_user_info",
    "GET /v1/users/role": "any",
    "POST /v1/users": "create_new_user",
    "PUT /v1/users/<uid>": "update_user",
    "DELETE /v1/users/<uid>": "delete_user",
    "POST /v1/users/refresh_jwt": "any",
    "PUT /v1/users/password": "any",
    "POST /v1/users/password": "any",
    "DELETE /v1/users/password": "any",
    "GET /v1/users/permissions": "any",
    "GET /v1/users/permissions/<role>": "any",
    "GET /v1/roles": "view_all_roles_info",
    "GET /v1/roles/<uid>": "view_role_info",
    "POST /v1/roles": "create_role",
    "PUT /v1/roles/<uid>": "update_role",
    "DELETE /v1/roles/<uid>": "delete_role",
    "GET /v1/certauth/patterns": "view_all_users_info",
    "GET /v1/certauth/patterns/<uid>": "view_user_info",
    "POST /v1/certauth/patterns": "create_new_user",
    "PUT /v1/certauth/patterns/<uid>": "update_user",
    "DELETE /v1/certauth/patterns/<uid>": "delete_user",
    "GET /v1/redis_acls": "view_all_redis_acls_info",
    "GET /v1/redis_acls/<uid>": "view_redis_acl_info",
    "POST /v1/redis_acls": "create_redis_acl",
    "POST /v1/redis_acls/validate": "create_redis_acl",
    "PUT /v1/redis_acls/<uid>": "update_redis_acl",
    "DELETE /v1/redis_acls/<uid>": "delete_redis_acl",
    "GET /v1/bdbs": "view_all_bdbs_info",
    "GET /v1/bdbs/<uid>": "view_bdb_info",
    "POST /v1/bdbs": "create_bdb",
    "POST /v2/bdbs": "create_bdb",
    "PUT /v1/bdbs/<uid>": "update_bdb",
    "DELETE /v1/bdbs/<uid>": "delete_bdb",
    "PUT /v1/bdbs/<uid>/passwords": "update_bdb",
    "POST /v1/bdbs/<uid>/passwords": "update_bdb",
    "DELETE /v1/bdbs/<uid>/passwords": "update_bdb",
    "GET /v1/actions": "view_status_of_cluster_action",
    "GET /v1/actions/<uid>": "view_status_of_cluster_action",
    "GET /v2/actions": "view_status_of_cluster_action",
    "GET /v2/actions/<uid>": "view_status_of_cluster_action",
    "GET /v1/logs": "view_logged_events",
    "GET /v1/certauth/history": "view_logged_events",
    "GET /v1/certauth/sessions": "view_logged_events",
    "DELETE /v1/certauth/sessions": "update_bdb",
    "GET /v1/bootstrap": "any",
    "POST /v1/bootstrap/<action>": "any",
    "POST /v1/bootstrap/validate/<action>": "any",
    "GET /v1/nodes": "view_all_nodes_info",
    "GET /v1/nodes/<uid>": "view_node_info",
    "GET /v1/license": "view_license",
    "GET /v1/jsonschema": "any",
    "GET /v1/jsonschema/<name>": "any",
    "DELETE /v1/bdbs/<uid>/nodes/<address>": "update_bdb",
    "GET /v1/certauth/nodes": "view_all_bdbs_info",
    "POST /v1/certauth/explain": "explain_certificates",
    "GET /v1/certauth/ca": "view_cluster_info",
    "GET /v1/certauth/revocations": "view_cluster_info",
    "POST /v1/certauth/revocations": "revoke_certificates",
    "DELETE /v1/certauth/revocations/<uid>": "revoke_certificates",
    "GET /v1/certauth/forecast": "view_all_users_info",
    "GET /v1/certauth/locks": "view_cluster_info",
    "POST /v1/certauth/locks": "revoke_certificates",
    "GET /v1/certauth/locks/<uid>": "view_cluster_info",
    "DELETE /v1/certauth/locks/<uid>": "revoke_certificates",
    "GET /v1/certauth/crls": "view_cluster_info",
    "POST /v1/certauth/crls": "update_cluster",
    "GET /v1/certauth/crls/<uid>": "view_cluster_info",
    "PUT /v1/certauth/crls/<uid>": "update_cluster",
    "DELETE /v1/certauth/crls/<uid>": "update_cluster",
    "GET /v1/certauth/ca/<key>.crl": "nobody's",
    "GET /v1/certauth/ca/<key>/ocsp/<path:asked>": "nobody's",
    "GET /.well-known/est/<operation>": "nobody's",
    "GET /.well-known/est/<label>/<operation>": "nobody's",
    "POST /.well-known/est/<operation>": "nobody's",
    "POST /.well-known/est/<label>/<operation>": "nobody's",
    "GET /v1/certauth/policies/<uid>": "explain_certificates",
    "GET /v1/certauth/ca/<key>.pem": "nobody's",
    "POST /v1/certauth/preview": "explain_certificates",
    "POST /v1/certauth/certificates": "any",
    "GET /v1/certauth/certificates": "view_all_users_info",
    "GET /v1/certauth/certificates/<cert>": "view_all_users_info",
    "GET /v1/certauth/profiles": "view_cluster_info",
    "GET /v1/certauth/profiles/<uid>": "view_cluster_info",
    "POST /v1/certauth/profiles": "update_cluster",
    "PUT /v1/certauth/profiles/<uid>": "update_cluster",
    "DELETE /v1/certauth/profiles/<uid>": "update_cluster",
    "POST /v1/certauth/enrol": "nobody's",
    "GET /v1/certauth/issuers": "view_cluster_info",
    "GET /v1/certauth/issuers/<uid>": "view_cluster_info",
    "POST /v1/certauth/issuers": "update_cluster",
    "PUT /v1/certauth/issuers/<uid>": "update_cluster",
    "DELETE /v1/certauth/issuers/<uid>": "update_cluster",
    "GET /v1/certauth/trust_sources": "view_cluster_info",
    "GET /v1/certauth/trust_sources/<uid>": "view_cluster_info",
    "POST /v1/certauth/trust_sources": "update_cluster",
    "PUT /v1/certauth/trust_sources/<uid>": "update_cluster",
    "DELETE /v1/certauth/trust_sources/<uid>": "update_cluster",
    "POST /v1/certauth/trust_sources/<uid>/accept": "update_cluster",
    "GET /v1/certauth/responders": "view_cluster_info",
    "GET /v1/certauth/responders/<uid>": "view_cluster_info",
    "POST /v1/certauth/responders": "update_cluster",
    "PUT /v1/certauth/responders/<uid>": "update_cluster",
    "DELETE /v1/certauth/responders/<uid>": "update_cluster",
    "POST /v1/certauth/ca/<key>/ocsp": "nobody's",
    "GET /metrics": "view_cluster_stats",
}
OF_TOKENS = {
    "POST /v1/users/refresh_jwt",
    "DELETE /v1/certauth/token",
}  # its 401 is about the scheme, for everybody
# What facts about Redis Enterprise say each management role holds; "view" is the rest.
HOLDERS = {
    "any": "admin user_manager cluster_member cluster_viewer db_member db_viewer none",
    "update_cluster": "admin",
    "revoke_certificates": "admin",
    "user": "admin user_manager",
    "users": "admin user_manager",
    "bdb": "admin cluster_member db_member",
    "certificates": "admin user_manager cluster_member db_member",
    "view": "admin user_manager cluster_member cluster_viewer db_member db_viewer",
}


@pytest.fixture
def alice(api: ControlPlane, pki: Pki) -> Cert:
    """An administrator by certificate."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role="admin")
    return pki.alice


def role_of(api: ControlPlane, cert: Cert | Peer | None = None, **options: Any) -> Answer:
    return api("GET /v1/users/role", cert=cert, **options)


def refused(answer: Answer, code: str) -> bool:
    return answer.status == 401 and answer.code == code


# ---- Passwords ----


def test_a_password_logs_in_by_name_or_email(api: ControlPlane) -> None:
    """And says which management role it has."""
    body = {"name": "bob", "email": "bob@acme.org", "password": "bob's", "role": "db_viewer"}
    api.ok("POST /v1/users", body)
    for login in ("bob", "bob@acme.org"):
        assert role_of(api, auth=(login, "bob's")).json == {"role": "db_viewer"}


@pytest.mark.parametrize(
    "login", [("admin", ""), ("admin", "x"), ("", ""), ("nobody", ADMIN[1]), ("Admin", ADMIN[1])]
)
def test_wrong_names_and_passwords_are_refused_alike(
    api: ControlPlane, login: tuple[str, str]
) -> None:
    """The answer does not tell which of the two was wrong, and asks for Basic."""
    answer = role_of(api, auth=login)
    assert refused(answer, "invalid_credentials")
    assert (
        answer.text
        == "wrong user name or password, or the user is locked after too many wrong passwords"
    )
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !",
        "Basic \xff",
        "Basic " + base64.b64encode(b"\xff:x").decode(),
        "Bearer x",
        "JWT \xff.\xff.\xff",
    ],
)
def test_a_header_that_is_no_basic_login_is_refused_whatever_the_certificate(
    api: ControlPlane, alice: Cert, header: str
) -> None:
    """An explicit header counts before the certificate, also where it is bad."""
    answer = role_of(api, alice, headers={"Authorization": header})
    assert answer.status == 401
    assert answer.code in ("bad_authorization", "invalid_credentials", "invalid_token")
    assert role_of(api, alice).status == 200


def test_a_certificate_user_has_no_password(api: ControlPlane, alice: Cert) -> None:
    """Not even the empty one."""
    for password in ("", "None", "alice"):
        assert refused(role_of(api, auth=("alice", password)), "invalid_credentials")


def test_a_changed_password_is_valid_at_once_and_the_old_one_is_not(api: ControlPlane) -> None:
    """Although right passwords are remembered."""
    bob = api.password_user("bob", "db_viewer")
    assert role_of(api, auth=bob).status == 200
    api.ok("PUT /v1/users/2", {"password": "new"})
    assert refused(role_of(api, auth=bob), "invalid_credentials")
    assert role_of(api, auth=("bob", "new")).status == 200


def test_a_deleted_user_is_out_at_once(api: ControlPlane) -> None:
    """With the password that was right a moment ago."""
    bob = api.password_user("bob", "db_viewer")
    assert role_of(api, auth=bob).status == 200
    api.ok("DELETE /v1/users/2")
    assert refused(role_of(api, auth=bob), "invalid_credentials")


def test_argon2_runs_once_for_a_right_password_and_each_time_for_a_wrong_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kept-alive client must not cost 20 ms a request; guessing must."""
    runs: list[str] = []
    verify = passwords._verify

    def counted(stored: str, password: str) -> bool:
        runs.append(password)
        return verify(stored, password)

    monkeypatch.setattr(passwords, "_verify", counted)
    checker, right = Passwords(), new_password("right")
    for text in ("right", "right", "wrong", "wrong"):
        found = checker.remembered([right], text) or checker.check([right], text)
        assert found == (right if text == "right" else None)
    assert runs == ["right", "wrong", "wrong"]


def test_nobodys_password_costs_as_much_as_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time must not tell which users exist."""
    runs: list[str] = []

    def counted(stored: str, password: str) -> bool:
        runs.append(password)
        return True

    monkeypatch.setattr(passwords, "_verify", counted)
    assert not Passwords().check((), "any")
    assert runs == ["any"]


def test_a_remembered_password_is_forgotten_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is remembered stays small in time too."""
    clock = [1000.0]
    monkeypatch.setattr("control.domain.passwords.time.monotonic", lambda: clock[0])
    checker, stored = Passwords(), [new_password("right")]
    assert checker.check(stored, "right")
    assert checker.remembered(stored, "right")
    clock[0] += 61
    assert not checker.remembered(stored, "right")


# ---- Certificates ----


def test_a_certificate_logs_in_as_the_user_of_its_subject(api: ControlPlane, alice: Cert) -> None:
    """The seed's spelling of the subject, blanks and all."""
    assert role_of(api, alice).json == {"role": "admin"}


def test_nobody_comes_in_without_anything(api: ControlPlane) -> None:
    """Neither header nor certificate."""
    assert refused(role_of(api, auth=None), "missing_credentials")


def test_a_certificate_counts_for_nothing_where_it_is_not_switched_on(
    api: ControlPlane, alice: Cert
) -> None:
    """And the answer says what is off."""
    api.ok("PUT /v1/cluster", {"mtls_certificate_authentication": False})
    answer = role_of(api, alice)
    assert refused(answer, "certificate_authentication_disabled")
    assert "mtls_certificate_authentication" in answer.text


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("no_binding", lambda pki: pki.bob),
        ("no_binding", lambda pki: pki.ca.issue("CN=alice,OU=ENG,O=acme")),
        ("no_binding", lambda pki: pki.ca.issue("CN=alice,OU=eng,O=acme,C=DE")),
        ("untrusted_issuer", lambda pki: root("CN=Root CA,O=acme").issue()),
        ("untrusted_issuer", lambda pki: pki.server_ca.issue()),
        ("expired", lambda pki: pki.ca.issue(not_before=days(-9), not_after=days(-1))),
        ("not_yet_valid", lambda pki: pki.ca.issue(not_before=days(1), not_after=days(2))),
        ("key_usage", lambda pki: pki.ca.issue(eku=(SERVER,))),
        ("key_usage", lambda pki: pki.ca.authority("CN=alice,OU=eng,O=acme")),
        ("bad_string", lambda pki: pki.ca.issue([[("O", "acme")], [("CN", "alice\0x")]])),
    ],
)
def test_a_certificate_that_is_not_alices_is_a_401_with_the_reason(
    api: ControlPlane, alice: Cert, pki: Pki, reason: str, make: Any
) -> None:
    """Wrong subject, wrong CA, wrong time, wrong use: never a 403, never a TLS alert."""
    answer = role_of(api, make(pki))
    assert refused(answer, reason), answer.json
    assert answer.text.startswith(f"refused: {reason}")
    assert "key id" not in answer.text


def test_a_subject_the_wrong_way_round_is_read_the_right_way(api: ControlPlane, pki: Pki) -> None:
    """The commonest slip: `openssl x509 -subject` prints it so."""
    api.trust(pki.ca)
    made = api.certificate_user("alice", "O=acme, OU=eng, CN=alice")
    assert made["certificate_subject_line"] == "CN=alice,OU=eng,O=acme"
    assert role_of(api, pki.alice).status == 200


def test_the_gate_is_checked_for_the_rest_api(api: ControlPlane, alice: Cert) -> None:
    """full_subject with OU as an array, and its twin that does not fit."""
    fits = {"CN": "alice", "OU": ["eng"], "O": "acme"}
    for entry, status in ((fits, 200), ({**fits, "OU": ["ops"]}, 401)):
        body = {"mtls_client_cert_subject_validation_type": "full_subject"}
        api.ok("PUT /v1/cluster", {**body, "mtls_authorized_subjects": [entry]})
        answer = role_of(api, alice)
        assert (answer.status, answer.code) == (status, "" if status == 200 else "gate")


def test_an_intermediate_must_be_presented(api: ControlPlane, pki: Pki) -> None:
    """The whole presented path is what is decided on."""
    api.trust(pki.ca)
    leaf = pki.ca.authority().issue()
    api.certificate_user("alice", ALICE)
    assert role_of(api, leaf).status == 200
    assert refused(role_of(api, Peer((leaf.der,))), "untrusted_issuer")


def test_only_the_uploaded_intermediate_admits(api: ControlPlane, pki: Pki) -> None:
    """Its root is only an anchor: what else that issued is nobody."""
    ours, theirs = pki.ca.authority("CN=Ours"), pki.ca.authority("CN=Theirs")
    api.trust(ours, pki.ca)
    api.certificate_user("alice", ALICE)
    assert role_of(api, ours.issue()).status == 200
    assert refused(role_of(api, theirs.issue()), "untrusted_issuer")
    assert refused(role_of(api, pki.alice), "untrusted_issuer")


def test_garbage_instead_of_a_certificate_is_a_401(api: ControlPlane, alice: Cert) -> None:
    """A front that hands over what does not parse lets nobody in."""
    assert refused(role_of(api, Peer((b"garbage",))), "malformed")
    assert refused(role_of(api, Peer(())), "malformed")


def test_a_new_ca_holds_for_the_very_next_request(api: ControlPlane, alice: Cert) -> None:
    """Also on a connection that is kept alive: nothing is remembered about it."""
    assert role_of(api, alice).status == 200
    api.trust(root("CN=New CA"))
    assert refused(role_of(api, alice), "untrusted_issuer")


def test_a_deleted_or_moved_user_is_out_with_the_next_request(
    api: ControlPlane, alice: Cert
) -> None:
    """A new subject line, then no user at all."""
    assert role_of(api, alice).status == 200
    api.ok("PUT /v1/users/2", {"certificate_subject_line": "CN=other"})
    assert refused(role_of(api, alice), "no_binding")
    api.ok("PUT /v1/users/2", {"certificate_subject_line": ALICE})
    assert role_of(api, alice).status == 200
    api.ok("DELETE /v1/users/2")
    assert refused(role_of(api, alice), "no_binding")


def test_a_header_counts_before_the_certificate(api: ControlPlane, alice: Cert) -> None:
    """Both are there and right: the header's user is the one."""
    bob = api.password_user("bob", "db_viewer")
    assert role_of(api, alice, auth=bob).json == {"role": "db_viewer"}
    assert refused(role_of(api, alice, auth=("bob", "wrong")), "invalid_credentials")


def test_passwords_can_be_switched_off_once_a_certificate_came_in(
    api: ControlPlane, alice: Cert
) -> None:
    """Refused before, done after; then the certificate is the only way, and stays one."""
    off = {"control_plane_basic_authentication": False}
    assert api("PUT /v1/cluster", off).code == "no_administrator_login"
    assert role_of(api, alice).status == 200
    api.ok("PUT /v1/cluster", off)
    assert refused(role_of(api), "basic_authentication_disabled")
    assert role_of(api, alice).status == 200
    assert api("DELETE /v1/users/2", cert=alice).code == "no_administrator_login"


def test_the_last_login_is_kept(api: ControlPlane, alice: Cert) -> None:
    """Of a certificate's user as of a password's; who never came has none."""
    assert "last_login" not in api.ok("GET /v1/users/2")
    role_of(api, alice)
    assert api.ok("GET /v1/users/2")["last_login"] > 0
    assert api.ok("GET /v1/users/1")["last_login"] > 0


def test_a_strangers_certificates_fill_no_memory(api: ControlPlane, alice: Cert, pki: Pki) -> None:
    """However many subjects they have, one policy answers all of them."""
    for number in range(30):
        stranger = pki.server_ca.issue(f"CN=stranger{number}")
        assert refused(role_of(api, stranger), "untrusted_issuer")
    assert len(api.store._kernel.cache) < 10


# ---- Permissions ----


def holders(permission: str) -> set[str]:
    """By the words of a permission's name."""
    action, _, what = permission.partition("_")
    if permission in HOLDERS:
        return set(HOLDERS[permission].split())
    if action == "explain" or (action == "view" and what in ("all_users_info", "user_info")):
        return set(HOLDERS["certificates" if action == "explain" else "users"].split())
    if action == "view":
        return set(HOLDERS["view"].split()) - ({"db_viewer"} if what == "logged_events" else set())
    return set(HOLDERS["bdb" if what == "bdb" else "user"].split())


def test_every_route_declares_the_permission_of_the_table(api: ControlPlane) -> None:
    """A route without one is refused to everybody, so none is forgotten here."""
    found = {}
    for rule in api.app.url_map.iter_rules():
        handler = api.app.view_functions[rule.endpoint]
        path = rule.rule.replace("<int(max=2147483647):uid>", "<uid>")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            found[f"{method} {path}"] = handler.__dict__["rule"].permission
    assert found == ROUTES


def test_the_permission_table_is_redis_enterprises() -> None:
    """Each permission is held by exactly the management roles that the facts name."""
    assert {name: set(held) for name, held in PERMISSIONS.items()} == {
        name: holders(name) for name in PERMISSIONS
    }


@pytest.mark.parametrize("management", get_args(Management))
def test_each_role_reaches_exactly_what_its_permissions_say(
    api: ControlPlane, management: str
) -> None:
    """Over all roles and all paths: 403 or not, never 401."""
    login = api.password_user("somebody", management)
    for route, permission in ROUTES.items():
        if permission == PUBLIC or route in OF_TOKENS:
            continue
        path = re.sub("<uid>", "99", route)
        answer = api(re.sub("<.*>", "none", path), *body_of(route), auth=login)
        assert (answer.status != 403) == (management in holders(permission)), (route, answer.json)
        assert answer.status not in (401, 500)


def test_every_route_but_the_public_ones_needs_a_login(api: ControlPlane) -> None:
    """401 without one, whatever the path and the body."""
    for route, permission in ROUTES.items():
        if permission == PUBLIC:
            continue
        path = re.sub("<uid>", "1", route)
        answer = api(re.sub("<.*>", "none", path), *body_of(route), auth=None)
        assert refused(answer, "missing_credentials"), route


def body_of(route: str) -> list[Any]:
    return [] if route.startswith("GET") else [{}]


def test_several_roles_add_up(api: ControlPlane) -> None:
    """What any of them may."""
    body = {"name": "bob", "password": "x", "role_uids": [6, 7, 4]}
    api.ok("POST /v1/users", body)
    for path in ("GET /v1/users", "DELETE /v1/bdbs/9"):
        assert api(path, auth=("bob", "x")).status != 403
    assert api("PUT /v1/cluster", {}, auth=("bob", "x")).status == 403


def test_the_permissions_are_told_by_role(api: ControlPlane) -> None:
    """To anyone who is logged in, by the same table."""
    somebody = api.password_user("somebody", "none")
    found = api.ok("GET /v1/users/permissions", auth=somebody)
    assert set(found) == set(get_args(Management))
    for management, told in found.items():
        held = {name for name in PERMISSIONS if name != "any" and management in holders(name)}
        assert set(told["api_permissions"]) == held
        assert api.ok(f"GET /v1/users/permissions/{management}") == {management: told}
    assert api("GET /v1/users/permissions/root").status == 404


def test_a_handler_without_a_permission_is_for_nobody(api: ControlPlane) -> None:
    """Forgetting the declaration fails closed."""
    api.app.add_url_rule("/v1/open", view_func=lambda: {"secret": 1})
    answer = api("GET /v1/open")
    assert (answer.status, answer.code) == (403, "insufficient_permissions")


def test_options_and_head_are_guarded_too(api: ControlPlane) -> None:
    """They run before or instead of a handler."""
    for method in ("OPTIONS", "HEAD"):
        assert api.client.open("/v1/users", method=method).status_code == 401


# ---- Errors ----


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        ("GET /v1/nothing", 404, "not_found"),
        ("PATCH /v1/users", 405, "method_not_allowed"),
        ("GET /v1/users/99999999999999999999", 404, "not_found"),
        ("GET /v1/users/-1", 404, "not_found"),
        ("GET /v1/users/x", 404, "not_found"),
        # These were redirects, as HTML, to whatever the request calls this host.
        ("GET /v1//users", 404, "not_found"),
        ("GET /v1/users//", 404, "not_found"),
        ("DELETE //v1//users/1", 404, "not_found"),
    ],
)
def test_every_error_has_the_one_shape(
    api: ControlPlane, request_line: str, status: int, code: str
) -> None:
    """Also those that Flask makes."""
    answer = api(request_line)
    assert (answer.status, answer.code) == (status, code)
    assert set(answer.json) == {"error_code", "description", "message"}
    assert answer.json["message"] == answer.json["description"]


def test_an_unexpected_error_is_a_500_that_tells_nothing(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text goes to the log."""

    def fail() -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(api.store.settings, "cluster", fail)
    answer = api("GET /v1/cluster", auth=None, cert=Peer((b"x",)))
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "secret" not in str(answer.json)
    assert "the secret" in caplog.text


def test_a_405_says_what_is_allowed(api: ControlPlane) -> None:
    """As HTTP wants it."""
    assert set(api("PATCH /v1/users").headers["Allow"].split(", ")) >= {"GET", "POST"}


# ---- Bodies ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"[" * 100_000, "the body is not JSON"),
        (b'{"name": "a", "name": "b"}', "twice"),
        (b'{"name": NaN}', "NaN"),
        ('{"name": "a"}'.encode("utf-16"), "UTF-8"),
        (b'{"name": "\xed\xa0\x80"}', "UTF-8"),
        (b"{%s}" % b",".join(b'"%d":0' % number for number in range(1001)), "1000 fields"),
    ],
)
def test_broken_json_is_a_400(api: ControlPlane, content: bytes, message: str) -> None:
    """Broken, not an object, too deep, or saying a thing twice."""
    answer = api("POST /v1/users", data=content, content_type="application/json")
    assert (answer.status, answer.code) == (400, "invalid_json")
    assert message in answer.text


def test_a_form_of_another_site_is_refused(api: ControlPlane, alice: Cert) -> None:
    """Cross-site: a browser with a client certificate can be made to send text, but not JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = api("POST /v1/users", data=b'{"name":"x"}', content_type=kind, cert=alice)
        assert (answer.status, answer.code) == (400, "invalid_content_type")


def test_a_huge_body_is_refused(api: ControlPlane) -> None:
    """Before it is parsed."""
    content = b'{"name": "' + b"a" * (1 << 20) + b'"}'
    answer = api("POST /v1/users", data=content, content_type="application/json")
    assert answer.status == 413


def test_a_bad_body_is_not_repeated(api: ControlPlane) -> None:
    """It may hold a password."""
    body = {"name": ["the secret"], "password": 5, "pass word": "the secret"}
    answer = api("POST /v1/users", body)
    assert answer.status == 400
    assert "the secret" not in str(answer.json)
    assert "name" in answer.text
    assert "password" in answer.text
