"""What a client has begun ends with the right to it: MONITOR, replication, tracking, subscriptions
and commands that wait."""

from dataclasses import dataclass

import pytest
import redis

from tests.kit.policies import CLOSED, Node, Start, asks, client_id, make_node, policy_of
from tests.kit.servers import Server
from tests.kit.support import Pki, TlsConnection, wait_until

pytestmark = pytest.mark.few_servers

ALL = "user alice on ~* &* +@all"
AT_ONCE = ["repl-diskless-sync-delay 0"]
ONE, TWO = "user one on ~* &* +@all", "user two on ~* &* +@all"


@dataclass(frozen=True)
class Stream:
    """How it begins, how CLIENT LIST shows it, rules that take the right to it, and rules that
    leave it."""

    words: str
    shown: str
    less: tuple[str, ...]
    enough: tuple[str, ...]


STREAMS = {
    "MONITOR": Stream(
        "MONITOR", "O", ("~* &* +@all -monitor", "+@read"), ("+monitor", "~a:* &a +@all")
    ),
    "PSYNC": Stream("PSYNC ? -1", "S", ("~* +@all -psync -sync", "+@read"), ("+psync", "+sync")),
    "SUBSCRIBE": Stream(
        "SUBSCRIBE news", "sub", ("~* &* +@all -subscribe", "&x +@all"), ("&news +subscribe",)
    ),
    "PSUBSCRIBE": Stream(
        "PSUBSCRIBE n*", "psub", ("&* +@all -psubscribe",), ("&n* +psubscribe", "&* +@all -get")
    ),
    "SSUBSCRIBE": Stream(
        "SSUBSCRIBE news", "ssub", ("&* +@all -ssubscribe",), ("&news +ssubscribe",)
    ),
    "TRACKING": Stream(
        "CLIENT TRACKING ON", "t", ("~a:* +@all", "~* +@all -client|tracking"), ("~* +@all -get",)
    ),
    "BCAST": Stream(
        "CLIENT TRACKING ON BCAST", "t", ("~a:* +@all", "+@read"), ("~* +client|tracking",)
    ),
}


def shown(node: Node, number: int) -> dict[str, str] | None:
    """The client's line of CLIENT LIST; None where it is gone."""
    return next((one for one in node.admin.client_list() if int(one["id"]) == number), None)


def is_there(node: Node, number: int) -> bool:
    return shown(node, number) is not None


def hears(connection: TlsConnection, text: bytes) -> None:
    """Reads on, whatever else comes."""
    heard = b""
    while text not in heard:
        heard += connection.socket.recv(65536)


def begin(node: Node, connection: TlsConnection, stream: Stream) -> int:
    """The client's id. It has begun what it is about, by RESP3."""
    number = client_id(connection)
    connection.send("HELLO", "3")
    connection.send(*stream.words.split())

    def has_begun() -> bool:
        one = shown(node, number)
        assert one
        return stream.shown in one["flags"] or one.get(stream.shown, "0") != "0"

    wait_until(has_begun, f"{stream.words} has begun")
    return number


def test_what_has_begun_ends_with_the_right_to_it(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """When the change is answered, anyone who may not begin it any more is closed; anyone who may
    goes on, and so does who has begun nothing."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4, config=AT_ONCE)
    for name, stream in STREAMS.items():
        for rules in (*stream.less, *stream.enough):
            ends = rules in stream.less
            with node.connect(pki.alice) as connection, node.connect(pki.alice) as idle:
                number, other = begin(node, connection, stream), client_id(idle)
                node.patch(f"-{ALL}", f"+user alice on {rules}")
                if ends:
                    wait_until(lambda n=number: not is_there(node, n), f"{name} ends by {rules}")
                assert is_there(node, number) == (not ends), (name, rules)
                assert is_there(node, other), (name, rules)
                node.patch(f"-user alice on {rules}", f"+{ALL}")
                assert is_there(node, number) == (not ends), "more rights end nothing"


def test_a_command_that_waits_takes_nothing_any_more(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Of a queue that its user may not read now: it is closed, or told so; where the user still
    may, it gets what it waits for."""
    node = make_node(start, server_kind, *policy_of(pki))
    for rules, ends in (("~alice:* +@all", True), ("~* +@all", False)):
        with node.connect(pki.alice) as connection:
            connection.send("BLPOP", "queue", "0")
            wait_until(lambda: node.admin.info("clients")["blocked_clients"] == 1, "it waits")
            node.patch(f"-{ALL}", f"+user alice on {rules}")
            node.admin.rpush("queue", "job")
            if ends:
                with pytest.raises((redis.ResponseError, *CLOSED), match="NOPERM|closed"):
                    connection.read()
            else:
                assert connection.read() == [b"queue", b"job"]
            assert node.admin.llen("queue") == ends
            node.admin.delete("queue")
            node.patch(f"-user alice on {rules}", f"+{ALL}")


def test_what_was_begun_by_rights_given_by_hand_ends_with_the_repair(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Somebody widens a user by hand; when it is set back, MONITOR is over, and who has begun what
    its line allows goes on."""
    line = "user alice on ~* &* +@all -monitor"
    node = make_node(start, server_kind, *policy_of(pki)[:-1], line)
    node.call("ACL", "SETUSER", "alice", "+monitor")
    with node.connect(pki.alice) as one, node.connect(pki.alice) as two:
        stays = begin(node, two, STREAMS["SUBSCRIBE"])
        ends = begin(node, one, STREAMS["MONITOR"])
        wait_until(lambda: not is_there(node, ends), "MONITOR ends")
        assert is_there(node, stays)


def test_a_pattern_that_takes_rights_ends_streams(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """The users that a `pattern` line makes are not others."""
    line = "pattern dns {id}.iot device:{id} on ~{id}:* +@all"
    node = make_node(start, server_kind, *policy_of(pki, line))
    device = pki.ca.issue("CN=x", san=["dns:d1.iot"])
    with node.connect(device) as connection, node.connect(pki.alice) as alice:
        number = begin(node, connection, STREAMS["MONITOR"])
        other = begin(node, alice, STREAMS["MONITOR"])
        assert node.patch(f"-{line}", f"+{line} -monitor")["closed"] == 1
        wait_until(lambda: not is_there(node, number), "MONITOR ends")
        assert is_there(node, other)


def test_default_with_fewer_rights_ends_streams(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Of a client without a certificate that is `default`, when the policy takes that over."""
    node = make_node(start, server_kind, *policy_of(pki))
    for rules, ends in (("+ping", True), ("+ping +monitor", False)):
        with node.connect() as connection:
            number = begin(node, connection, STREAMS["MONITOR"])
            node.patch(f"+user default adopt on {rules}")
            if ends:
                wait_until(lambda n=number: not is_there(node, n), "MONITOR ends")
            assert is_there(node, number) == (not ends)
            node.patch(f"-user default adopt on {rules}")


def test_whoever_takes_its_own_stream_away_is_answered(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """The sender of a change tracks keys: it hears the reply, then it is closed."""
    node = make_node(start, server_kind, *policy_of(pki))
    with node.connect(pki.alice) as alice:
        number = begin(node, alice, STREAMS["BCAST"])
        change = (f"-{ALL}", f"+{ALL} -client|tracking")
        alice.send("CERTAUTH.POLICY", "PATCH", "1", "2", "LINES", *change)
        hears(alice, b"generation")
        wait_until(lambda: not is_there(node, number), "it is closed")


# ---- Another user of the same certificate --------------------------------------------------------


def test_nobody_takes_along_what_it_has_begun_as_another_user(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A connection that has begun something stays who it is: CERTAUTH.LOGIN and AUTH to another of
    its users say what to do, RESET, and behind that they are good. A replica cannot do that."""
    lines = policy_of(pki, ONE, TWO, f"bind key {pki.bob.key_id} one two")
    node = make_node(start, server_kind, *lines, config=AT_ONCE)
    asked = ["CERTAUTH.LOGIN two", *(["AUTH two x"] if asks(server_kind) else [])]
    for name, stream in STREAMS.items():
        with node.connect(pki.bob) as connection:
            assert connection.command("CERTAUTH.LOGIN", "one") == b"OK"
            number = begin(node, connection, stream)

            def user(number: int = number) -> str | None:
                return (shown(node, number) or {}).get("user")

            if name == "PSYNC":  # later servers close a replica that is refused anything
                connection.send("CERTAUTH.LOGIN", "two")
                assert user() in ("one", None)
                continue
            for words in asked:
                connection.send(*words.split())
                hears(connection, b"send RESET first")
                assert user() == "one"
            connection.send("CERTAUTH.LOGIN", "one")
            connection.send("RESET")
            connection.send("CERTAUTH.LOGIN", "two")
            wait_until(lambda: user() == "two", f"{name}: it is the other one")


def test_a_user_with_a_password_is_no_way_round(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """AUTH of a certificate's session to a user of the operator's; where the server asks us."""
    own = "user worker on >secret ~* &* +@all"
    node = make_node(start, server_kind, *policy_of(pki, "set password-auth allow"), config=[own])
    with node.connect(pki.alice) as alice, node.connect() as plain:
        for connection, refused in ((alice, asks(server_kind)), (plain, False)):
            number = begin(node, connection, STREAMS["BCAST"])
            connection.send("AUTH", "worker", "secret")
            if refused:
                hears(connection, b"send RESET first")
            user = "alice" if refused else "worker"
            wait_until(
                lambda n=number, u=user: (shown(node, n) or {})["user"] == u, f"it is {user}"
            )
