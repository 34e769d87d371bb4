"""control/api/users.py: /v1/users."""

from typing import Any

import pytest

from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Pki

ALICE = "CN=alice, OU=eng, O=acme"


def certificate(**fields: Any) -> dict[str, Any]:
    usual = {"name": "alice", "auth_method": "certificate", "certificate_subject_line": ALICE}
    return {**usual, **fields}


def test_a_certificate_user_as_the_seed_makes_it(api: ControlPlane) -> None:
    """Blanks after the commas are taken, and the canonical line is answered."""
    line = "CN=John Doe, OU=sales, O=acme corp, L=Berlin, ST=BE, C=DE"
    made = api.ok("POST /v1/users", certificate(certificate_subject_line=line, role="db_viewer"))
    assert made == {
        "uid": 2,
        "name": "alice",
        "email": "",
        "auth_method": "certificate",
        "certificate_subject_line": "CN=John Doe,OU=sales,O=acme corp,L=Berlin,ST=BE,C=DE",
        "certificate_identities": [
            {"subject": "CN=John Doe,OU=sales,O=acme corp,L=Berlin,ST=BE,C=DE"}
        ],
        "role": "db_viewer",
        "role_uids": [5],
        "status": "active",
    }
    assert api.ok("GET /v1/users/2") == made
    assert api.ok("GET /v1/users")[1] == made


def test_a_user_without_a_method_is_by_password(api: ControlPlane) -> None:
    """As on Redis Enterprise; the password is in no answer."""
    made = api.ok("POST /v1/users", {"email": "bob@acme.org", "password": "the secret"})
    assert "the secret" not in str(made)
    assert made["name"] == made["email"] == "bob@acme.org"
    assert made["auth_method"] == "regular"
    assert made["certificate_subject_line"] == ""
    assert made["password_issue_date"].endswith("Z")
    assert "argon2" not in str(api.ok("GET /v1/users"))


def test_the_role_of_several_is_the_highest(api: ControlPlane) -> None:
    """The old field knows only one."""
    made = api.ok("POST /v1/users", certificate(role_uids=[6, 4, 5, 4]))
    assert (made["role"], made["role_uids"]) == ("db_member", [4, 5, 6])
    changed = api.ok("PUT /v1/users/2", {"role": "none"})
    assert (changed["role"], changed["role_uids"]) == ("none", [6])


@pytest.mark.parametrize("chosen", [{}, {"role_uids": []}, {"role": "admin", "role_uids": []}])
def test_an_empty_choice_of_roles_gives_nothing(api: ControlPlane, chosen: dict[str, Any]) -> None:
    """No line on any database, not even where every role is granted something; and of the API only
    what each login may do. Redis Enterprise makes a db_viewer of such a user: the answer says that
    this one is not."""
    every = [{"role_uid": uid, "redis_acl_uid": 1} for uid in range(1, 8)]
    api.database(roles_permissions=every)
    before = api.lines()
    made = api.ok("POST /v1/users", certificate(**chosen))
    assert (made["role"], made["role_uids"]) == ("none", [])
    assert made["note"].startswith("no role: no rights on any database")
    assert api.lines() == before
    api.ok("PUT /v1/users/2", {"role_uids": [5]})
    assert api.lines() > before
    assert "note" not in api.ok("GET /v1/users/2")
    api.ok("PUT /v1/users/2", {"role_uids": []})
    assert api.lines() == before


def test_a_user_without_a_role_may_what_each_login_may(api: ControlPlane) -> None:
    """It sees what its role is and changes its own password, and nothing else; what the API has
    answered can be sent back. The first administrator is one as before."""
    made = api.ok("POST /v1/users", {"name": "bob", "password": "bob's"})
    bob = ("bob", "bob's")
    assert api.ok("GET /v1/users/role", auth=bob) == {"role": "none"}
    refused = api("GET /v1/bdbs", auth=bob)
    assert (refused.status, refused.code) == (403, "insufficient_permissions")
    assert "(none)" in refused.text
    api.ok("PUT /v1/users/2", {"password": "another"}, auth=bob)
    assert api.ok("PUT /v1/users/2", made)["role_uids"] == []
    assert api.ok("GET /v1/users/1")["role_uids"] == [1]
    api.ok("PUT /v1/cluster", {"password_min_length": 9})


def test_the_last_administrator_keeps_its_role(api: ControlPlane) -> None:
    """An empty choice takes nobody's way in."""
    refused = api("PUT /v1/users/1", {"role_uids": []})
    assert (refused.status, refused.code) == (406, "change_last_admin_role_not_allowed")
    assert api.ok("GET /v1/users/1")["role"] == "admin"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({}, "missing_field", "name: "),
        ({"password": "x"}, "missing_field", "name: "),
        ({"name": "bob"}, "missing_field", "password: "),
        ({"name": "bob", "password": ""}, "invalid_schema", "password: "),
        ({"name": "bob", "password": 5}, "invalid_schema", "password: "),
        ({"name": "", "password": "x"}, "invalid_schema", "name: "),
        ({"name": "a<b", "password": "x"}, "invalid_schema", "name: "),
        ({"name": "é", "password": "x"}, "invalid_schema", "name: "),
        ({"name": "a" * 256, "password": "x"}, "invalid_schema", "name: "),
        ({"name": "b", "email": "x", "password": "x"}, "invalid_schema", "email: "),
        ({"name": "b", "password": "x", "role": "root"}, "invalid_schema", "role: "),
        ({"name": "b", "password": "x", "role_uids": ["1"]}, "invalid_schema", "role_uids.0: "),
        ({"name": "b", "password": "x", "role_uids": [99]}, "invalid_param", "role_uids: "),
        ({"name": "b", "password": "x", "uid": 0}, "invalid_schema", "uid: "),
        ({"name": "b", "password": "x", "uid": 2**63}, "invalid_schema", "uid: "),
        ({"name": "b", "password": "x", "uid": True}, "invalid_schema", "uid: "),
        ({"name": "b", "password": "x", "passwd": "y"}, "unknown_field", "passwd: "),
        ({"name": "b", "password": "x", "auth_method": "ldap"}, "invalid_schema", "auth_method: "),
        (
            {"name": "b", "password": "x", "certificate_subject_line": ALICE},
            "invalid_param",
            "certificate_subject_line: ",
        ),
        (certificate(password="x"), "invalid_param", "password: "),
        (certificate(certificate_subject_line=""), "missing_field", "certificate_subject_line: "),
        ({"name": "a", "auth_method": "certificate"}, "missing_field", "certificate_subject_line"),
        (certificate(name="a b"), "invalid_param", "name: "),
        (certificate(name="default"), "invalid_param", "name: "),
        (certificate(name="from=::1"), "invalid_param", "name: "),
        (certificate(certificate_subject_line="CN=a," * 103), "invalid_schema", "certificate_subj"),
    ],
)
def test_a_bad_user_is_a_400_with_the_field(
    api: ControlPlane, body: Any, code: str, text: str
) -> None:
    """And nobody was made."""
    answer = api("POST /v1/users", body)
    assert (answer.status, answer.code) == (400, code), answer.json
    assert answer.text.startswith(text)
    assert len(api.ok("GET /v1/users")) == 1


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("alice", "'=' is missing at the end"),
        ("CN=alice,OU", "'=' is missing at the end"),
        ("CN=alice,,O=acme", "at character 10 (',')"),
        ("CN=alice;OU", "'=' is missing at the end"),
        ("XX=alice", "unknown attribute type at character 1 ('X')"),
        ('CN=a"b', "at character 5 ('\"')"),
        ("CN=", "an empty value"),
        ("CN=a\0b", "character"),
        ("CN=\u202eecila", "character"),
    ],
)
def test_a_subject_that_does_not_parse_is_a_400_naming_the_character(
    api: ControlPlane, line: str, text: str
) -> None:
    """So that it can be found in a long line."""
    answer = api("POST /v1/users", certificate(certificate_subject_line=line))
    assert (answer.status, answer.code) == (400, "invalid_param")
    assert answer.text.startswith("certificate_subject_line: ")
    assert text in answer.text


def test_two_users_with_one_subject_are_a_409_however_it_is_spelt(api: ControlPlane) -> None:
    """It would be two people."""
    api.ok("POST /v1/users", certificate())
    for line in (ALICE, "cn=alice,ou=eng,o=acme", "/O=acme/OU=eng/CN=alice"):
        answer = api("POST /v1/users", certificate(name="bob", certificate_subject_line=line))
        assert (answer.status, answer.code) == (409, "certificate_subject_line_already_exists")
    api.ok("POST /v1/users", certificate(name="b", certificate_subject_line=ALICE.lower()[:8]))


def test_names_and_addresses_are_unique(api: ControlPlane) -> None:
    """With Redis Enterprise's codes."""
    api.ok("POST /v1/users", {"name": "bob", "email": "b@acme.org", "password": "x"})
    body = {"name": "bob", "password": "x"}
    assert (api("POST /v1/users", body).status, api("POST /v1/users", body).code) == (
        409, "name_already_exists",
    )  # fmt: skip
    body = {"name": "bob2", "email": "b@acme.org", "password": "x"}
    assert api("POST /v1/users", body).code == "email_already_exists"
    assert api("PUT /v1/users/1", {"name": "bob"}).code == "name_already_exists"


def test_a_dry_run_makes_nobody(api: ControlPlane) -> None:
    """But answers as if."""
    assert api.ok("POST /v1/users?dry_run", certificate())["uid"] == 2
    assert len(api.ok("GET /v1/users")) == 1


def test_a_user_sent_back_as_it_was_read_is_taken(api: ControlPlane) -> None:
    """Clients read, change one field and send the whole; what only answers have is ignored."""
    api.ok("POST /v1/users", certificate())
    found = api.ok("GET /v1/users/2")
    answer = api.ok("PUT /v1/users/2", {**found, "email": "a@b.c"})
    assert answer.pop("ignored") == ["note", "status", "uid"]
    assert answer == {**found, "email": "a@b.c"}


def test_a_user_moves_from_password_to_certificate_and_back(api: ControlPlane) -> None:
    """What belonged to the other way is gone, and what the new one needs is asked for."""
    bob = api.password_user("bob", "db_viewer")
    body = {"auth_method": "certificate"}
    assert api("PUT /v1/users/2", body).code == "missing_field"
    moved = api.ok("PUT /v1/users/2", {**body, "certificate_subject_line": "CN=bob"})
    assert "password_issue_date" not in moved
    assert "last_login" not in moved
    assert api("GET /v1/users/role", auth=bob).status == 401
    assert api("PUT /v1/users/2", {"auth_method": "regular"}).code == "missing_field"
    back = api.ok("PUT /v1/users/2", {"auth_method": "regular", "password": "x"})
    assert back["certificate_subject_line"] == ""
    assert api("GET /v1/users/role", auth=bob).status == 401
    assert api("GET /v1/users/role", auth=("bob", "x")).status == 200


def test_a_deleted_user_is_gone(api: ControlPlane) -> None:
    """And a second time it is a 404."""
    api.ok("POST /v1/users", certificate())
    assert api.ok("DELETE /v1/users/2") == {}
    for request in ("GET /v1/users/2", "DELETE /v1/users/2"):
        assert api(request).status == 404


def test_the_last_administrator_stays(api: ControlPlane) -> None:
    """406 with Redis Enterprise's code."""
    for request, body in (("DELETE /v1/users/1", None), ("PUT /v1/users/1", {"role": "none"})):
        answer = api(request, body)
        assert (answer.status, answer.code) == (406, "change_last_admin_role_not_allowed")


def test_a_user_sees_and_changes_itself_only(api: ControlPlane) -> None:
    """Its own record, name and password; not its role, and nobody else's anything."""
    bob = api.password_user("bob", "none")
    assert api.ok("GET /v1/users/2", auth=bob)["name"] == "bob"
    assert api("GET /v1/users/1", auth=bob).status == 403
    assert api("PUT /v1/users/1", {"password": "x"}, auth=bob).status == 403
    for body in ({"role": "admin"}, {"role_uids": [1]}, {"email": "a@b.c"}, {"auth_method": "x"}):
        assert api("PUT /v1/users/2", body, auth=bob).status in (400, 403)
    assert api("DELETE /v1/users/2", auth=bob).status == 403
    api.ok("PUT /v1/users/2", {"password": "new", "name": "robert"}, auth=bob)
    assert api.ok("GET /v1/users/2", auth=("robert", "new"))["role_uids"] == [6]


def test_a_certificate_user_cannot_take_another_name(api: ControlPlane, pki: Pki) -> None:
    """The name is its ACL user on databases: logs there would show somebody else."""
    api.trust(pki.ca)
    api.ok("POST /v1/users", certificate(role="none"))
    for body in ({"name": "root"}, {"certificate_subject_line": "CN=x"}, {"password": "x"}):
        assert api("PUT /v1/users/2", body, cert=pki.alice).status == 403
    assert api.ok("GET /v1/users/2", cert=pki.alice)["name"] == "alice"


def test_a_user_manager_makes_no_administrator(api: ControlPlane) -> None:
    """Not a new one, not itself, not by an administrator's password, certificate or deletion."""
    manager = api.password_user("manager", "user_manager")
    attempts: list[tuple[str, Any]] = [
        ("POST /v1/users", {"name": "x", "password": "x", "role": "admin"}),
        ("POST /v1/users", {"name": "x", "password": "x", "role_uids": [5, 1]}),
        ("PUT /v1/users/2", {"role": "admin"}),
        ("PUT /v1/users/2", {"role_uids": [7, 1]}),
        ("PUT /v1/users/1", {"password": "mine"}),
        ("PUT /v1/users/1", {"role": "none"}),
        ("DELETE /v1/users/1", None),
    ]
    for request, body in attempts:
        answer = api(request, body, auth=manager)
        assert (answer.status, answer.code) == (403, "insufficient_permissions"), request
    api.ok("POST /v1/users", {"name": "x", "password": "x", "role": "db_member"}, auth=manager)
    api.ok("PUT /v1/users/2", {"email": "m@acme.org"}, auth=manager)
    assert api.ok("GET /v1/users/1", auth=ADMIN)["role"] == "admin"


def test_a_users_lines_follow_it(api: ControlPlane) -> None:
    """Made, renamed, moved to another subject, deleted: the policy says so each time."""
    api.database(roles_permissions=[{"role_uid": 6, "redis_acl_uid": 2}])
    before = api.lines()
    api.ok("POST /v1/users", certificate(role="none"))
    assert api.lines() - before == {
        "bind subject CN=alice,OU=eng,O=acme alice", "user alice on +@read ~*",
    }  # fmt: skip
    api.ok("PUT /v1/users/2", {"name": "al", "certificate_subject_line": "CN=al"})
    assert api.lines() - before == {"bind subject CN=al al", "user al on +@read ~*"}
    api.ok("DELETE /v1/users/2")
    assert api.lines() == before


@pytest.mark.parametrize(
    ("sent", "taken", "said"),
    [
        ("C = US, CN = abc", "CN=abc,C=US", "Where it is the other way round, write 'C=US,CN=abc'"),
        ("C=US,CN=abc", "C=US,CN=abc", "Where it is the other way round, write 'CN=abc,C=US'"),
    ],
)
def test_a_subject_that_stands_the_wrong_way_round_is_doubted(
    api: ControlPlane, sent: str, taken: str, said: str
) -> None:
    """As `openssl x509 -subject` prints it, it is read the right way. By RFC 4514 no certificate
    that somebody issues is like it: it is taken, for it may be meant. Both are said, with what is
    likely."""
    user = {"name": "abc", "auth_method": "certificate"}
    made = api.ok("POST /v1/users", {**user, "certificate_subject_line": sent})
    assert made["certificate_subject_line"] == taken
    (warning,) = made["warnings"]
    assert said in warning
    changed = api.ok("PUT /v1/users/2", {"certificate_subject_line": "CN=abc,C=US"})
    assert "warnings" not in changed
