"""What the command line and the page say of a change: on how many servers it is in force, and what
is pending and why."""

from pathlib import Path

import pytest
import redis

from control.cli import options
from control.service import Config
from control.ui import changes
from tests.kit.browser import Browser, Page
from tests.kit.command_line import Run
from tests.kit.node import Start, who
from tests.kit.plane import Https, Plane, enrolled_node, frozen
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until

ALICE = "CN=alice,OU=eng,O=acme"


@pytest.fixture
def node(config: Config, installed: Server, start: Start, pki: Pki, run: Run) -> RedisServer:
    """A server of the database `orders`, where alice may do all, and carol is its own user."""
    own = ["user carol on nopass ~* +get"]
    told = ("refusals", "told")
    made = enrolled_node(start, installed, config.home, pki, config=own, module=told)
    ca = pki.server_ca.files[0]
    with Https(config) as api:
        entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        assert api("PUT /v1/cluster/update_cert", entry).status == 200
    place = ("--endpoint", f"127.0.0.1:{made.port}", "--tls-mode", "enabled", "--server-ca", ca)
    found = run("db", "create", "orders", *place, "--grant", "None=Full Access")
    assert found.exit_code == 0, found.output
    return made


def user(name: str, subject: str = "") -> tuple[str, ...]:
    method = ("--auth-method", "certificate", "--subject", subject or f"CN={name}")
    return ("user", "create", name, *method, "--role", "None")


def test_the_command_line_says_how_far_a_change_is(
    run: Run, node: RedisServer, pki: Pki, tmp_path: Path
) -> None:
    """Each command that changes something for servers: they hold it when it ends, and it exits
    with 0. One that is not a servers' business says nothing of them."""
    leaf = tmp_path / "alice.crt"
    leaf.write_bytes(pki.alice.pem)
    for words in (
        user("alice", ALICE),
        ("acl", "update", "Read Only", "--rules", "+get ~*"),
        ("db", "update", "orders", "--default-user", "--yes"),
        ("cert", "revoke", leaf),
        ("cert", "unrevoke", "1"),
        ("lock", "create", "--user", "alice", "--for", "8h", "--reason", "lost laptop"),
        ("lock", "delete", "1"),
        ("ca", "set", pki.ca.files[0]),
        ("user", "delete", "alice", "--yes"),
    ):
        found = run(*words)
        assert found.exit_code == 0, (words, found.output)
        told = words[0] != "acl"  # no role has that one
        assert ("in force on 1 of 1 servers" in found.stderr) == told, (words, found.stderr)
        assert "in_force" not in found.stdout
        assert "pending" not in found.output
    found = run("role", "create", "ops")
    assert (found.exit_code, found.stderr) == (0, "")


def test_a_server_that_is_down_is_pending(run: Run, node: RedisServer, tmp_path: Path) -> None:
    """The change is made, the exit status is 3, and which server does not hold it, and why. Nobody
    has to wait: then it is 0. A dry run is not pending."""
    run(*user("alice", ALICE))
    node.stop()
    address = f"127.0.0.1:{node.port}"
    wait_until(lambda: "UNREACHABLE" in run("status").output, "it is missed")
    revoking, deleting = (
        ("cert", "revoke", "--key-id", "ab" * 32),
        ("user", "delete", "bob", "--yes"),
    )
    for words in (user("bob"), revoking, deleting):
        found = run(*words)
        assert found.exit_code == options.NOT_IN_FORCE == 3, found.output
        assert "in force on 0 of 1 servers" in found.stderr
        assert f"pending: {address}: UNREACHABLE" in found.stderr
    found = run(*user("carl"), "--no-wait")
    assert (found.exit_code, f"pending: {address}" in found.stderr) == (0, True)
    assert run(*user("dora"), "--dry-run").exit_code == 0
    listed = run("user", "list").output
    assert ("carl" in listed, "dora" in listed) == (True, False)


def test_a_server_that_hangs_is_pending(
    run: Run, node: RedisServer, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for as long as it hangs; a revocation that has not arrived is not a success."""
    run(*user("alice", ALICE))
    assert who(node, pki.alice) == "alice"
    monkeypatch.setattr(options, "WAIT_SECONDS", 0.5)
    with frozen(node):
        found = run("cert", "revoke", "--key-id", pki.alice.key_id)
        assert found.exit_code == 3
        assert "in force on 0 of 1 servers" in found.stderr
        assert f"pending: 127.0.0.1:{node.port}: " in found.stderr
    wait_until(lambda: who(node, pki.alice) is None, "it is revoked there")
    monkeypatch.setattr(options, "WAIT_SECONDS", 10)
    assert run(*user("bob")).exit_code == 0


def test_a_user_whom_a_server_refuses_is_pending(run: Run, node: RedisServer) -> None:
    """As one that the server has by itself: named, with what to do. Others are in force."""
    found = run(*user("carol"))
    assert found.exit_code == 3
    assert "in force on 0 of 1 servers" in found.stderr
    assert "REFUSED user carol is off here: the server has a user of this name" in found.stderr
    assert run(*user("alice", ALICE)).exit_code == 0
    found = run("acl", "create", "oops", "--rules", "+@all -@dangeros")
    assert found.exit_code == 1
    assert f"server 127.0.0.1:{node.port} (Redis 7.0.15) refuses '-@dangeros'" in found.output
    assert "oops" not in run("acl", "list").output


STATE = """
redis_acls:
  - {name: reads, acl: "RULES"}
users:
  - name: NAME
    auth_method: certificate
    certificate_subject_line: CN=NAME
    roles: [None]
"""


def declared(folder: Path, rules: str = "+get ~*", name: str = "alice") -> tuple[object, ...]:
    file = folder / "state.yaml"
    file.write_text(STATE.replace("RULES", rules).replace("NAME", name))
    return ("apply", "-f", file, "--yes")


def test_apply_stores_nothing_where_a_server_refuses_a_part(
    run: Run, node: RedisServer, tmp_path: Path
) -> None:
    """All of the file, or nothing of it: a rule with a typo, or a user that the server has."""
    for part, text in (
        ({"rules": "+@all -@dangeros"}, "(Redis 7.0.15) refuses '-@dangeros'"),
        ({"name": "carol"}, "refuses the user carol: the server has a user of this name"),
    ):
        found = run(*declared(tmp_path, **part))
        assert found.exit_code == 1
        assert text in found.output
        assert "nothing is changed" in found.output
        assert "reads" not in run("acl", "list").output
        assert "carol" not in run("user", "list").output
    found = run(*declared(tmp_path))
    assert (found.exit_code, "in force on 1 of 1 servers" in found.stderr) == (0, True)


def test_apply_says_what_is_pending(
    run: Run, node: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits once, when all changes are made, and not for each of them."""
    monkeypatch.setattr(options, "WAIT_SECONDS", 0.5)
    node.stop()
    found = run(*declared(tmp_path))
    assert found.exit_code == 3, found.output
    assert "2 changes made" in found.stdout
    assert f"pending: 127.0.0.1:{node.port}: " in found.stderr
    assert run(*declared(tmp_path, name="bob"), "--no-wait").exit_code == 0


def test_the_page_says_how_far_a_change_is(
    plane: Plane, installed: Server, start: Start, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In green where it is in force on all servers; and plainly what is pending, and why, where a
    server is down."""
    nodes = [enrolled_node(start, installed, plane.config.home, pki) for _ in range(2)]
    plane.register(*nodes)
    plane.in_step()
    browser = Browser(plane)
    browser.log_in()

    def changed(subject: str) -> Page:
        form = browser.get("/ui/users/2")
        asked = browser.send(form, "/ui/users/2", certificate_subject_line=subject)
        return browser.send(asked, "/ui/users/2")

    assert "was changed. In force on 2 of 2 servers." in changed("CN=alice").text
    monkeypatch.setattr(changes, "WAIT", 0.5)
    nodes[0].stop()
    page = changed("CN=alice,O=acme")
    address = f"127.0.0.1:{nodes[0].port}"
    assert "But it is in force on 1 of 2 servers only: " in page.text
    assert address in page.text


def test_a_ticket_leads_to_its_refusal(run: Run, node: RedisServer, pki: Pki) -> None:
    """That a refused client was told; nothing else is found by it."""
    run(*user("alice", ALICE))
    assert who(node, pki.alice) == "alice"
    tickets = []
    for name in ("mallory", "trudy"):
        with node.tls(pki.ca.issue(f"CN={name}")).connect() as client:
            with pytest.raises(redis.ResponseError) as error:
                client.read()
            tickets.append(str(error.value).split()[-1])
    wait_until(lambda: "client_refused" in run("log", tickets[1]).output, "it is collected", 30)
    found = run("log", tickets[0])
    assert (found.exit_code, len(found.stdout.splitlines())) == (0, 1), found.output
    assert "no_binding" in found.stdout
    assert "CN=mallory" in found.stdout
    assert "no refusal in the log has the ticket" in run("log", "0" * 16).stderr
