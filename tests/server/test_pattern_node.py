"""`pattern` lines on a server: users that are there as long as their certificates are."""

from contextlib import ExitStack, suppress
from typing import Any

import pytest
import redis

from control.policy.lines import MARK
from tests.kit.node import JOURNAL, bootstrap, enrolled, load, patch, show, turned_away, usual
from tests.kit.policies import CLOSED, Start, closed, whoami
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, wait_until

LINE = "pattern uri spiffe://acme/ns/{ns}/sa/{sa} app:{ns}:{sa} on ~{ns}:{sa}:* +@read +@write"


def workload(pki: Pki, ns: str, sa: str) -> Cert:
    return pki.ca.issue(f"CN={sa}", san=[f"uri:spiffe://acme/ns/{ns}/sa/{sa}"])


def users(server: RedisServer) -> set[str]:
    return {name for name in server.admin().acl_users() if ":" in name}


def gone(server: RedisServer) -> None:
    wait_until(lambda: not users(server), "users without sessions go")


def test_each_certificate_has_its_own_keys(server_kind: Server, start: Start, pki: Pki) -> None:
    """The user and its key space come from the certificate, and nothing else is reached."""
    server = enrolled(start, server_kind, pki, LINE)
    one = server.client(workload(pki, "shop", "cart"))
    two = server.client(workload(pki, "shop", "pay"))
    one.set("shop:cart:x", "1")
    two.set("shop:pay:x", "2")
    for client, key in ((one, "shop:pay:x"), (two, "shop:cart:x"), (one, "shop:car:x")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get(key)
    assert users(server) == {"app:shop:cart", "app:shop:pay"}


def test_a_user_is_there_while_it_has_sessions(server_kind: Server, start: Start, pki: Pki) -> None:
    """One session keeps it, none lets it go; it comes again with the next."""
    server = enrolled(start, server_kind, pki, LINE)
    cert = workload(pki, "shop", "cart")
    for _ in range(2):
        with server.tls(cert).connect() as first:
            with server.tls(cert).connect() as second:
                assert whoami(second)["user"] == "app:shop:cart"
            first.command("GET", "shop:cart:x")
            assert users(server) == {"app:shop:cart"}
        gone(server)


def test_nobody_names_himself_an_administrator(server_kind: Server, start: Start, pki: Pki) -> None:
    """Whatever the certificate says, its user starts with the word of the line; an exact user of
    that name is not to be had, before or after."""
    server = enrolled(start, server_kind, pki, LINE)
    for sa in ("default", "alice"):
        with server.tls(workload(pki, "shop", sa)).connect() as connection:
            assert whoami(connection)["user"] == f"app:shop:{sa}"
    with pytest.raises(redis.ResponseError, match="LINES 1 bad.*word of a `pattern` line"):
        patch(server.admin(), 1, 2, ["+user app:shop:root on +@all"])
    with pytest.raises(redis.ResponseError, match="LINES 1 bad.*word of a `pattern` line"):
        load(server.admin(), 2, [*usual(pki), LINE, "user app:x on +@all"])
    for name in ("spiffe://acme/ns/shop/sa/a/b", "spiffe://acme/ns/shop/sa/", "spiffe://acme/ns/a%2fb/sa/c",
                 "spiffe://acme/ns/shop/sa/*", "spiffe://evil/ns/shop/sa/cart"):  # fmt: skip
        cert = pki.ca.issue("CN=x", san=[f"uri:{name}"])
        assert turned_away(server, cert) == "no_binding"


def test_a_user_of_the_server_keeps_its_name(server_kind: Server, start: Start, pki: Pki) -> None:
    """A line that would make the operator's own user is refused, and says which."""
    server = enrolled(start, server_kind, pki)
    server.admin().execute_command("ACL", "SETUSER", "app:legacy", "on", ">old", "+@all")
    with pytest.raises(redis.ResponseError, match="the server has the user 'app:legacy' already"):
        patch(server.admin(), 1, 2, [f"+{LINE}"])
    server.admin().execute_command("ACL", "DELUSER", "app:legacy")
    patch(server.admin(), 1, 2, [f"+{LINE}"])
    assert LINE in show(server.admin())


def test_bad_rules_are_found_before_the_first_login(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """The server's ACL tries them on a made-up name."""
    server = enrolled(start, server_kind, pki)
    with pytest.raises(redis.ResponseError, match="LINES 1 bad, nothing changed; line 1: "):
        patch(server.admin(), 1, 2, [f"+{LINE} +@nosuch"])


def test_a_line_that_changes_changes_its_users(server_kind: Server, start: Start, pki: Pki) -> None:
    """Other rules hold for open sessions at the reply; a line that goes ends them."""
    server = enrolled(start, server_kind, pki, LINE)
    less = LINE.replace(" +@write", "")
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        connection.command("SET", "shop:cart:x", "1")
        reply = patch(server.admin(), 1, 2, [f"-{LINE}", f"+{less}"])
        assert reply["closed"] == 0
        assert connection.command("GET", "shop:cart:x") == b"1"
        with pytest.raises(redis.ResponseError, match="NOPERM"):
            connection.command("SET", "shop:cart:x", "2")
        assert patch(server.admin(), 2, 3, [f"-{less}"])["closed"] == 1
        assert closed(connection)
    gone(server)


def test_a_name_may_go_from_a_pattern_to_a_user_line(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """In one change, also while it has a session: the line's user stays when that has ended."""
    server = enrolled(start, server_kind, pki, LINE)
    cert = workload(pki, "shop", "cart")
    with server.tls(cert).connect() as connection:
        connection.command("GET", "shop:cart:x")
        bound = f"bind key {cert.key_id} app:shop:cart"
        changes = [f"-{LINE}", "+user app:shop:cart on +ping", f"+{bound}"]
        assert patch(server.admin(), 1, 2, changes)["closed"] == 0
        assert connection.command("PING") == b"PONG"
        with pytest.raises(redis.ResponseError, match="NOPERM"):
            connection.command("GET", "shop:cart:x")
    with server.tls(cert).connect() as connection:
        assert connection.command("PING") == b"PONG"
    assert users(server) == {"app:shop:cart"}


def test_a_saved_user_does_not_outlive_a_restart(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """CONFIG REWRITE writes the users of the moment into redis.conf; those of patterns are removed
    at the start, whatever somebody made of them in the file."""
    server = enrolled(start, server_kind, pki, LINE)
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        connection.command("GET", "shop:cart:x")
        server.admin().config_rewrite()
    server.stop()
    conf = server.conf.read_text()
    assert "user app:shop:cart" in conf
    server.start()
    gone(server)
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        assert whoami(connection)["user"] == "app:shop:cart"


def test_no_password_leads_to_such_a_user(server_kind: Server, start: Start, pki: Pki) -> None:
    """Somebody gives it one by hand: AUTH is refused to whom it is not, and the rules come back."""
    server = enrolled(start, server_kind, pki, LINE)
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        connection.command("GET", "shop:cart:x")
        server.admin().execute_command("ACL", "SETUSER", "app:shop:cart", ">secret", "+@all")
        with server.tls(workload(pki, "shop", "pay")).connect() as other:
            if server_kind.release >= (7, 2):
                with pytest.raises(redis.ResponseError, match="may not be that user"):
                    other.command("AUTH", "app:shop:cart", "secret")
            else:  # the server lets it, and it is closed at once, perhaps before the answer
                other.send("AUTH", "app:shop:cart", "secret")
                with suppress(*CLOSED):
                    assert other.read() == b"OK"
                assert closed(other)

        def repaired() -> bool:
            rules: Any = server.admin().acl_getuser("app:shop:cart")
            return bool(rules["passwords"] == [MARK])

        wait_until(repaired, "the rules are the line's again")


def test_reset_and_login_come_back(server_kind: Server, start: Start, pki: Pki) -> None:
    """RESET leaves the user, LOGIN makes it again where it has gone meanwhile."""
    server = enrolled(start, server_kind, pki, LINE, "user default adopt off")
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        connection.command("GET", "shop:cart:x")
        connection.command("RESET")
        assert connection.command("CERTAUTH.LOGIN") == b"OK"
        assert whoami(connection)["user"] == "app:shop:cart"


def test_limits_hold_for_them(server_kind: Server, start: Start, pki: Pki, tmp_path: Any) -> None:
    """What the bootstrap file takes from every user, it takes from these."""
    module = bootstrap(tmp_path, "limit -@write")
    server = start(server_kind, module=module)
    load(server.admin(), 1, [*usual(pki), LINE])
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        assert connection.command("GET", "shop:cart:x") is None
        with pytest.raises(redis.ResponseError, match="NOPERM"):
            connection.command("SET", "shop:cart:x", "1")


def test_off_ends_them(server_kind: Server, start: Start, pki: Pki) -> None:
    """Without enforcement there is no such user."""
    server = enrolled(start, server_kind, pki, LINE)
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        connection.command("GET", "shop:cart:x")
        patch(server.admin(), 1, 2, ["-set enforce on"])
        assert closed(connection)
    gone(server)


def test_the_way_of_the_api_makes_them_too(server_kind: Server, start: Start, pki: Pki) -> None:
    server = enrolled(start, server_kind, pki, LINE, module=(*JOURNAL, "certificates", "api"))
    with server.tls(workload(pki, "shop", "cart")).connect() as connection:
        assert whoami(connection)["user"] == "app:shop:cart"


def test_subscribers_do_not_survive_channels_that_go(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """The server ends them in the middle of the change, which goes on all the same."""
    line = f"{LINE} +subscribe"
    old, new = f"{line} &old:{{ns}}:*", f"{line} &new:{{ns}}:*"
    server = enrolled(start, server_kind, pki, old)
    peers = [server.tls(workload(pki, "shop", sa)) for sa in ("cart", "cart", "pay")]
    with ExitStack() as stack:
        subscribers = [stack.enter_context(peer.connect()) for peer in peers]
        for one in subscribers:
            one.command("SUBSCRIBE", "old:shop:x")
        assert patch(server.admin(), 1, 2, [f"-{old}", f"+{new}"])["generation"] == 2
        for one in subscribers:
            with pytest.raises(OSError, match="."):
                one.read()
    rules = [line for line in server.admin().acl_list() if "app:" in line]
    assert not any("&old" in line for line in rules)
