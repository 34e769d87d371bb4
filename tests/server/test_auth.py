"""AUTH, HELLO AUTH, RESET and CERTAUTH.LOGIN: nobody becomes a managed user but by certificate."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import redis

from tests.kit.policies import (
    CLOSED,
    NOBODY,
    USER_BOB,
    Node,
    Outcome,
    Start,
    asks,
    client_id,
    closed,
    gone,
    make_node,
    policy_of,
    refuse,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, TlsConnection, wait_until

CAROL = "user carol on ~* &* +@all"
WORKER = "user worker on >secret ~* &* +@all"  # the operator's own, with a password


def node_of(start: Start, kind: Server, pki: Pki, *lines: str, **options: Any) -> Node:
    """alice's certificate is alice, bob's may be alice or bob, nobody's may be carol."""
    chooser = f"bind key {pki.bob.key_id} alice bob"
    options.setdefault("plain", True)
    return make_node(
        start, kind, *policy_of(pki, USER_BOB, CAROL, chooser, *lines), config=[WORKER], **options
    )


def denied(connection: TlsConnection, *words: str) -> str:
    """The error that a command ends in; the connection lives on."""
    with pytest.raises(redis.ResponseError) as error:
        connection.command(*words)
    return str(error.value)


def user(connection: TlsConnection) -> str:
    name = whoami(connection)["user"]
    assert isinstance(name, str)
    return name


# ---- Choosing ------------------------------------------------------------------------------------


def test_who_may_be_several_is_nobody_until_it_chooses(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """It may run nothing at all, then whatever the user it has chosen may; it may choose again."""
    node = node_of(start, server_kind, pki)
    with node.connect(pki.bob) as connection:
        assert user(connection) == NOBODY
        for command in (
            ("GET", "k"),
            ("ACL", "WHOAMI"),
            ("CLIENT", "LIST"),
            ("CONFIG", "GET", "*"),
        ):
            assert "permissions" in denied(connection, *command)
        assert "which user" in denied(connection, "CERTAUTH.LOGIN")
        assert user(connection) == NOBODY
        for name in ("alice", "bob", "alice"):
            assert connection.command("CERTAUTH.LOGIN", name) == b"OK"
            assert connection.command("ACL", "WHOAMI") == name.encode()
            assert whoami(connection)["reason"] == "matched"
    assert node.counters()["logins"] == 3


@pytest.mark.parametrize("name", ["carol", "worker", "default", "nobody", "Alice", "", "certauth"])
def test_login_gives_no_other_user(server_kind: Server, start: Start, pki: Pki, name: str) -> None:
    """CERTAUTH.LOGIN with a user that the certificate is not: refused, and it stays what it was."""
    node = node_of(start, server_kind, pki)
    for cert, was in ((pki.alice, "alice"), (pki.bob, NOBODY)):
        with node.connect(cert) as connection:
            if name or was == NOBODY:
                assert denied(connection, "CERTAUTH.LOGIN", name).startswith("DENIED")
            assert user(connection) == was
    with node.connect() as connection:
        assert "without a certificate" in denied(connection, "CERTAUTH.LOGIN", "alice")
        assert user(connection) == "default"
    plain: Any = node.server.plain_client()
    with pytest.raises(redis.ResponseError, match="without a certificate"):
        plain.execute_command("CERTAUTH.LOGIN", "alice")


ASKED = {
    "AUTH": "AUTH {} anything",
    "HELLO 2": "HELLO 2 AUTH {} anything",
    "HELLO 2 SETNAME": "HELLO 2 SETNAME me AUTH {} anything",
}


def asking(how: str, name: str) -> list[str]:
    return ASKED[how].format(name).split()


@pytest.mark.parametrize("how", ASKED)
def test_auth_chooses(server_kind: Server, start: Start, pki: Pki, how: str) -> None:
    """From 7.2 on `AUTH user anything` and HELLO choose as well; below, the user has no password,
    so the server refuses."""
    node = node_of(start, server_kind, pki)
    with node.connect(pki.bob) as connection:
        if not asks(server_kind):
            assert denied(connection, *asking(how, "bob")).startswith("WRONGPASS")
            assert user(connection) == NOBODY
            return
        connection.command(*asking(how, "bob"))
        assert connection.command("ACL", "WHOAMI") == b"bob"
        assert "certauth" in denied(connection, *asking(how, "carol"))
        assert connection.command("ACL", "WHOAMI") == b"bob"
        connection.command(*asking(how, "alice"))
        assert connection.command("ACL", "WHOAMI") == b"alice"
    with node.connect(pki.alice) as connection:
        connection.command(*asking(how, "alice"))
        assert "certauth" in denied(connection, *asking(how, "bob"))
        assert connection.command("ACL", "WHOAMI") == b"alice"


def test_hello_3_chooses_for_redis_py(server_kind: Server, start: Start, pki: Pki) -> None:
    """A client library with a user name and RESP3 chooses without knowing of this module."""
    node = node_of(start, server_kind, pki)
    client = node.server.client(pki.bob, username="bob", password="-", protocol=3)
    if asks(server_kind):
        assert client.acl_whoami() == "bob"
    else:
        with pytest.raises(redis.AuthenticationError):
            client.ping()


def test_a_user_that_is_off_cannot_be_chosen(server_kind: Server, start: Start, pki: Pki) -> None:
    """It is asked when it is chosen; the others of the line stay."""
    node = node_of(start, server_kind, pki)
    node.patch(f"-{USER_BOB}", "+user bob off")
    with node.connect(pki.bob) as connection:
        assert user(connection) == NOBODY
        assert denied(connection, "CERTAUTH.LOGIN", "bob").startswith("DENIED")
        assert user(connection) == NOBODY
        assert connection.command("CERTAUTH.LOGIN", "alice") == b"OK"


# ---- AUTH to a managed user ----------------------------------------------------------------------

OTHERS: dict[str, Callable[[Pki], Cert | None]] = {
    "no certificate": lambda pki: None,
    "another user": lambda pki: pki.alice,
    "yet to choose": lambda pki: pki.bob,
}


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("how", ASKED)
def test_nobody_becomes_a_managed_user_by_a_password(
    server_kind: Server, start: Start, pki: Pki, who: str, how: str
) -> None:
    """Not even with the right one, which somebody gave it by hand. Below 7.2, where the server does
    not ask, the session is closed at once."""
    node, words = node_of(start, server_kind, pki), asking(how, "carol")
    node.call("ACL", "SETUSER", "carol", ">anything")
    with node.connect(OTHERS[who](pki)) as connection:
        was = user(connection)
        if asks(server_kind):
            assert "certauth" in denied(connection, *words)
            assert user(connection) == was
        else:
            with suppress(*CLOSED):
                connection.command(*words)
                assert closed(connection)
            assert "its certificate does not allow that user" in node.server.log
    assert not node.admin.exists("k")


def test_plain_tcp_becomes_no_managed_user(server_kind: Server, start: Start, pki: Pki) -> None:
    """The same without TLS; `nopass`, given by hand, opens nothing either. The operator's users
    stay usable, and so are the managed ones over the unix socket."""
    node = node_of(start, server_kind, pki)
    plain: Any = node.server.plain_client(single_connection_client=True)
    assert plain.execute_command("AUTH", "worker", "secret")
    assert plain.acl_whoami() == "worker"
    node.call("ACL", "SETUSER", "carol", "nopass")
    if asks(server_kind):
        with pytest.raises(redis.ResponseError, match="certauth"):
            plain.execute_command("AUTH", "carol", "x")
        assert plain.acl_whoami() == "worker"
    else:
        with suppress(redis.ConnectionError):
            plain.execute_command("AUTH", "carol", "x")
        gone(node, "sessions", 1)
    node.call("ACL", "SETUSER", "carol", "nopass")
    local = node.server.admin(username="carol", password="x")
    assert local.acl_whoami() == "carol"


# ---- Passwords of users that are not ours --------------------------------------------------------


def test_password_auth_in_a_certificate_session(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """`set password-auth` says whether a session with a certificate may become an operator's user;
    by default it may not. A wrong password is wrong either way."""
    node = node_of(start, server_kind, pki)
    with node.connect(pki.alice) as connection:
        if asks(server_kind):
            assert "certauth" in denied(connection, "AUTH", "worker", "secret")
            assert user(connection) == "alice"
        else:
            with suppress(*CLOSED):
                connection.command("AUTH", "worker", "secret")
                assert closed(connection)
    node.patch("+set password-auth allow")
    with node.connect(pki.alice) as connection:
        assert denied(connection, "AUTH", "worker", "wrong").startswith("WRONGPASS")
        assert user(connection) == "alice"
        assert connection.command("AUTH", "worker", "secret") == b"OK"
        assert connection.command("ACL", "WHOAMI") == b"worker"
        number = client_id(connection)
        node.patch("+allow CN=x")  # a change that is not about it
        assert (client_id(connection), user(connection)) == (number, "worker")
        assert connection.command("CERTAUTH.LOGIN") == b"OK"
        assert user(connection) == "alice"
        assert connection.command("AUTH", "worker", "secret") == b"OK"
        node.patch("-set password-auth allow")
        assert closed(connection)


def test_a_password_outlives_no_revocation(server_kind: Server, start: Start, pki: Pki) -> None:
    """A certificate session that became an operator's user is closed when the certificate would not
    be let in any more; one without a certificate stays."""
    node = node_of(start, server_kind, pki, "set password-auth allow")
    with node.connect(pki.alice) as certified, node.connect() as plain:
        for connection in (certified, plain):
            assert connection.command("AUTH", "worker", "secret") == b"OK"
        assert node.patch(f"+revoke cert {pki.alice.fingerprint}")["closed"] == 1
        assert closed(certified)
        assert plain.command("ACL", "WHOAMI") == b"worker"


# ---- RESET ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["alice", "bob"])
def test_reset_leaves_nothing_and_login_brings_back(
    server_kind: Server, start: Start, pki: Pki, which: str
) -> None:
    """With `default` off a client holds nothing after RESET; CERTAUTH.LOGIN brings it back, as no
    other user."""
    node = node_of(start, server_kind, pki, "user default adopt off")
    cert, name = {"alice": (pki.alice, []), "bob": (pki.bob, ["bob"])}[which]
    with node.connect(cert) as connection:
        for _ in range(2):
            assert connection.command("CERTAUTH.LOGIN", *name) == b"OK"
            assert connection.command("ACL", "WHOAMI") == which.encode()
            assert connection.command("RESET") == b"RESET"
            assert denied(connection, "SET", "k", "v").startswith("NOAUTH")
            assert denied(connection, "CERTAUTH.LOGIN", "carol").startswith("DENIED")
            assert denied(connection, "SET", "k", "v").startswith("NOAUTH")
        assert connection.command("CERTAUTH.LOGIN", *name) == b"OK"
        assert connection.command("SET", "k", "v") == b"OK"


def test_a_session_that_was_reset_is_still_its_certificate(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """RESET hides no session from revocation, whether it logged in again or not; others stay."""
    node = node_of(start, server_kind, pki)
    carol = pki.ca.issue("CN=carol")
    node.patch(f"+bind key {carol.key_id} carol")
    with (
        node.connect(pki.alice) as reset, node.connect(pki.alice) as again,
        node.connect(carol) as other,
    ):  # fmt: skip
        for connection in (reset, again, other):
            assert connection.command("RESET") == b"RESET"
        assert again.command("CERTAUTH.LOGIN") == b"OK"
        assert other.command("CERTAUTH.LOGIN") == b"OK"
        assert node.patch(f"+revoke cert {pki.alice.fingerprint}")["closed"] == 2
        assert closed(reset)
        assert closed(again)
        assert user(other) == "carol"


def replies(connection: TlsConnection, count: int) -> list[Any]:
    """So many replies; an error as its first word."""
    found: list[Any] = []
    for _ in range(count):
        try:
            found.append(connection.read())
        except redis.ResponseError as error:
            found.append(str(error).split()[0])
    return found


def pipeline(connection: TlsConnection, *commands: str) -> list[Any]:
    """Sends commands in one packet."""
    connection.socket.sendall("".join(f"{command}\r\n" for command in commands).encode())
    return replies(connection, len(commands))


def test_a_pipeline_holds_at_each_step_what_it_is(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """RESET, login and choice take effect between two commands of one packet."""
    node = node_of(start, server_kind, pki, "user default adopt off")
    with node.connect(pki.alice) as connection:
        steps = ["INCR a", "RESET", "INCR a", "CERTAUTH.LOGIN", "INCR a", "RESET", "INCR a"]
        assert pipeline(connection, *steps) == [1, b"RESET", "NOAUTH", b"OK", 2, b"RESET", "NOAUTH"]
    with node.connect(pki.bob) as connection:
        steps = ["INCR b", "CERTAUTH.LOGIN bob", "ACL WHOAMI", "CERTAUTH.LOGIN carol", "INCR b"]
        assert pipeline(connection, *steps) == ["NOPERM", b"OK", b"bob", "DENIED", 1]
        if asks(server_kind):
            steps = ["AUTH alice x", "ACL WHOAMI", "RESET", "INCR b", "AUTH bob x", "INCR b"]
            found = pipeline(connection, *steps)
            assert found == [b"OK", b"alice", b"RESET", "NOAUTH", b"OK", 2]


def lines(connection: TlsConnection, *commands: str) -> list[str]:
    """What comes back for commands of one packet, line by line; of an error its first word."""
    end = "PING end"  # so that a reply which does not come is missed, and not waited for
    connection.socket.sendall("".join(f"{command}\r\n" for command in (*commands, end)).encode())
    found: list[str] = []
    while found[-2:] != ["$3", "end"]:
        found.append(connection.stream.readline().decode().split()[0])
    return found[:-2]


@pytest.mark.parametrize("io_threads", [1, 4])
@pytest.mark.parametrize("how", ASKED)
def test_a_refused_auth_has_its_one_reply(
    server_kind: Server, start: Start, pki: Pki, how: str, io_threads: int
) -> None:
    """In a pipeline and in a transaction as well, or each later reply would be taken for that of
    the command before it. Stock servers of 7.2 to 8.6 leave out what a module says of an AUTH
    while earlier replies wait to be sent."""
    node = node_of(start, server_kind, pki, io_threads=io_threads)
    error = "-ERR" if asks(server_kind) else "-WRONGPASS"
    for cert, name in ((pki.bob, "carol"), (pki.alice, "bob"), (None, "alice")):
        auth = " ".join(asking(how, name))
        with node.connect(cert) as connection:
            if cert is pki.bob:
                connection.command("CERTAUTH.LOGIN", "bob")
            assert lines(connection, auth) == [error]
            assert lines(connection, "INCR a", auth, "ECHO x")[1:] == [error, "$1", "x"]
            found = lines(connection, "MULTI", "PING", auth, "PING", "EXEC")
            assert found[-4:] == ["*3", "+PONG", error, "+PONG"]
            assert lines(connection, "PING", "CLIENT REPLY SKIP", auth) == ["+PONG"]


def test_login_within_multi_and_scripts(server_kind: Server, start: Start, pki: Pki) -> None:
    """A transaction or a script gives no rights that its client would not get outside of it."""
    node = node_of(start, server_kind, pki)
    with node.connect(pki.bob) as connection:
        found = pipeline(connection, "MULTI", "CERTAUTH.LOGIN carol", "INCR a", "EXEC")
        assert user(connection) in (NOBODY, "bob", "alice")
        assert node.admin.get("a") is None, found
        assert connection.command("CERTAUTH.LOGIN", "bob") == b"OK"
        script = "return redis.call('CERTAUTH.LOGIN', 'alice')"
        with suppress(redis.ResponseError):
            connection.command("EVAL", script, "0")
        assert user(connection) == "bob"


# ---- WHOAMI --------------------------------------------------------------------------------------


def test_whoami_is_for_everybody(server_kind: Server, start: Start, pki: Pki) -> None:
    """Anyone who is not authenticated, may run nothing, or has no certificate is told what it
    is."""
    node = node_of(start, server_kind, pki, "user default adopt off")
    with node.connect() as connection:
        assert denied(connection, "PING").startswith("NOAUTH")
        told = whoami(connection)
        assert (told["reason"], told["subject"], told["not_after"]) == (
            "no_certificate",
            None,
            None,
        )
    node.patch("-user alice on ~* &* +@all", "+user alice on")
    with node.connect(pki.alice) as connection:
        assert denied(connection, "PING").startswith("NOPERM")
        cert = pki.alice.certificate
        assert whoami(connection) == {
            "user": "alice", "reason": "matched", "subject": "CN=alice,OU=eng,O=acme",
            "issuer": "CN=Root CA,O=acme", "serial": pki.alice.serial,
            "not_after": int(cert.not_valid_after_utc.timestamp()),
        }  # fmt: skip
    with node.connect(pki.bob) as connection:
        assert whoami(connection)["user"] == NOBODY


# ---- Drift ---------------------------------------------------------------------------------------


def rules(node: Node, name: str) -> Any:
    return next((line for line in node.admin.acl_list() if line.split()[1] == name), None)


BY_HAND = {
    "more": "SETUSER {} +@all allkeys nopass",
    "password": "SETUSER {} >secret",
    "off": "SETUSER {} off",
    "less": "SETUSER {} resetkeys nocommands",
    "gone": "DELUSER {}",
}


def is_back(node: Node, name: str, before: str) -> bool:
    return bool(rules(node, name) == before)


def test_users_changed_by_hand_are_set_back(server_kind: Server, start: Start, pki: Pki) -> None:
    """A `user` line is a user's whole state: what somebody does to it by hand does not last, and
    the log says so."""
    users = [f"user {name} on ~x:* +@read" for name in BY_HAND]
    bound = f"bind key {pki.bob.key_id} gone"
    node = make_node(start, server_kind, *policy_of(pki, *users, bound))
    before = {name: rules(node, name) for name in BY_HAND}
    for name, command in BY_HAND.items():
        node.call("ACL", *command.format(name).split())
        assert rules(node, name) != before[name]
    assert node.outcome(pki.bob) == refuse("user_missing")
    for name in BY_HAND:
        wait_until(partial(is_back, node, name, before[name]), f"{name} is set back", 4)
        assert f"user '{name}' was changed by hand" in node.server.log
    assert node.outcome(pki.bob) == Outcome("login", "matched", "gone")


def test_a_user_of_the_operators_is_left_alone(installed: Server, start: Start, pki: Pki) -> None:
    """Drift is about the users of the policy; those that are not in it may change."""
    node = node_of(start, installed, pki)
    node.call("ACL", "SETUSER", "worker", "off")
    node.call("ACL", "SETUSER", "carol", "off")
    wait_until(lambda: " on " in rules(node, "carol"), "carol is set back")
    assert " off " in rules(node, "worker")
