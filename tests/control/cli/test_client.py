"""control/cli/client.py and the commands that ask the API, against a running control plane."""

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import Result

from control import service
from control.cli.client import ApiError, Client, Profile, ProfileError, load_profile, overridden
from control.cli.output import aligned, cell, folded, written
from control.policy import bindings
from control.service import Config
from tests.kit.command_line import Run, write_profiles
from tests.kit.rest import ADMIN
from tests.kit.support import Pki, free_port, wait_until


@pytest.fixture
def profiles(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Profiles `default` (by password) and `nobody` (a wrong one)."""
    file = write_profiles(tmp_path, config)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    text = file.read_text()
    file.write_text(text + text.replace("[default]", "[nobody]").replace(ADMIN[1], "x"))
    return file


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


# ---- Profiles ----


def test_a_profile_with_a_password_is_for_its_owner_only(profiles: Path) -> None:
    """0600 is read; a file that others can read is refused, with what to do."""
    assert load_profile(profiles, "default").username == ADMIN[0]
    profiles.chmod(0o640)
    with pytest.raises(ProfileError, match="chmod 600"):
        load_profile(profiles, "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[prod]\nurl = 'x'", "no profile 'default'; there are: prod"),
        ("[default]\nulr = 'x'", "'ulr' is not one of"),
        ("[default]\nurl = 1", "'url' is not one of"),
        ("[default", "config.toml"),
    ],
)
def test_what_is_no_profile_is_said(tmp_path: Path, text: str, message: str) -> None:
    """With its file, and the name that is wrong."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ProfileError, match=message):
        load_profile(file, "default")


def test_options_count_before_the_profile() -> None:
    """Another way to log in replaces the profile's; a password is not sent to another address."""
    password = Profile("https://a:1", username="admin", password="p")
    assert overridden(password, {"url": "https://a:1", "cert": None}) == password
    assert overridden(password, {"url": "https://b:1"}).password == ""
    assert overridden(password, {"username": "other"}).password == ""
    assert overridden(password, {"cert": "c"}) == Profile("https://a:1", cert="c")
    by_cert = Profile("https://a:1", cert="c", key="k")
    assert overridden(by_cert, {"username": "u"}) == Profile("https://a:1", username="u")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (Profile("http://a:1", username="u"), "https"),
        (Profile("https://a:x", username="u"), "https"),
        (Profile("https://a:1"), "nobody to log in as"),
        (Profile("https://a:1", cert="/none.crt"), "none.crt"),
    ],
)
def test_a_profile_that_cannot_work_is_refused(profile: Profile, message: str) -> None:
    """Before anything is sent: no password goes over plain HTTP."""
    with pytest.raises(ProfileError, match=message):
        Client(profile)


def test_nobody_there_is_an_error_with_a_name() -> None:
    """`unreachable`, status 0."""
    with Client(Profile(f"https://127.0.0.1:{free_port()}", username="u")) as ask:
        with pytest.raises(ApiError) as caught:
            ask("GET", "/v1/cluster")
        assert (caught.value.status, caught.value.error_code) == (0, "unreachable")
        assert caught.value.description.endswith("cannot be reached: Connection refused")


def test_a_server_of_another_ca_gets_no_password(config: Config, pki: Pki, tmp_path: Path) -> None:
    """The control plane's own CA is taken; another one is not."""
    url = f"https://127.0.0.1:{config.port}"
    other = tmp_path / "other.crt"
    other.write_bytes(pki.ca.pem)
    with Client(Profile(url, str(config.home / "ca.crt"), "", "", *ADMIN)) as ask:
        assert ask("GET", "/v1/users/role") == {"role": "admin"}
    with (
        Client(Profile(url, str(other), "", "", *ADMIN)) as ask,
        pytest.raises(ApiError, match="certificate is not accepted: .*; --ca names"),
    ):
        ask("GET", "/v1/users/role")


# ---- Commands ----


def test_a_profile_is_named_by_option_or_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`default` otherwise; one with a wrong password is a refusal of the API, one that is not
    there a mistake of usage."""
    ok(run("user", "list"))
    refused = run("user", "list", "--profile", "nobody")
    assert refused.exit_code == 1
    assert "(invalid_credentials)" in refused.output
    assert run("user", "list", "--profile", "none").exit_code == 2
    monkeypatch.setenv("CERTAUTH_PROFILE", "nobody")
    assert run("user", "list").exit_code == 1


def test_users_are_made_shown_changed_and_deleted(run: Run) -> None:
    """By name; what is not there is a refusal of the API, and deleting asks."""
    subject = "CN=alice,O=acme"
    made = run("user", "create", "alice", "--auth-method", "certificate", "--subject", subject,
               "--role", "DB Viewer", "--json")  # fmt: skip
    assert json.loads(ok(made))["role_uids"] == [5]
    assert "alice" in ok(run("user", "list"))
    assert ok(run("user", "list")).split()[:3] == ["UID", "NAME", "AUTH_METHOD"]
    ok(run("user", "update", "alice", "--rename", "anna", "--role", "None"))
    shown = json.loads(ok(run("user", "show", "anna", "--json")))
    assert (shown["name"], shown["role_uids"]) == ("anna", [6])
    assert run("user", "delete", "anna", text="n\n").exit_code == 1
    ok(run("user", "delete", "anna", "--yes"))
    gone = run("user", "show", "anna")
    assert (gone.exit_code, "not_found" in gone.output) == (1, True)
    assert " is not among the users" in gone.output


def test_a_password_is_read_and_not_shown(run: Run) -> None:
    """From a line of standard input; without one the API refuses."""
    made = run("user", "create", "bob", "--role", "None", "--password", text="a secret word\n")
    assert "a secret word" not in ok(made)
    refused = run("user", "create", "carol", "--role", "None")
    assert (refused.exit_code, "missing_field" in refused.output) == (1, True)


def test_a_user_is_not_made_before_a_role_is_chosen(run: Run) -> None:
    """The command asks for one, names the option, and asks the API nothing."""
    subject = ("--auth-method", "certificate", "--subject", "CN=alice,O=acme")
    refused = run("user", "create", "alice", *subject)
    assert (refused.exit_code, "which role? --role" in refused.output) == (2, True), refused.output
    assert "alice" not in ok(run("user", "list"))
    ok(run("user", "create", "alice", *subject, "--role", "None"))


def test_a_pattern_is_made_from_the_command_line(run: Run) -> None:
    """What it cannot be without is asked for; what the API refuses is said."""
    ok(run("role", "create", "devices"))
    device = ("--kind", "cn", "--template", "dev-{id}", "--user", "device:{id}")
    refused = run("pattern", "create", "devices", *device[:4])
    assert (refused.exit_code, "which user? --user" in refused.output) == (2, True), refused.output
    options = ("--role", "devices", "--from", "10.0.0.0/8", "--session", "8h", "--json")
    found = json.loads(run("pattern", "create", "devices", *device, *options).stdout)
    assert (found["from"], found["session"], found["role_uids"]) == (["10.0.0.0/8"], "8h", [8])
    refused = run("pattern", "update", "devices", "--issued-by", "nobody")
    assert (refused.exit_code, "no trusted CA" in refused.output) == (1, True), refused.output
    assert "device:{id}" in ok(run("pattern", "list"))
    ok(run("pattern", "delete", "devices", "--yes"))


def test_databases_name_their_roles_and_acls(run: Run, pki: Pki, tmp_path: Path) -> None:
    """Names become uids; one that is not there, and what has no such form, is refused."""
    ok(run("role", "create", "readers"))
    ok(run("acl", "create", "orders", "--rules", "+@read ~orders:*"))
    (tmp_path / "ca").write_bytes(pki.server_ca.pem)
    made = run("db", "create", "orders", "--endpoint", "[::1]:6379", "--grant", "readers=orders",
               "--server-ca", tmp_path / "ca", "--default-user", "--json", "--no-wait")  # fmt: skip
    found = json.loads(made.stdout)
    assert found["endpoints"][0]["addr"] == ["::1"]
    assert found["roles_permissions"] == [{"role_uid": 8, "redis_acl_uid": 4}]
    assert found["default_user"] is True
    changed = run("db", "update", "orders", "--no-default-user", "--json", "--no-wait")
    assert json.loads(changed.stdout)["default_user"] is False
    for option, value, code in (
        ("--grant", "readers=none", 1),
        ("--grant", "readers", 2),
        ("--endpoint", "host", 2),
        ("--tls-mode", "perhaps", 2),
    ):
        assert run("db", "update", "orders", option, value).exit_code == code, value
    assert run("db", "update", "orders").exit_code == 2


def test_a_hold_is_in_the_status(run: Run, config: Config) -> None:
    """As long as it lasts the command fails, and says what ends it; it does not wait for it."""
    assert "on hold" not in run("status").output
    with sqlite3.connect(config.home / "control.db") as connection:
        connection.execute("UPDATE cluster SET hold = 'restored', revision = revision + 1")
    held = run("status", "--wait", "60")
    assert (held.exit_code, "on hold: restored; see redis-certauth release" in held.output) == (
        1,
        True,
    )
    service.release(config, force=False)
    assert run("status").exit_code == 0


def test_settings_are_shown_and_changed(run: Run) -> None:
    """Of the cluster and of the lockout; what the API does not take is its refusal."""
    ok(run("cluster", "update", "--complexity", "--min-length", 12))
    found = json.loads(ok(run("cluster", "show", "--json")))
    assert (found["password_complexity"], found["password_min_length"]) == (True, 12)
    ok(run("lockout", "update", "--threshold", 3))
    assert json.loads(ok(run("lockout", "show", "--json")))["login_lockout_threshold"] == 3
    for option, code in (
        ("--no-passwords", "no_administrator_login"),
        ("--min-length=1", "invalid_schema"),
    ):
        refused = run("cluster", "update", option)
        assert (refused.exit_code, code in refused.output) == (1, True), refused.output


def test_a_certificate_logs_in_and_is_explained(
    run: Run, pki: Pki, tmp_path: Path, config: Config
) -> None:
    """After its CA is installed; before, the API refuses it."""
    certificate, key = pki.alice.files
    (tmp_path / "ca").write_bytes(pki.ca.pem)
    subject = pki.alice.certificate.subject.rfc4514_string()
    ok(run("user", "create", "alice", "--auth-method", "certificate", "--subject", subject,
           "--role", "DB Viewer"))  # fmt: skip
    own = ("--cert", certificate, "--key", key)
    assert run("role", "list", *own).exit_code == 1
    ok(run("ca", "set", tmp_path / "ca"))
    ok(run("cluster", "update", "--certificates"))
    ok(run("db", "list", *own))
    assert "-----BEGIN CERTIFICATE" in ok(run("ca", "show"))
    told = json.loads(ok(run("explain", certificate, "--json")))
    assert told["user"] == "alice"
    ok(run("cert", "rotate"))
    assert json.loads(ok(run("cert", "show", "--json")))["api"].startswith("-----BEGIN")
    assert "ca_in_use" in run("ca", "delete", "--yes").output
    ok(run("ca", "delete", "--yes", "--force"))
    assert ok(run("ca", "show")).strip() == ""
    refused = run("cert", "set", certificate, certificate)
    assert refused.exit_code == 1


def test_tables_steer_no_terminal() -> None:
    """Neither escape sequences nor rich's markup in what the API says."""
    assert cell("\x1b[2J[red]x") == "\\1B[2J[red]x"


@pytest.mark.parametrize("heading", [(), ("UID", "A NAME", "")])
def test_a_table_of_plain_text_is_as_rich_prints_it(heading: tuple[str, ...]) -> None:
    """Which is not loaded for it; it prints what is wide, or does not fit."""
    rows = [("1", "alice [red]x", "role"), ("22", "", "a longer text"), ("", "b", "")]
    assert aligned(rows, heading, 80) == folded(rows, heading, 80) != []
    assert aligned(rows, heading, 20) == aligned([("é", "b", "c")], heading, 80) == []
    assert max(map(len, folded(rows, heading, 20))) <= 20


@pytest.mark.parametrize("kind", ["subject", "cn", "uri"])
@pytest.mark.parametrize("value", ["CN=a,O=b", "CN=a b", "CN=shared", "CN=session=8h", 'CN=a\\"b'])
def test_identities_are_shown_as_they_are_typed(kind: str, value: str) -> None:
    """Those that need no libcrypto too: a value that looks like an option is in quotes."""
    given = {kind: value if kind == "subject" else value.removeprefix("CN=")}
    assert written(given) == bindings.written(given)


def test_a_dry_run_says_what_it_would_do_and_does_not(run: Run, pki: Pki) -> None:
    """Of every command that changes something: who is cut off, and with --lines the lines of the
    policy."""
    ok(run("user", "create", "alice", "--auth-method", "certificate", "--subject", "CN=alice",
           "--role", "None"))  # fmt: skip
    create = ("db", "create", "orders", "--endpoint", "127.0.0.1:1", "--grant", "None=Read Only")
    ok(run(*create, "--no-wait"))
    bound = "  - bind subject CN=alice alice"
    for words in (
        ("user", "delete", "alice"),
        ("db", "delete", "orders"),
        ("user", "update", "alice", "--subject", "CN=al"),
    ):
        told = ok(run(*words, "--dry-run", "--lines")).splitlines()
        assert told[0] == "orders:"
        assert bound in told
        assert bound not in ok(run(*words, "--dry-run"))
    assert ok(run("role", "create", "ops", "--dry-run")) == "no policy changes\n"
    assert "ops" not in ok(run("role", "list"))
    assert ok(run("user", "show", "alice"))
    assert run("user", "delete", "admin", "--dry-run").exit_code == 1


# ---- status ----


def test_status_tells_which_servers_are_behind(run: Run, config: Config) -> None:
    """A row for each, and the reason; 1 where one is behind, 0 where none is. A wait ends with
    its time, or when all are in step."""
    wait_until(lambda: run("status").exit_code == 0, "a control plane leads", 30)
    assert json.loads(ok(run("status", "--json")))["nodes"] == []
    port = free_port()
    ok(run("db", "create", "orders", "--endpoint", f"127.0.0.1:{port}", "--no-wait"))
    behind = run("status", "--wait", "0.3")
    assert behind.exit_code == 1
    assert f"127.0.0.1:{port}" in behind.output
    assert "1 of 1 servers are behind" in behind.output
    ok(run("db", "delete", "orders", "--yes", "--no-wait"))
    ok(run("db", "delete", "orders", "--yes"))  # no server will ever say that it is detached
    ok(run("status", "--wait", "10"))
