"""control/cli/importers.py, control/cli/enterprise.py: what other systems have, as a file for
`apply`; and a word for the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from control import service
from control.cli import apply
from control.cli.enterprise import from_enterprise
from control.cli.importers import (
    Import,
    from_acl_file,
    from_pg_ident,
    subjects_of,
    template_of,
)
from control.cli.imports import print_import
from control.cli.main import main
from control.policy import lines as policy
from tests.kit.node import Start
from tests.kit.plane import Https, initialised
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import Pki

TEMPLATE = subjects_of([], "CN={},O=acme", Import())


def user(name: str, role: str, subject: str = "") -> dict[str, Any]:
    return {
        "name": name, "auth_method": "certificate", "roles": [role],
        "certificate_subject_line": subject or f"CN={name},O=acme",
    }  # fmt: skip


def noted(found: Import, *parts: str) -> bool:
    """Whether a note holds all of these."""
    return any(all(part in note for part in parts) for note in found.notes)


def taken(found: Import, folder: Path) -> apply.State:
    """What is declared, as `apply` reads it."""
    (folder / "state.yaml").write_text(apply.dump(found.state))
    return apply.read(folder / "state.yaml")


# ---- ACL files -----------------------------------------------------------------------------------

ACL_FILE = """\
user default off sanitize-payload resetchannels -@all
user alice on #5e884898da28047151d0e56f sanitize-payload ~orders:* -@all +@read
user bob on nopass ~orders:* -@all +@read
user carol on ~* &* +@all (%R~x +get) (~y +set)
user dan off ~* +@all
"""


def test_an_acl_file_becomes_users_roles_and_acls(tmp_path: Path) -> None:
    """Users with the same rights share a role; selectors stay whole."""
    found = from_acl_file(ACL_FILE, TEMPLATE)
    assert found.state["redis_acls"] == [
        {"name": "alice", "acl": "~orders:* -@all +@read"},
        {"name": "carol", "acl": "~* &* +@all (%R~x +get) (~y +set)"},
    ]
    assert [one["name"] for one in found.state["roles"]] == ["alice", "carol"]
    assert found.state["users"] == [
        user("alice", "alice"), user("bob", "alice"), user("carol", "carol")
    ]  # fmt: skip
    assert set(taken(found, tmp_path)) == {"redis_acls", "roles", "users"}


def test_a_subject_that_can_be_read_in_two_ways_is_noted() -> None:
    """And how it was read."""
    found = from_acl_file("user x on +get", lambda login: f"C = US, CN = {login}")
    assert found.state["users"][0]["certificate_subject_line"] == "CN=x,C=US"
    assert noted(found, "line 1, user 'x'", "read in the order of the certificate")
    assert from_acl_file("user x on +get", TEMPLATE).notes == []


def test_the_mark_of_a_policy_is_no_password_to_leave_out() -> None:
    """In the ACL LIST of a node that has a policy already."""
    found = from_acl_file(f"user alice on #{policy.MARK} ~* +@all", TEMPLATE)
    assert [one["name"] for one in found.state["users"]] == ["alice"]
    assert found.notes == []


def test_what_an_acl_file_has_and_we_have_not_is_told() -> None:
    """Passwords, nopass, users that are off, and `default`: each with why."""
    found = from_acl_file(ACL_FILE, TEMPLATE)
    assert noted(found, "line 2, user 'alice'", "1 passwords are left out")
    assert noted(found, "line 3, user 'bob'", "nopass")
    assert noted(found, "line 5, user 'dan'", "is off")
    assert noted(found, "line 1, user 'default'", "is off")
    assert len(found.notes) == 4


@pytest.mark.parametrize(
    ("rules", "acl"),
    [
        ("~a resetkeys ~b +get", "~a resetkeys ~b +get"),
        ("~* +@all reset ~b +get", "~b +get"),
        ("allkeys allchannels allcommands", "~* &* +@all"),
        ("on", "-@all"),
    ],
)
def test_rights_are_not_widened(rules: str, acl: str) -> None:
    """What takes rights back in the middle of a line does so still."""
    found = from_acl_file(f"user x on {rules}", TEMPLATE)
    assert found.state["redis_acls"] == [{"name": "x", "acl": acl}]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("user", "there is no name"),
        ("user x on bad!rule", "is not a rule"),
        ("user certauth-x on +get", "reserved for this product"),
        ("user x on (~a (~b))", "not a rule of an ACL"),
    ],
)
def test_a_line_that_cannot_come_over_says_why(line: str, why: str) -> None:
    """And makes nobody."""
    found = from_acl_file(line, TEMPLATE)
    assert noted(found, "line 1", why)
    assert "users" not in found.state


def test_a_name_cannot_add_an_attribute() -> None:
    """It is a value in the template, whatever characters are in it."""
    found = from_acl_file("user x,OU=admin on +get", TEMPLATE)
    assert found.state["users"][0]["certificate_subject_line"] == "CN=x\\,OU=admin,O=acme"


def test_certificates_tell_their_subjects(pki: Pki) -> None:
    """By CN; one that is there twice, or is none, is told of."""
    notes = Import()
    by_name = subjects_of([("a.pem", pki.alice.pem), ("x.pem", b"x")], "", notes)
    assert by_name("alice") == "CN=alice,OU=eng,O=acme"
    assert by_name("nobody") is None
    assert noted(notes, "x.pem", "no certificate")
    again = [("a.pem", pki.alice.pem), ("b.pem", pki.ca.issue("CN=alice").pem)]
    twice = Import()
    subjects_of(again, "", twice)
    assert noted(twice, "b.pem", "two subjects")
    assert noted(from_acl_file("user carol on +get", by_name), "'carol'", "--subject")


def test_users_by_uri_have_it_as_their_identity(pki: Pki, tmp_path: Path) -> None:
    """No certificate is needed for that; and one that is given, or a template, is refused."""
    file = tmp_path / "users.acl"
    file.write_text("user spiffe://a/b on +get\nuser spiffe:/a/b on +set\n")
    found = from_acl_file(file.read_text(), None)
    assert found.state["users"][0] == {
        "name": "spiffe://a/b", "auth_method": "certificate", "roles": ["spiffe-a-b"],
        "certificate_identities": [{"uri": "spiffe://a/b"}],
    }  # fmt: skip
    assert [one["name"] for one in found.state["roles"]] == ["spiffe-a-b", "spiffe-a-b-2"]
    made = taken(found, tmp_path)["users"]["spiffe://a/b"]
    assert made["certificate_identities"] == [{"uri": "spiffe://a/b"}]
    command = ["import", "acl", str(file), "--of", "URI"]
    assert "uri: spiffe://a/b" in CliRunner().invoke(main, command).output
    refused = CliRunner().invoke(main, [*command, "--subject", "CN={}"])
    assert (refused.exit_code, "are for CN" in refused.output) == (2, True)


def test_the_acl_list_of_a_server_comes_over_whole(
    installed: Server, start: Start, tmp_path: Path
) -> None:
    """As the server prints it: each user's rights are taken by `apply`, and by the policy."""
    server = start(installed)
    admin = server.admin()
    admin.execute_command("ACL", "SETUSER", "w", "on", "~a:*", "&c", "+@all", "-@dangerous")
    admin.execute_command("ACL", "SETUSER", "x", "on", "%R~a", "%W~b", "+get", "(~c +set)")
    found = from_acl_file("\n".join(admin.acl_list()), TEMPLATE)
    assert [one["name"] for one in taken(found, tmp_path)["users"].values()] == ["w", "x"]
    assert noted(found, "user 'default'", "default_user")
    for acl in found.state["redis_acls"]:
        admin.execute_command("ACL", "SETUSER", "copy", "reset", "on", *acl["acl"].split(" (")[0]
                              .split())  # fmt: skip
        same = ("commands", "keys", "channels")
        was, now = admin.acl_getuser(acl["name"]), admin.acl_getuser("copy")
        assert {name: was[name] for name in same} == {name: now[name] for name in same}


# ---- pg_ident.conf -------------------------------------------------------------------------------

IDENT = r"""
# MAPNAME  SYSTEM-USERNAME  PG-USERNAME
certs "CN=alice,OU=eng,O=acme" alice
certs bob bob
certs carol alice
certs bob robert
certs /^(.*)@acme$ \1
certs dan all
certs too few words
include other.conf
certs "not closed
"""


def test_a_pg_ident_becomes_users(tmp_path: Path) -> None:
    """By the whole subject where it has one, by CN and template else."""
    found = from_pg_ident(IDENT, TEMPLATE)
    alice, bob = found.state["users"]
    subjects = [{"subject": "CN=alice,OU=eng,O=acme"}, {"subject": "CN=carol,O=acme"}]
    assert (alice["name"], alice["certificate_identities"]) == ("alice", subjects)
    assert (bob["name"], bob["certificate_subject_line"]) == ("bob", "CN=bob,O=acme")
    assert set(taken(found, tmp_path)["users"]) == {"alice", "bob"}


@pytest.mark.parametrize(
    ("expression", "template"),
    [
        ("^dev-(.*)$", "dev-{a}"),
        ("^dev-.+$", "dev-{b1}"),
        (r"^(.*)\*x\.y$", "{a}*x.y"),
        ("^CN=(.*),OU=.*,O=acme$", "CN={a},OU={b1},O=acme"),
    ],
)
def test_an_expression_that_a_pattern_covers_is_one(expression: str, template: str) -> None:
    """What stands beside .* and .+ is exact."""
    assert template_of(expression) == template


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("m /dev-(.*)$ \\1", "looks within a name"),
        ("m /^dev-(.*) \\1", "looks within a name"),
        ("m /^dev-([0-9]+)$ \\1", "nothing in a pattern is like '([0-9]+)'"),
        ("m /^a|b.*$ \\1", "nothing in a pattern is like '|b.*'"),
        ("m /^a.b(.*)$ \\1", "nothing in a pattern is like '.b(.*)'"),
        (r"m /^\d(.*)$ \1", r"nothing in a pattern is like '\d(.*)'"),
        ("m /^a.*?$ \\1", "nothing in a pattern is like '?'"),
        ("m /^(.*)x(.*)$ \\1", "several groups"),
        ("m /^dev-.*$ \\1", "no group for \\1"),
        ("m /^dev-x$ shop", "write the name itself"),
        ("m /^(.*)@acme$ \\1", "is followed by '@'"),
        ("m /^dev-.*$ shop", "user 'shop', who has to have"),
        ("m /^dev-(.*)$ all", "several users"),
        ("m /^dev-(.*)$ a\nm /^dev-(.*)$ a\nm x a", "the same expression"),
    ],
)
def test_an_expression_that_takes_otherwise_is_refused(line: str, why: str) -> None:
    """A pattern never takes a certificate that the expression does not."""
    found = from_pg_ident(line, TEMPLATE)
    assert noted(found, "line ", why), found.notes
    assert len(found.state.get("patterns", ())) == line.count("\nm x")


def test_expressions_of_a_pg_ident_become_patterns(tmp_path: Path) -> None:
    """By a group each certificate is a user of its own, whose name begins with the map's; without
    one all of them are the user, who has a line of its own."""
    text = "m pod shop\nm /^pod-.*$ shop\nm /^dev-(.*)$ \\1\nm /^tv-(.*)$ \\1\nn /^x(.*)$ t-\\1\n"
    found = from_pg_ident(text, TEMPLATE)
    made = taken(found, tmp_path)["patterns"]
    assert {one["template"]: one["user"] for one in made.values()} == {
        "pod-{b1}": "shop", "dev-{a}": "m-2:{a}", "tv-{a}": "m-2:{a}", "x{a}": "n:t-{a}",
    }  # fmt: skip
    assert noted(found, "line 3", "begin with 'm-2:'")


def test_what_a_pg_ident_has_and_we_have_not_is_told() -> None:
    """Each line that makes nobody, with its number and why."""
    found = from_pg_ident(IDENT, TEMPLATE)
    for number, why in (
        (6, "is 'bob' already"), (7, "and no pattern: "),
        (8, "several users"), (9, "three words"), (10, "not followed"), (11, "quotation"),
    ):  # fmt: skip
        assert noted(found, f"line {number}:", why), (number, found.notes)
    assert noted(found, "rights", "roles here")


# ---- Redis Enterprise ----------------------------------------------------------------------------


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[list[service.Config]]:
    """Two, each of which speaks Redis Enterprise's API."""
    made = [initialised(tmp_path / name) for name in ("one", "two")]
    with service.running(made[0]), service.running(made[1]):
        yield made


def at(config: service.Config) -> list[str]:
    url = f"https://127.0.0.1:{config.port}"
    return ["--url", url, "--ca", str(config.home / "ca.crt"), "--username", ADMIN[0]]


def ran(*words: str) -> Any:
    done = CliRunner().invoke(main, list(words), input=f"{ADMIN[1]}\n")
    assert done.exit_code == 0, done.output
    return done


def test_a_cluster_comes_over_by_its_own_api(
    clusters: list[service.Config], tmp_path: Path, pki: Pki
) -> None:
    """Roles, ACLs, certificate users, databases, CAs and settings: applied to another one, it says
    the same; and what cannot be read, or means nothing here, is told of."""
    source = clusters[0]
    with Https(source) as api:
        pem = pki.ca.pem.decode()
        assert api("PUT /v1/cluster/update_cert", {"name": "mtls_trusted_ca", "certificate": pem})
        for request, body in (
            ("POST /v1/roles", {"name": "readers", "management": "none"}),
            ("POST /v1/redis_acls", {"name": "orders", "acl": "+@read ~orders:*"}),
            ("POST /v1/users", {"name": "alice", "auth_method": "certificate", "role_uids": [8],
                                "certificate_subject_line": "CN=alice, O=acme"}),
            ("POST /v1/users", {"name": "bob", "password": "a password", "role": "db_viewer"}),
            ("POST /v1/bdbs", {
                "name": "orders", "endpoints": [{"addr": ["127.0.0.1"], "port": 1}],
                "tls_mode": "enabled",
                "roles_permissions": [{"role_uid": 8, "redis_acl_uid": 4}],
            }),
            ("PUT /v1/cluster", {"password_min_length": 12}),
        ):  # fmt: skip
            assert api(request, body).status == 200, request
    first = ran("import", "enterprise", *at(source))
    assert "not carried over: users 'bob': its password cannot be read" in first.stderr
    assert "bdbs 'orders': its endpoints" in first.stderr
    file = tmp_path / "state.yaml"
    file.write_text(first.stdout)
    assert set(yaml.safe_load(first.stdout)) == {
        "trusted_ca", "redis_acls", "roles", "users", "bdbs", "cluster", "cluster_policy",
    }  # fmt: skip
    ran("apply", "-f", str(file), "--yes", "--no-wait", *at(clusters[1]))
    assert "nothing to do" in ran("apply", "-f", str(file), "--no-wait", *at(clusters[1])).output
    second = ran("import", "enterprise", *at(clusters[1])).stdout
    assert yaml.safe_load(second) == yaml.safe_load(first.stdout)
    assert "# not carried over: users 'bob': its password cannot be read" in first.stdout


def test_fields_that_mean_nothing_here_are_told() -> None:
    """Where they say something; an empty one is nothing lost."""
    answers: dict[str, Any] = {
        "certificates": {"proxy_key": "x", "proxy_cert": "y"}, "roles": [], "redis_acls": [],
        "users": [{"name": "sam", "auth_method": "sso", "role_uids": [1]}],
        "bdbs": [{"name": "db", "endpoints": [{"addr": ["10.0.0.1"], "port": 1}],
                  "roles_permissions": [], "crdt": True, "sharding": False}],
        "cluster": {"wait_command": True}, "cluster_policy": {},
    }  # fmt: skip
    known = {name: one.known for name, one in apply.SECTIONS.items()}
    found = from_enterprise(answers, known)
    assert noted(found, "users 'sam'", "auth_method sso")
    assert noted(found, "bdbs 'db'", "crdt")
    assert not noted(found, "sharding")
    assert noted(found, "cluster", "wait_command")
    assert noted(found, "certificates", "proxy_key")


KNOWN = {name: one.known for name, one in apply.SECTIONS.items()}


def enterprise(**answers: Any) -> Import:
    """The import of a cluster that answers so, and has nothing else."""
    empty: dict[str, Any] = {"certificates": {}, "cluster": {}, "cluster_policy": {}}
    empty |= {name: [] for name in ("roles", "redis_acls", "users", "bdbs")}
    return from_enterprise(empty | answers, KNOWN)


def bdb(**fields: Any) -> dict[str, Any]:
    usual = {"name": "db", "endpoints": [], "tls_mode": "disabled", "roles_permissions": []}
    return usual | fields


def test_an_acl_of_a_built_ins_name_keeps_its_own_rules(tmp_path: Path) -> None:
    """Here `Read Only` reads everything: one that does less must not become it. Where the rules are
    the same, so is the name; a built-in that no database grants is nobody's."""
    acls = [
        {"uid": 1, "name": "Full Access", "acl": "+@all ~*"},
        {"uid": 2, "name": "Read Only", "acl": "+@read ~cached:*"},
        {"uid": 3, "name": "Not Dangerous", "acl": "+@all -@dangerous ~*"},
    ]
    grants = [{"role_uid": 9, "redis_acl_uid": uid} for uid in (1, 2)]
    roles = [{"uid": 9, "name": "ops", "management": "none"}]
    found = enterprise(redis_acls=acls, roles=roles, bdbs=[bdb(roles_permissions=grants)])
    assert found.state["redis_acls"] == [
        {"name": "Full Access of Redis Enterprise", "acl": "+@all ~* -@admin"},
        {"name": "Read Only of Redis Enterprise", "acl": "+@read ~cached:*"},
    ]
    assert found.state["bdbs"][0]["roles_permissions"] == [
        {"role": "ops", "redis_acl": "Full Access of Redis Enterprise"},
        {"role": "ops", "redis_acl": "Read Only of Redis Enterprise"},
    ]
    assert noted(found, "redis_acls 'Read Only'", "is called", "not those of 'Read Only' here")
    assert set(taken(found, tmp_path)["redis_acls"]) == {
        "Full Access of Redis Enterprise", "Read Only of Redis Enterprise",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("+@read +@write ~*", "+@read +@write ~*"),
        ("+get +set ~a:*", "+get +set ~a:*"),
        ("+@all ~*", "+@all ~* -@admin"),
        ("allcommands ~*", "allcommands ~* -@admin"),
        ("+@dangerous ~*", "+@dangerous ~* -@admin"),
        ("+@read +config|get ~*", "+@read +config|get ~* -@admin"),
        ("+get ~* (+@all ~b)", "+get ~* (+@all ~b -@admin)"),
        ("+@all -@admin ~*", "+@all -@admin ~*"),
        ("+@all -@DANGEROUS ~* +get", "+@all -@DANGEROUS ~* +get"),
        ("-@admin +@all ~*", "-@admin +@all ~* -@admin"),
        ("+@all -@all +get", "+@all -@all +get"),
        ("+get (+@all ~*) clearselectors", "+get (+@all ~* -@admin) clearselectors"),
        ("+@all -@dangerous +shutdown ~*", "+@all -@dangerous +shutdown ~* -@admin"),
    ],
)
def test_commands_that_redis_enterprise_gives_nobody_stay_nobodys(there: str, here: str) -> None:
    """+@all has no CONFIG, SHUTDOWN or ACL SETUSER there, and would have them here."""
    found = enterprise(redis_acls=[{"uid": 4, "name": "x", "acl": there}])
    assert found.state["redis_acls"] == [{"name": "x", "acl": here}]
    assert noted(found, "redis_acls 'x'", "-@admin is added") == (there != here)


@pytest.mark.parametrize(
    ("role", "here"),
    [
        ({"name": "Admin", "management": "admin"}, None),
        ({"name": "DB Member", "management": "none"}, ("DB Member of Redis Enterprise", "none")),
        ({"name": "DB Viewer", "management": "db_viewer",
          "resources": [{"type": "db", "uids": ["1"]}]}, ("DB Viewer of Redis Enterprise", "none")),
        ({"name": "ops", "management": "db_member",
          "resources": [{"type": "db", "uids": ["1"]}]}, ("ops", "none")),
        ({"name": "ops", "management": "db_member", "resources": []}, ("ops", "db_member")),
        ({"name": "ops", "management": "root"}, ("ops", "none")),
    ],
)  # fmt: skip
def test_a_role_manages_no_more_than_there(role: dict[str, Any], here: Any) -> None:
    """One of a built-in's name with another content, one for some databases, one of a kind that is
    unknown; and who has it has the role of the file."""
    users = [{"uid": 5, "name": "sam", "auth_method": "certificate", "role_uids": [2],
              "certificate_subject_line": "CN=sam,O=acme"}]  # fmt: skip
    found = enterprise(roles=[{"uid": 2, **role}], users=users)
    made = [(one["name"], one["management"]) for one in found.state.get("roles", [])]
    assert made == ([here] if here else [])
    assert found.state["users"][0]["roles"] == [here[0] if here else role["name"]]
    narrowed = here is not None and here != (role["name"], role["management"])
    assert noted(found, f"roles '{role['name']}'") == narrowed


def test_a_name_that_is_made_up_is_nobodys_yet() -> None:
    """Neither another role's there, nor one that was made up before."""
    taken_name = "DB Member of Redis Enterprise"
    roles = [
        {"uid": 4, "name": "DB Member", "management": "none"},
        {"uid": 9, "name": taken_name, "management": "none"},
    ]
    made = enterprise(roles=roles).state["roles"]
    assert [one["name"] for one in made] == [f"{taken_name}-2", taken_name]


def test_a_database_lets_nobody_in_whom_it_does_not_there() -> None:
    """Its default user, commands that are disabled, an older list of names, its CAs."""
    roles = [{"uid": 9, "name": "ops", "management": "none"}]
    acls = [{"uid": 4, "name": "x", "acl": "+get ~*"}]
    grants = [{"role_uid": 9, "redis_acl_uid": 4}]
    one = bdb(
        default_user=True, disabled_commands="FLUSHALL", authorized_names=["a.example"],
        tls_mode="enabled", roles_permissions=grants,
    )  # fmt: skip
    found = enterprise(bdbs=[one], roles=roles, redis_acls=acls)
    made = found.state["bdbs"][0]
    assert "default_user" not in made
    assert made["roles_permissions"] == []
    assert made["client_cert_subject_validation_type"] == "san_cn"
    assert made["authorized_subjects"] == [{"CN": "a.example"}]
    for part in ("default_user", "FLUSHALL", "authorized_names", "mtls_trusted_ca"):
        assert noted(found, "bdbs 'db'", part), part


def test_settings_of_channels_and_tls_come_over() -> None:
    """By the names that they have here; where nothing is said of channels, there are none."""
    found = enterprise(cluster={"min_data_TLS_version": "1.3", "min_control_TLS_version": "1.3"},
                       cluster_policy={"acl_pubsub_default": "allchannels"})  # fmt: skip
    assert found.state["cluster"] == {"min_control_TLS_version": "1.3", "min_tls_version": "1.3"}
    assert found.state["cluster_policy"] == {"acl_pubsub_default": "allchannels"}
    assert noted(enterprise(), "cluster_policy", "acl_pubsub_default")


def test_a_user_who_cannot_log_in_here_is_told_of() -> None:
    """A name that no ACL user can have; a subject that no certificate has, which stays."""
    users = [
        {"uid": 5, "name": "John Doe", "auth_method": "certificate", "role_uids": [],
         "certificate_subject_line": "CN=john,O=acme"},
        {"uid": 6, "name": "abc", "auth_method": "certificate", "role_uids": [],
         "certificate_subject_line": "C=US,CN=abc"},
    ]  # fmt: skip
    found = enterprise(users=users)
    assert [one["name"] for one in found.state["users"]] == ["abc"]
    assert noted(found, "users 'John Doe'", "cannot be a user here")
    assert noted(found, "users 'abc'", "the other way round")


def test_a_note_is_no_part_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Though it has line ends in it: what the other cluster says cannot declare anything."""
    print_import(enterprise(users=[{"uid": 5, "name": "x\nusers: [eve]", "auth_method": "sso"}]))
    printed = capsys.readouterr()
    assert "users" not in yaml.safe_load(printed.out)
    assert "# not carried over: users 'x users: [eve]'" in printed.out
    assert "not carried over: users 'x users: [eve]'" in printed.err
