"""control/cli/apply.py: what a file declares, the plan, and the control plane made so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from control import service
from control.cli import apply, making
from control.cli import options as cli_options
from control.cli.apply import PolicyFileError, parse, read
from control.cli.client import Client
from control.cli.main import main
from control.cli.planning import Step, plan
from tests.kit.plane import initialised
from tests.kit.rest import ADMIN
from tests.kit.support import Pki

NOTHING: apply.State = {name: {} for name in apply.SECTIONS}


def steps(wanted: apply.State, found: apply.State, prune: bool = False) -> list[str]:
    return [step.title for step in plan(wanted, NOTHING | found, "me", prune)]


# ---- The plan ----

ROLE = {"name": "readers", "management": "none"}


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ({}, {"roles": {"x": ROLE}}, []),
        ({"roles": {"x": ROLE}}, {"roles": {"x": ROLE}}, []),
        ({"roles": {"x": ROLE}}, {}, ["create roles 'x'"]),
        ({"roles": {"x": {"management": "none"}}}, {"roles": {"x": ROLE}}, []),
        ({"roles": {"x": {"management": "admin"}}}, {"roles": {"x": ROLE}}, ["update roles 'x'"]),
        ({"cluster": {"": {"a": True}}}, {"cluster": {"": {"a": 1}}}, ["update cluster"]),
        ({"users": {"x": {"password_file": "f"}}}, {"users": {"x": {}}}, []),
        (
            {"users": {"u": {"roles": ["x"]}}, "roles": {"x": ROLE}},
            {},
            ["create roles 'x'", "create users 'u'"],
        ),
    ],
)
def test_a_plan_is_what_differs(
    wanted: apply.State, found: apply.State, expected: list[str]
) -> None:
    """Only declared fields count, of one type; what is named is made before what names it."""
    assert steps(wanted, found) == expected


def test_only_pruning_deletes() -> None:
    """In sections that the file has; users before their roles; not built-in things, nor oneself."""
    found = {
        "roles": {"x": ROLE, "Admin": ROLE},
        "users": {"me": {}, "u": {}},
        "bdbs": {"d": {}},
        "redis_acls": {"Full Access": {}, "a": {}},
    }
    wanted: apply.State = {"roles": {}, "users": {}, "redis_acls": {}}
    assert steps(wanted, found) == []
    deleted = ["delete users 'u'", "delete roles 'x'", "delete redis_acls 'a'"]
    assert steps(wanted, found, prune=True) == deleted


def test_a_plan_says_which_fields_change() -> None:
    """Old and new; certificates are counted and not printed."""
    pem = "-----BEGIN CERTIFICATE-----"
    step = Step("update", "bdbs", "d", {"tls_mode": "enabled", "tls_server_ca": pem},
                {"tls_mode": "disabled"})  # fmt: skip
    assert str(step).splitlines() == [
        "~ update bdbs 'd'",
        '    tls_mode: "disabled" -> "enabled"',
        "    tls_server_ca: (1 certificates)",
    ]


def test_a_plan_says_what_comes_to_a_list_and_goes() -> None:
    """Or that its order alone is another."""
    for new, lines in (
        (["a", "c"], ["    x:", '      - "b"', '      + "c"']),
        (["b", "a"], ["    x: in another order"]),
    ):
        told = str(Step("update", "users", "u", {"x": new}, {"x": ["a", "b"]}))
        assert told.splitlines()[1:] == lines


def test_a_role_for_some_databases_is_not_one_for_all() -> None:
    """A file does not say which they are, so that what is read has no rights of management."""
    ops = {"uid": 8, "management": "db_member"}
    some = {"resources": [{"type": "db", "uids": ["1"]}]}

    def ask(_: str, path: str) -> Any:
        if path == "/v1/roles":
            return [{**ops, "name": "all", "resources": []}, {**ops, **some, "name": "one"}]
        return {} if path in single else []

    single = {one.path for one in apply.SECTIONS.values() if one.single}
    roles = apply.fetch(cast(Client, ask))["roles"]
    assert {name: one["management"] for name, one in roles.items()} == {
        "all": "db_member", "one": "none",
    }  # fmt: skip


@pytest.mark.parametrize("prune", [False, True])
def test_what_will_not_be_there_cannot_be_named(prune: bool) -> None:
    """A role that is there, unless this very plan deletes it."""
    wanted = {"roles": {}, "users": {"u": {"roles": ["x"]}}}
    found = {"roles": {"x": ROLE}, "users": {"u": {"roles": ["x"]}}}
    with pytest.raises(PolicyFileError, match="there will be no 'y' in roles"):
        steps({"users": {"u": {"roles": ["y"]}}}, found, prune)
    if not prune:
        assert steps(wanted, found) == []
        return
    with pytest.raises(PolicyFileError, match="there will be no 'x' in roles"):
        steps(wanted, found, prune)


# ---- The file ----

PATTERN = {"name": "x", "kind": "dns", "template": "{b}.acme", "user": "a:{b}"}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "no sections"),
        ({"user": []}, "no section 'user'; there are"),
        ({"users": {}}, "users: not a list"),
        ({"users": [{}]}, "users.0: it has no name"),
        ({"users": [{"name": "x"}, {"name": "x"}]}, "'x' is there twice"),
        ({"users": [{"name": "x", "pasword": "y"}]}, "no field 'pasword'"),
        ({"users": [{"name": "x", "password": "y"}]}, "no field 'password'"),
        ({"users": [{"name": "x", "email": None}]}, "'email' is empty"),
        ({"users": [{"name": "x", "certificate_subject_line": "hello"}]}, "wrong form"),
        ({"users": [{"name": "x", "roles": 5}]}, "wrong form"),
        ({"bdbs": [{"name": "x", "roles_permissions": [{"role": "y"}]}]}, "wrong form"),
        ({"bdbs": [{"name": "x", "pinned_certificates": ["ab"]}]}, "stands beside"),
        ({"patterns": [{"name": "x", "kind": "uri", "user": "a:{b}"}]}, "a pattern has a template"),
        ({"patterns": [{**PATTERN, "template": "{b}{c}"}]}, "patterns 'x': (?s:.*)wrong form"),
        ({"patterns": [{**PATTERN, "sesion": "8h"}]}, "patterns 'x': no field 'sesion'"),
        ({"patterns": [{**PATTERN, "session": "8 hours"}]}, "patterns 'x': (?s:.*)session"),
        ({"cluster": []}, "cluster: no fields"),
        ({"trusted_ca": "-----BEGIN nothing"}, "^trusted_ca: (?s:.*)PEM"),
    ],
)
def test_what_is_no_declared_state_is_said(found: Any, message: str, tmp_path: Path) -> None:
    """With the section, the object and the field."""
    with pytest.raises((PolicyFileError, ValueError), match=message):
        parse(found, tmp_path)


def test_a_subject_that_can_be_read_in_two_ways_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its user; what the API gets is canonical, of which it could not say so."""
    for text, told in [("O=a, CN=x+UID=y", "'CN=x+UID=y,O=a'"), ("CN=x+UID=y,O=a", "")]:
        for fields in (
            {"certificate_subject_line": text},
            {"certificate_identities": [{"subject": text}]},
        ):
            state = parse({"users": [{"name": "x", **fields}]}, tmp_path)
            assert "CN=x+UID=y,O=a" in str(state) or "O=a,CN=x+UID=y" in str(state)
            said = capsys.readouterr().err
            assert said.startswith("warning: users 'x': the subject was read with") == bool(told)
            assert told in said


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """One of the two would be lost."""
    (tmp_path / "f").write_text("roles: []\nroles: []\n")
    with pytest.raises(PolicyFileError, match="a key is there twice"):
        read(tmp_path / "f")


@pytest.mark.parametrize(
    ("identities", "message"),
    [
        ([{"uri": "a://b", "sesion": "8h"}], "sesion"),
        ([{"uri": "a://b", "dns": "x"}], "exactly one"),
        ([{"cn": "x", "from": "10.0.0.0/8"}], "from"),
        ([{"cn": "x"}], "certificate_subject_line is not among"),
        ("x", "wrong form"),
    ],
)
def test_a_bad_identity_is_said(identities: Any, message: str, tmp_path: Path) -> None:
    """A restriction that is misspelt is never taken for none."""
    user = {"name": "x", "certificate_subject_line": "CN=x", "certificate_identities": identities}
    with pytest.raises(PolicyFileError, match=f"users 'x': (?s:.*){message}"):
        parse({"users": [user]}, tmp_path)


def test_identities_that_are_spelled_or_ordered_otherwise_are_no_change(tmp_path: Path) -> None:
    """The subject line is the first plain subject, so which that is counts."""

    def user(*identities: Any) -> apply.State:
        return parse({"users": [{"name": "x", "certificate_identities": [*identities]}]}, tmp_path)

    networks = ["::1", "10.0.0.1"]
    here = user({"subject": "CN=x,O=acme"}, {"uri": "a://b", "from": networks}, {"cn": "x"})
    spelled = {"uri": "a://b", "from": networks[::-1]}
    same = user({"cn": "x"}, spelled, {"subject": "/O=acme/CN=x"})
    assert steps(same, here) == []
    assert steps(user({"cn": "x"}, {"uri": "a://b"}), here) == ["update users 'x'"]
    two = ({"subject": "CN=x"}, {"subject": "CN=y"})
    assert steps(user(*two), user(*reversed(two))) == ["update users 'x'"]


def test_a_pattern_that_is_spelled_otherwise_is_no_change(tmp_path: Path) -> None:
    """Its template, its networks in another order; another template is one, and so is a role."""

    def pattern(**fields: Any) -> apply.State:
        named = {"name": "x", "kind": "subject", "user": "a:{b}"}
        return parse({"patterns": [{**named, **fields}]}, tmp_path)

    here = pattern(template="CN={b},O=acme", **{"from": ["10.0.0.0/8", "::1"]}, roles=["x"])
    same = pattern(template="/O=acme/CN={b}", **{"from": ["::1", "10.0.0.0/8"]}, roles=["x"])
    roles: apply.State = {"roles": {"x": ROLE}}
    assert steps(same | roles, here | roles) == []
    other = pattern(template="CN={b},O=acme2")
    assert steps(other, here | roles) == ["update patterns 'x'"]
    with pytest.raises(PolicyFileError, match="patterns 'x': there will be no 'x' in roles"):
        steps(same, here)


# ---- Made so ----

FILE = """
trusted_ca: ca.pem
redis_acls:
  - {name: orders, acl: "+@read ~orders:*"}
roles:
  - {name: readers, management: none}
users:
  - name: alice
    auth_method: certificate
    certificate_subject_line: "CN=alice, OU=eng, O=acme"
    roles: [readers, DB Viewer]
  - name: cart
    auth_method: certificate
    certificate_identities:
      - {uri: "spiffe://acme/cart", ca: CANAME, comment: "a pod"}
      - {subject: "/O=acme/CN=cart", session: 8h}
    roles: [readers]
  - {name: bob, auth_method: regular, roles: [None], password_file: bob}
patterns:
  - name: devices
    kind: dns
    template: "{id}.iot.acme"
    user: "device:{id}"
    roles: [readers]
    ca: CANAME
    from: ["::1", 10.0.0.0/8]
    session: 8h
    comment: many
  - {name: pods, kind: uri, template: "spiffe://acme/ns/shop/sa/{sa}", user: cart}
bdbs:
  - name: orders
    endpoints: [{addr: [127.0.0.1], port: 1}]
    tls_server_ca: ca.pem
    authentication_ssl_client_certs: [{client_cert: "PINNED"}]
    pinned_certificates: ["SAID"]
    roles_permissions: [{role: readers, redis_acl: orders}]
cluster:
  mtls_certificate_authentication: true
  mtls_authorized_subjects: [{CN: alice, OU: [eng], O: acme}]
cluster_policy: {login_lockout_threshold: 3}
"""


@pytest.fixture
def connection(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A running control plane, as options; the file and what it names."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "ca.pem").write_bytes(pki.ca.pem)
    name = pki.ca.certificate.subject.rfc4514_string().removeprefix("CN=").split(",")[0]
    (tmp_path / "bob").write_text("a secret word\n")
    text = FILE.replace("[None]", '["None"]').replace("CANAME", name)
    both = (pki.ca.issue("CN=pinned").pem + pki.ca.pem).decode()
    text = text.replace("PINNED", both.replace("\n", "\\n")).replace(
        "SAID", pki.ca.fingerprint.upper()
    )
    (tmp_path / "policy.yaml").write_text(text)
    config = initialised(tmp_path / "home")
    with service.running(config):
        yield [
            "--url", f"https://127.0.0.1:{config.port}", "--ca", str(config.home / "ca.crt"),
            "--username", ADMIN[0],
        ]  # fmt: skip


def run(connection: list[str], file: Path, *options: str, text: str = "") -> Result:
    arguments = ["apply", "-f", str(file), *connection, *options]
    return CliRunner().invoke(main, arguments, input=f"{ADMIN[1]}\n{text}")


def test_a_password_that_does_not_come_is_told(connection: list[str]) -> None:
    """A script whose variable is empty; nothing is asked of the API."""
    for text in ("", "\n"):
        found = CliRunner().invoke(main, ["user", "list", *connection], input=text)
        assert found.exit_code == 2
        assert f"--username {ADMIN[0]}: a password is missing" in found.output
    found = CliRunner().invoke(main, ["user", "list", *connection], input=ADMIN[1])
    assert found.exit_code == 0


def test_the_declared_state_is_made_and_stays(connection: list[str], tmp_path: Path) -> None:
    """A dry run and a "no" change nothing; a second run has nothing to do; a drift is undone."""
    file = tmp_path / "policy.yaml"
    dry = run(connection, file, "--dry-run", "--lines")
    assert dry.exit_code == 0, dry.output
    assert "create users 'alice'" in dry.output
    assert "secret" not in dry.output
    assert "update cluster\n    mtls_certificate_authentication: false -> true" in dry.output
    assert "  + bind subject " in dry.output
    assert run(connection, file, text="n\n").exit_code == 1
    assert run(connection, file, "--dry-run", "--lines").stdout == dry.stdout
    made = run(connection, file, "--yes", "--no-wait")
    assert made.exit_code == 0, made.output
    assert "11 changes made" in made.output
    for options in ([], ["--prune"]):
        assert "nothing to do" in run(connection, file, "--no-wait", *options).output
    file.write_text(file.read_text().replace("port: 1", "port: 2"))
    changed = run(connection, file, "--yes", "--no-wait")
    assert "update bdbs 'orders'" in changed.output
    assert "1 changes made" in changed.output


def test_what_the_api_warns_of_is_printed(connection: list[str], tmp_path: Path) -> None:
    """Of one object as of many in one request, with its name, and where errors go."""
    file = tmp_path / "warned.yaml"
    method = "auth_method: certificate, certificate_subject_line"
    one = "  - {{name: {0}, {1}: CN={0}}}\n".format
    users = f"users:\n{one('a', method)}{one('b', method)}"
    for more, title in (
        ("", "users 'a' to 'b'"),
        (one("c", method), "users 'c'"),
    ):
        file.write_text(users + more)
        made = run(connection, file, "--yes", "--no-wait")
        assert made.exit_code == 0, made.output
        (line,) = [one for one in made.stderr.splitlines() if one.startswith("warning: ")]
        assert line.startswith(f"warning: create {title}")
        assert "no role: no rights on any database" in line


def test_what_is_exported_is_no_change(connection: list[str], tmp_path: Path) -> None:
    """Also with --prune; an identity that is not in the file goes, and comes back."""
    assert run(connection, tmp_path / "policy.yaml", "--yes", "--no-wait").exit_code == 0
    told = CliRunner().invoke(main, ["export", *connection], input=f"{ADMIN[1]}\n")
    assert told.exit_code == 0, told.output
    text = told.stdout[told.stdout.index("trusted_ca:") :]
    assert "spiffe://acme/cart" in text
    assert "certificate_subject_line" not in text
    assert "user: device:{id}" in text
    assert text.count("pinned_certificates:") == 1
    file = tmp_path / "exported.yaml"
    file.write_text(text)
    found = run(connection, file, "--prune", "--no-wait")
    assert "nothing to do" in found.output, found.output
    less = text.replace("  - subject: CN=cart,O=acme\n    session: 8h\n", "")
    assert less != text
    file.write_text(less)
    changed = run(connection, file, "--yes", "--no-wait")
    assert "update users 'cart'\n    certificate_identities:\n      - {" in changed.output, (
        changed.output
    )
    file.write_text(text)
    assert "1 changes made" in run(connection, file, "--yes", "--no-wait").output
    assert "nothing to do" in run(connection, file, "--prune", "--no-wait").output


def test_pruning_deletes_what_is_not_declared(
    connection: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the user who asks is still there, and so are the built-in roles."""
    file = tmp_path / "policy.yaml"
    assert run(connection, file, "--yes", "--no-wait").exit_code == 0
    file.write_text("users: []\npatterns: []\nbdbs: []\n")
    monkeypatch.setattr(cli_options, "WAIT_SECONDS", 0.1)
    again = run(connection, file)  # written down, and not in force: nobody reads a success
    assert "nothing to do" in again.output
    assert (again.exit_code, "pending: 127.0.0.1:1: " in again.output) == (3, True), again.output
    pruned = run(connection, file, "--yes", "--prune", "--no-wait")
    assert pruned.exit_code == 0, pruned.output
    assert "delete users 'alice'" in pruned.output
    assert pruned.output.index("patterns 'pods'") < pruned.output.index("users 'cart'")
    assert "'admin'" not in pruned.output


def test_a_refusal_says_how_far_it_came(
    connection: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 with the API's error, and nothing is made; or what came before, where the changes
    could not be rehearsed. A file that is wrong is 2, and nothing is sent."""
    file = tmp_path / "policy.yaml"
    file.write_text("roles: [{name: a}, {name: b, management: emperor}]\n")
    for said in ("nothing is changed", "1 of 2 changes are made"):
        refused = run(connection, file, "--yes")
        assert refused.exit_code == 1
        assert "create roles 'a'" in refused.output
        assert "create roles 'b'" in refused.output
        assert said in refused.output
        assert "invalid_schema" in refused.output
        monkeypatch.setattr(making, "MOST", 1)
    carol = "{name: carol, auth_method: regular, password_file: none}"
    for text, message in (
        ("roles: [{nam: a}]\n", "it has no name"),
        (f"roles: [{{name: c}}]\nusers: [{carol}]\n", "create users 'carol': password_file"),
    ):
        file.write_text(text)
        wrong = run(connection, file, "--yes")
        assert (wrong.exit_code, message in wrong.output) == (2, True), wrong.output
    file.write_text("roles: [{name: c}]\n")
    assert "create roles 'c'" in run(connection, file, "--dry-run").output
