"""The command line at work, against a running control plane and a server of it: what cuts somebody
off is asked about, lists are edited, sessions are ended, the log is followed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from control.api.web import CHANGES
from control.cli import making, options
from control.cli.objects import NOUNS
from control.service import Config
from tests.kit.command_line import Run
from tests.kit.node import Start, is_open, who
from tests.kit.plane import Https, enrolled_node
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until

ALICE, BOB = "CN=alice,OU=eng,O=acme", "CN=bob,OU=ops,O=acme"


@pytest.fixture
def node(config: Config, installed: Server, start: Start, pki: Pki, run: Run) -> RedisServer:
    """A server of the database `orders`, where alice is who may do all, by the role `writers`."""
    made = enrolled_node(start, installed, config.home, pki)
    with Https(config) as api:
        entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        assert api("PUT /v1/cluster/update_cert", entry).status == 200
    for name in ("readers", "writers"):
        ok(run("role", "create", name))
    place = ("--endpoint", f"127.0.0.1:{made.port}", "--tls-mode", "enabled")
    ca = ("--server-ca", pki.server_ca.files[0])
    ok(run("db", "create", "orders", *place, *ca, "--grant", "writers=Full Access"))
    ok(run("user", "create", "alice", "--subject", ALICE, "--role", "writers"))
    return made


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def data(result: Result) -> object:
    return json.loads(ok(result))


REFUSED = "there is no terminal to ask on: nothing is changed; say --yes"


def test_what_cuts_somebody_off_asks(
    run: Run, node: RedisServer, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, before; where there is nobody to ask it is refused, and --yes does it. What cuts
    nobody off asks nothing."""
    with node.client(pki.alice, single_connection_client=True) as client:
        assert client.acl_whoami() == "alice"
        taken = ("user", "update", "alice", "--role", "readers")
        refused = run(*taken)
        assert (refused.exit_code, REFUSED in refused.stderr) == (1, True), refused.output
        assert "! alice loses orders" in refused.stderr
        assert "1 session ends on orders: alice from 127.0.0.1" in refused.stderr
        assert "--role replaces the whole list: 1 of it go" in refused.stderr
        monkeypatch.setattr(options, "is_terminal", lambda: True)
        assert run(*taken, text="n\n").exit_code == 1
        assert who(node, pki.alice) == "alice"
        ok(run("user", "update", "alice", "--add-role", "readers"))
        ok(run(*taken, text="y\n"))
    wait_until(lambda: who(node, pki.alice) is None, "alice is out")
    monkeypatch.undo()


def test_scripts_revoke_without_a_question(
    run: Run, node: RedisServer, pki: Pki, tmp_path: Path
) -> None:
    """By the beginning of a fingerprint too; one that no known certificate has is said."""
    leaf = tmp_path / "alice.crt"
    leaf.write_bytes(pki.alice.pem)
    assert who(node, pki.alice) == "alice"
    wait_until(lambda: pki.alice.fingerprint[:16] in run("cert", "list").stdout, "it was seen")
    dry = run("cert", "revoke", "--fingerprint", pki.alice.fingerprint[:16], "--dry-run")
    assert f"The certificate '{ALICE}' of alice is revoked" in ok(dry)
    assert "revoke " not in dry.stdout
    assert "  + revoke serial " in ok(run("cert", "revoke", leaf, "--dry-run", "--lines"))
    unknown = run("cert", "revoke", "--fingerprint", "ab" * 8)
    assert (unknown.exit_code, "no known certificate begins" in unknown.output) == (1, True)
    ok(run("cert", "revoke", "--fingerprint", pki.alice.fingerprint[:16]))
    wait_until(lambda: who(node, pki.alice) is None, "alice is out")


def test_parts_of_lists_come_and_go(run: Run) -> None:
    """The rest stays; what is there already stays once, and what is not there cannot go. The whole
    list and a part of it are two different wishes."""
    for name in ("readers", "writers"):
        ok(run("role", "create", name))
        ok(run("acl", "create", name, "--rules", f"+@read ~{name}:*"))
    ok(run("db", "create", "orders", "--endpoint", "127.0.0.1:1", "--grant", "readers=readers",
           "--no-wait"))  # fmt: skip
    add = ("db", "update", "orders", "--add-grant", "writers=writers", "--no-wait")
    for _ in range(2):
        ok(run(*add))
        found = data(run("db", "show", "orders", "--json"))
        assert isinstance(found, dict)
        assert [one["role_uid"] for one in found["roles_permissions"]] == [8, 9]
    ok(run("db", "update", "orders", "--remove-grant", "readers=readers", "--no-wait"))
    gone = run("db", "update", "orders", "--remove-grant", "readers=readers")
    assert (gone.exit_code, "there is no such grant" in gone.output) == (2, True), gone.output
    both = run("db", "update", "orders", "--grant", "readers=readers", *add[3:])
    assert (both.exit_code, "goes with neither" in both.output) == (2, True), both.output
    more = ("--add-endpoint", "127.0.0.1:2", "--remove-endpoint", "127.0.0.1:1")
    shown = data(run("db", "update", "orders", *more, "--no-wait", "--json", "--yes"))
    assert isinstance(shown, dict)
    assert [one["port"] for one in shown["endpoints"]] == [2]


def test_sources_of_cas_are_made_changed_and_deleted(run: Run, pki: Pki, tmp_path: Path) -> None:
    """No preview reads a source: the call's own dry run says which CAs would come. What brings more
    by itself wants the flag, deleting asks, as of all else."""
    file = tmp_path / "trust.pem"
    file.write_bytes(pki.ca.pem)
    subject = pki.ca.certificate.subject.rfc4514_string()
    create = ("trust-source", "create", "mesh", "--location", file)
    refused = run(*create)
    assert (refused.exit_code, "(trust_grows)" in refused.output) == (1, True), refused.output
    told = run(*create, "--trust-grows", "--dry-run")
    assert (told.exit_code, f"this CA would be trusted: {subject}" in told.stderr) == (0, True)
    assert ok(run("trust-source", "list", "-o", "name")).strip() == ""
    assert "mesh" in ok(run(*create, "--trust-grows"))
    update = ("trust-source", "update", "mesh")
    for more in (("--most", 5), ("--location", tmp_path / "other.pem")):
        grows = run(*update, *more)
        assert (grows.exit_code, "(trust_grows)" in grows.output) == (1, True), grows.output
    assert options.NO_CAS in run(*update, "--interval", 60, "--dry-run").stderr
    ok(run(*update, "--most", 5, "--trust-grows"))
    gone = run("trust-source", "delete", "mesh")
    assert (gone.exit_code, REFUSED in gone.output) == (1, True), gone.output
    ok(run("trust-source", "delete", "mesh", "--dry-run"))
    ok(run("trust-source", "delete", "mesh", "--yes"))
    assert ok(run("trust-source", "list", "-o", "name")).strip() == ""


def test_each_change_of_an_object_can_be_foretold() -> None:
    """By the preview, or by its own dry run: else the command line could not make it."""
    for noun in NOUNS:
        assert noun.path in CHANGES or noun.path.startswith(making.FETCHED), noun.path


def test_cas_are_added_and_removed(run: Run, pki: Pki, tmp_path: Path) -> None:
    """One by one, the others stay; more trust has to be meant, and what is not a CA is refused."""
    one, other = tmp_path / "one.pem", tmp_path / "other.pem"
    one.write_bytes(pki.ca.pem)
    other.write_bytes(pki.server_ca.pem)
    names = [cert.certificate.subject.rfc4514_string() for cert in (pki.ca, pki.server_ca)]
    assert "clients come from it" in ok(run("ca", "add", one))
    grows = run("ca", "add", other)
    assert (grows.exit_code, "(trust_grows)" in grows.output) == (1, True), grows.output
    ok(run("ca", "add", other, "--trust-grows"))
    listed = ok(run("ca", "list", "-o", "json"))
    assert {ca["subject"] for ca in json.loads(listed)["cas"]} == set(names)
    wrong = run("ca", "remove", "CN=nobody")
    assert (wrong.exit_code, "no trusted CA is called 'CN=nobody'" in wrong.output) == (1, True)
    ok(run("ca", "remove", names[1]))
    ok(run("ca", "remove", pki.ca.fingerprint))
    assert ok(run("ca", "show")).strip() == ""
    (tmp_path / "leaf.pem").write_bytes(pki.alice.pem)
    assert run("ca", "add", tmp_path / "leaf.pem").exit_code == 1


def test_sessions_are_listed_and_ended(run: Run, node: RedisServer, pki: Pki) -> None:
    """By their number, or all of a user; a dry run ends none; one that is not there is said."""
    with node.client(pki.alice, single_connection_client=True) as client:
        assert client.acl_whoami() == "alice"
        found = data(run("session", "list", "--user", "alice", "--json"))
        assert isinstance(found, dict)
        (one,) = found["sessions"]
        assert "alice" in ok(run("session", "list", "--db", "orders"))
        assert f"{one['node']} {one['id']}\n" in ok(run("session", "list", "-o", "name"))
        named = ("session", "end", one["node"], one["id"])
        assert "alice from 127.0.0.1" in run(*named, "--dry-run").stderr
        refused = run(*named)
        assert (refused.exit_code, REFUSED in refused.output) == (1, True)
        assert is_open(client)
        ok(run("session", "end", "--user", "alice", "--yes"))
        wait_until(lambda: not is_open(client), "its session has ended")
    gone = run(*named, "--yes")
    assert (gone.exit_code, "there is no such session" in gone.output) == (1, True)
    assert run("session", "end", "--yes").exit_code == 2


def test_who_one_is(run: Run, config: Config) -> None:
    """The user, its rights, and the API."""
    assert data(run("whoami", "-o", "json")) == {
        "user": ADMIN[0], "role": "admin", "login": "password",
        "url": f"https://127.0.0.1:{config.port}",
    }  # fmt: skip


def test_answers_have_the_form_that_is_asked_for(run: Run) -> None:
    """Rows without blanks at their ends, names alone, every field, YAML; times of one kind."""
    ok(run("user", "create", "alice", "--subject", ALICE, "--role", "None"))
    assert ok(run("user", "list", "-o", "name")) == "admin\nalice\n"
    rows = ok(run("user", "list")).splitlines()
    assert rows[0].split()[:3] == ["UID", "NAME", "AUTH_METHOD"]
    assert all(row == row.rstrip() for row in rows)
    assert "PASSWORD_ISSUE_DATE" in ok(run("user", "list", "-o", "wide"))
    assert "PASSWORD_ISSUE_DATE" not in rows[0]
    shown = yaml.safe_load(ok(run("user", "show", "alice", "-o", "yaml")))
    assert shown == data(run("user", "show", "alice", "--json"))
    assert run("user", "list", "-o", "xml").exit_code == 2


def test_the_log_is_searched(run: Run) -> None:
    """By user, by database and by time; both ends count."""
    ok(run("user", "create", "alice", "--subject", ALICE, "--role", "None"))
    ok(run("role", "create", "ops"))
    made = data(run("log", "--type", "user_created", "--user", "alice", "--json"))
    assert isinstance(made, list)
    assert [one["type"] for one in made] == ["user_created"]
    assert "user_created" not in ok(run("log", "--until", "2020-01-01T00:00:00"))
    assert "user_created" in ok(run("log", "--since", "1h"))
    assert ok(run("log", "--db", "orders")) == ""
    assert ok(run("log", "--limit", "1")).count("\n") == 1
    wrong = run("log", "--since", "yesterday")
    assert wrong.exit_code == 2
    assert "such as 2026-12-24T18:00:00" in wrong.output
    assert run("log", "--follow", "--until", "2030-01-01").exit_code == 2


def test_the_log_is_followed(run: Run) -> None:
    """Each event once, as it happens, a line of JSON each."""
    program = str(Path(sys.executable).parent / "redis-certauth")
    with subprocess.Popen(
        [program, "log", "--follow", "--json", "--type", "role_", "--limit", "1"],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            ok(run("role", "create", "first"))
            assert json.loads(process.stdout.readline())["type"] == "role_created"
            ok(run("role", "delete", "first", "--yes"))
            assert json.loads(process.stdout.readline())["type"] == "role_deleted"
        finally:
            process.terminate()


STATE = "roles: [{name: readers, management: none}]\n"


def test_apply_reads_several_files_and_folders(run: Run, tmp_path: Path) -> None:
    """And standard input; an object is declared in one of them only. A plan is for programs too."""
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "a.yaml").write_text(STATE)
    (folder / "b.yml").write_text("users: [{name: u, auth_method: certificate, roles: [readers], "
                                  "certificate_subject_line: CN=u}]\n")  # fmt: skip
    (folder / "README").write_text("no YAML: [\n")
    plan = data(run("apply", "-f", folder, "--dry-run", "-o", "json"))
    assert isinstance(plan, dict)
    assert [(one["action"], one["section"], one["name"]) for one in plan["changes"]] == [
        ("create", "roles", "readers"),
        ("create", "users", "u"),
    ]
    assert plan["databases"] == []
    twice = run("apply", "-f", folder, "-f", "-", "--dry-run", text=STATE)
    assert (twice.exit_code, "is declared in" in twice.output) == (2, True), twice.output
    made = run("apply", "-f", "-", "--yes", text=STATE)
    assert (made.exit_code, "1 changes made" in made.output) == (0, True), made.output
    refused = run("apply", "-f", folder)
    assert (refused.exit_code, REFUSED in refused.output) == (1, True), refused.output
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there is no *.yaml in it" in run("apply", "-f", empty, "--dry-run").output


def test_an_exit_status_says_whether_something_would_change(run: Run, tmp_path: Path) -> None:
    """Where it is asked for: 2, 0, and 1 for a file that is wrong, which is 2 otherwise."""
    file, wrong = tmp_path / "state.yaml", tmp_path / "wrong.yaml"
    file.write_text(STATE)
    wrong.write_text("rolls: []\n")
    exactly = ("--dry-run", "--detailed-exitcode")
    assert run("apply", "-f", file, *exactly).exit_code == 2
    assert run("apply", "-f", file, "--dry-run").exit_code == 0
    assert run("apply", "-f", wrong, *exactly).exit_code == 1
    assert run("apply", "-f", wrong, "--dry-run").exit_code == 2
    assert run("apply", "-f", file, "--detailed-exitcode").exit_code == 2
    ok(run("apply", "-f", file, "--yes"))
    assert run("apply", "-f", file, *exactly).exit_code == 0


def test_no_password_is_read_from_the_file(run: Run, config: Config) -> None:
    """Nor a line of the file taken for one."""
    own = ("--username", ADMIN[0], "--url", f"https://127.0.0.1:{config.port}")
    refused = run("apply", "-f", "-", "--dry-run", *own, text=f"{ADMIN[1]}\n{STATE}")
    assert refused.exit_code == 2
    assert "standard input is the file (-f -)" in refused.output


def test_all_kinds_are_exported_and_are_no_change(
    run: Run, tmp_path: Path, pki: Pki, config: Config
) -> None:
    """Certificate profiles and revocations too; what is revoked is never taken back by a file."""
    ok(run("role", "create", "readers"))
    ok(run("cert-profile", "create", "services", "--lifetime", "7200", "--role", "readers",
           "--key-usage", "key_agreement", "--key-usage", "digital_signature"))  # fmt: skip
    ok(run("cert", "revoke", "--key-id", "ab" * 32, "--reason", "keyCompromise"))
    ok(run("cert", "revoke", "--fingerprint", "cd" * 32))
    with Https(config) as api:
        serial = {"ca": "ef" * 32, "serial": "05E6"}
        assert api("POST /v1/certauth/revocations", serial).status == 200
    told = ok(run("export"))
    file = tmp_path / "all.yaml"
    file.write_text(told)
    state = yaml.safe_load(told)
    assert {"cert", "key", "ca"} <= {name for one in state["revocations"] for name in one}
    services = [one for one in state["certificate_profiles"] if one["name"] == "services"]
    assert services[0]["roles"] == ["readers"]
    for more in ((), ("--prune",)):
        assert "nothing to do" in ok(run("apply", "-f", file, "--dry-run", *more))
    state["revocations"] = [{"key": "12" * 32, "reason": "superseded"}]
    file.write_text(yaml.safe_dump(state))
    made = run("apply", "-f", file, "--yes", "--prune")
    assert "create revocations 'revoke key 1212" in ok(made)
    assert "1 changes made" in made.stdout
    assert ok(run("cert", "revoked", "-o", "json")).count('"line"') == 4
    for one, message in (
        ({"key": "xy"}, "revocations: "),
        ({"serial": "05"}, "it has no one of cert, key, or ca and serial"),
        ({"cert": "ab" * 32, "key": "ab" * 32}, "it has no one of"),
    ):
        file.write_text(yaml.safe_dump({"revocations": [one]}))
        wrong = run("apply", "-f", file, "--dry-run")
        assert (wrong.exit_code, message in wrong.output) == (2, True), wrong.output
