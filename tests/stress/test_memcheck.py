"""valgrind's memcheck over a server that does all that the module does: nothing is read that was
never written, nothing beside or after its memory, and no memory is lost."""

import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest
import redis

from tests.kit.node import authority, bind, bootstrap
from tests.kit.policies import (
    BIND_ALICE,
    CLOSED,
    HANDSHAKE,
    LOGIN,
    OPERATOR,
    USER_BOB,
    Handshake,
    Node,
    Start,
    closed,
    leave,
    policy_of,
    refuse,
    table,
    table_node,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import MODULE, RedisServer, days, root, wait_until

WATCH = ("valgrind", "--quiet", "--leak-check=full", "--track-origins=yes", "--num-callers=60")
WATCH += ("--xml=yes", "--xml-file=memcheck.%p")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the server is some thirty times slower
    pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind here: make setup-all"),
    pytest.mark.skipif("CERTAUTH_BUILD" in os.environ, reason="valgrind cannot run ASan's builds"),
]


def watched(kind: Server) -> Server:
    return Server(kind.name, kind.version, (*WATCH, *kind.argv))


def found(server: RedisServer) -> list[str]:
    """What memcheck told of each process of a server that has ended, with the stacks. Of anybody's
    code: what we lose may be libcrypto's or the server's, and they lose nothing by themselves."""
    files = sorted(server.directory.glob("memcheck.*"))
    assert files
    errors = [error for file in files for error in ElementTree.parse(file).iter("error")]
    return [told(error) for error in errors if not harmless(error)]


def harmless(error: ElementTree.Element) -> bool:
    """The server keeps pointers into the middle of its strings, which is what "possibly lost"
    means. memmove may overlap: glibc has it and memcpy at one address, so valgrind mistakes it."""
    functions = [frame.findtext("fn") for frame in error.iterfind("stack[1]/frame")]
    kind = error.findtext("kind")
    return kind == "Leak_PossiblyLost" or (kind == "Overlap" and functions[1] == "memmove")


def told(error: ElementTree.Element) -> str:
    lines = [f"{error.findtext('kind')}"]
    for part in error:
        if part.tag in ("what", "auxwhat"):
            lines.append(part.text or "")
        if part.tag == "xwhat":
            lines.append(part.findtext("text") or "")
        for frame in part.iter("frame") if part.tag == "stack" else ():
            place = Path(frame.findtext("obj") or "?").name
            lines.append(f"  {place} {frame.findtext('fn')} line {frame.findtext('line')}")
    return "\n".join(lines)


# ---- What a server goes through ------------------------------------------------------------------


def every_decision(node: Node) -> None:
    """Each certificate of the table comes, and is explained."""
    for case in table().cases:
        assert node.outcome(case.cert) == case.expected, case.name
        node.explain(case.cert.presented or case.cert.pem, "127.0.0.1")
    for times in ({"not_after": days(-0.5)}, {"not_before": days(1)}):
        late = node.server.pki.ca.issue("CN=alice", **times)
        assert node.outcome(late) == HANDSHAKE
        assert node.explain(late.pem)["decision"] == "refuse"
    for text in (b"", b"x", node.server.pki.alice.der[:-1]):
        with pytest.raises(redis.ResponseError):
            node.explain(text)


def resumed(node: Node) -> None:
    """A session comes back, and is refused once it is revoked."""
    cert = table().pki.ca.issue("CN=alice")
    for version in ("TLSv1_2", "TLSv1_3"):
        line = f"revoke cert {cert.fingerprint}"
        peer = node.server.tls(cert, version)
        with peer.connect() as first:
            assert whoami(first)["user"] == "alice"
            session = first.session
        assert node.outcome(peer=peer, session=session) == LOGIN
        node.patch(f"+{line}")
        assert node.outcome(peer=peer, session=session) == refuse("revoked")
        node.patch(f"-{line}")


def half_a_handshake(node: Node) -> None:
    """Clients that go within it, bring no TLS, or send commands with its last message."""
    for cert in (table().pki.alice, None):
        shake = Handshake(node.server.tls(cert))
        shake.begin()
        shake.close()
        shake = Handshake(node.server.tls(cert))
        shake.finish(b"PING\r\nRESET\r\nAUTH default x\r\nCERTAUTH.LOGIN\r\n")
        shake.close()
    with socket.create_connection(("127.0.0.1", node.server.port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert plain.recv(100) == b""
    with suppress(*CLOSED), node.server.tls(root("CN=alice").issue("CN=alice")).connect() as other:
        other.read()


def new_policy(node: Node) -> None:
    """Another policy, in which bob has a choice; sessions of the old one end with it."""
    pki = node.server.pki
    with node.connect(pki.ca.issue("CN=alice")) as old:
        assert whoami(old)["user"] == "alice"
        chooser = f"bind key {pki.bob.key_id} alice bob session=1h"
        reply = node.load(policy_of(pki, USER_BOB, chooser), "EPOCH", "1")
        assert reply["closed"] == 1
        assert closed(old)
    assert node.outcome(pki.alice) == LOGIN


def users_change(node: Node) -> None:
    """AUTH, HELLO, RESET, CERTAUTH.LOGIN and WHOAMI, allowed and not."""
    pki = node.server.pki
    with node.connect(pki.bob) as bob, node.connect(pki.alice) as alice, node.connect() as plain:
        for word in ("bob", "alice", "bob"):
            assert bob.command("CERTAUTH.LOGIN", word) == b"OK"
            assert whoami(bob)["user"] == word
        assert bob.command("RESET") == b"RESET"
        assert bob.command("CERTAUTH.LOGIN", "alice") == b"OK"
        for one in (alice, plain):
            for words in ("CERTAUTH.LOGIN nobody", "AUTH alice x", "HELLO 3 AUTH alice x"):
                with pytest.raises(redis.ResponseError):
                    one.command(*words.split())
        assert whoami(plain)["reason"] == "no_certificate"
        assert whoami(alice)["user"] == "alice"
    with node.connect(pki.alice) as alice, suppress(redis.ResponseError, *CLOSED):
        alice.command("AUTH", OPERATOR, OPERATOR)  # which her certificate is not
        assert closed(alice)
    assert node.outcome() == leave("no_certificate")
    node.patch("+set plain refuse")
    assert node.outcome() == refuse("no_certificate")
    with pytest.raises(redis.ConnectionError):
        node.server.plain_client().ping()
    node.patch("-set plain refuse")


def revocations(node: Node) -> None:
    """Each way to lose a user closes the session, and the user comes back."""
    pki = node.server.pki
    serial = f"serial {pki.ca.key_id} {pki.alice.serial}"
    for line in (serial, f"cert {pki.alice.fingerprint}", f"key {pki.alice.key_id}"):
        with node.connect(pki.alice) as alice:
            assert whoami(alice)["user"] == "alice"
            assert node.patch(f"+revoke {line}")["closed"] == 1
            assert closed(alice)
        assert node.outcome(pki.alice) == refuse("revoked")
        node.patch(f"-revoke {line}")
    user, flipped = "user alice on ~* &* +@all", {"+": "-", "-": "+"}
    others = {BIND_ALICE: f"{BIND_ALICE} session=1s", user: user.replace(" on ", " off ")}
    for line, other in others.items():
        for changes in ([f"-{line}"], [f"-{line}", f"+{other}"]):
            with node.connect(pki.alice) as alice:
                assert whoami(alice)["user"] == "alice"
                node.patch(*changes)
                assert closed(alice)
            node.patch(*(flipped[one[0]] + one[1:] for one in changes))
    short = pki.ca.issue("CN=alice,OU=eng,O=acme", not_after=days(3 / 86400))
    with suppress(*CLOSED), node.connect(short) as ends:
        assert whoami(ends)["user"] == "alice"
        assert closed(ends)


def patterns(node: Node) -> None:
    """Users that are there while they have sessions."""
    line = "pattern uri spiffe://acme/ns/{ns}/sa/{sa} app:{ns}:{sa} on ~{ns}:{sa}:* +@read"
    node.patch(f"+{line}")
    cart = node.server.pki.ca.issue("CN=x", san=["uri:spiffe://acme/ns/shop/sa/cart"])
    odd = node.server.pki.ca.issue("CN=x", san=["uri:spiffe://acme/ns/shop/sa/*"])
    for _ in range(2):
        with node.connect(cart) as one, node.connect(cart) as two:
            assert whoami(one)["user"] == whoami(two)["user"] == "app:shop:cart"
        wait_until(lambda: "app:shop:cart" not in node.admin.acl_users(), "its user goes")
    assert node.outcome(odd) == refuse("no_binding")
    with node.connect(cart) as one:
        assert whoami(one)["user"] == "app:shop:cart"
        node.patch(f"-{line}", f"+{line} +@write")
        assert node.patch(f"-{line} +@write")["closed"] == 1
        assert closed(one)


def refused_writes(node: Node) -> None:
    """Calls and lines of every wrong kind change nothing."""
    now = node.generation
    for words in (
        "LOAD x LINES", f"LOAD {now} LINES", f"LOAD {now + 1} EPOCH 0 LINES",
        f"PATCH 1 {now + 1} LINES",
        f"PATCH {now} {now + 1} DIGEST {'0' * 64} LINES", "SHOW COUNT x",
        "COMMIT nothing 1 LOAD 99", "SHOW CURSOR 12345", "NOSUCH", "STAGE s LINES", "",
    ):  # fmt: skip
        with pytest.raises(redis.ResponseError):
            node.write(*words.split())
    bad = [
        "user", "bind cn", "bind cn x", "ca AAAA", "revoke key 12", "set enforce maybe", "\0",
        "user x on +@nosuch", "pattern uri a{b}c d{e} on", "x" * 5000,
    ]  # fmt: skip
    for line in bad:
        with pytest.raises(redis.ResponseError):
            node.write("PATCH", now, now + 1, "LINES", f"+{line}")
    with pytest.raises(redis.ResponseError):
        node.write("STAGE", "s", "LINES", *bad)
    with node.admin.pipeline(transaction=True) as several:
        several.execute_command("CERTAUTH.POLICY", "LOAD", now + 1, "LINES")
        with pytest.raises(redis.ResponseError):
            several.execute()
    assert node.write("STATUS")["generation"] == now


def everything_read(node: Node) -> None:
    """What shows policy, sessions and events, whole and by pages."""
    pki = node.server.pki
    with node.connect(pki.alice), node.connect(pki.bob), node.connect():
        cursor = "0"
        for _ in range(3):
            cursor = node.call("CERTAUTH.POLICY", "SHOW", "COUNT", 2, "CURSOR", cursor)[0]
        assert node.call("CERTAUTH.POLICY", "SHOW", "MATCH", "*bind*a?i*")[1]
        node.call("CERTAUTH.SESSIONS")
        node.call("CERTAUTH.SESSIONS", "USER", "alice", "COUNT", 1, "LINES", f"-{BIND_ALICE}")
        node.call("CERTAUTH.SESSIONS", "LINES", "-set enforce on", "+set enforce off")
        assert node.call("CERTAUTH.LOG", "COUNT", 3)
        node.call("CERTAUTH.LOG", "SINCE", 20)
    for mode in ("shadow", "off", "on"):
        before = [line for line in node.call("CERTAUTH.POLICY", "SHOW")[1] if "enforce" in line]
        node.patch(*[f"-{line}" for line in before], f"+set enforce {mode}")
        with node.connect(pki.alice) as one:
            assert whoami(one)["user"] in ("alice", "default")
    node.admin.info("everything")
    with suppress(redis.ResponseError):
        node.call("ACL", "LOAD")


def managed_trust(node: Node) -> None:
    """A CA comes into the handshake with its line and goes with it."""
    node.admin.config_set("tls-ca-cert-dir", str(node.server.directory / "certauth" / "ca"))
    other = root("CN=Other CA,O=acme")
    between = other.authority("CN=Between,O=acme")
    carol = between.issue("CN=carol")
    lines = [authority(between), authority(other, "anchor"), bind(carol, "alice")]
    node.patch(*(f"+{line}" for line in lines))
    assert node.write("STATUS")["trust"] == "managed"
    assert node.outcome(carol) == LOGIN
    node.patch(*(f"-{line}" for line in lines))
    assert node.outcome(carol) == HANDSHAKE


def many_lines(node: Node) -> None:
    """Staged lines that come and go again, until the journal is worth to be written again."""
    lines = [f"bind cn device-{number} alice" for number in range(600)]
    sizes = []
    for sign in "+-+-":
        changes = [sign + line for line in lines]
        node.call("CERTAUTH.POLICY", "STAGE", "dropped", "LINES", changes[0])
        for part in (["OF", "600", "LINES", *changes[:400]], ["LINES", *changes[400:]]):
            node.call("CERTAUTH.POLICY", "STAGE", "s", *part)
        now = node.generation
        node.write("COMMIT", "s", 600, "PATCH", now, now + 1)
        node.generation += 1
        sizes.append(journal_of(node).stat().st_size)
    assert sizes != sorted(sizes)
    people = [f"user device-{number} on ~{number}:* +get" for number in range(40)]
    node.patch(*(f"+{line}" for line in people))
    node.call("ACL", "DELUSER", "device-7")
    node.call("ACL", "SETUSER", "device-8", "+@all")
    node.patch(*(f"-{line}" for line in people))


def stays(node: Node) -> None:
    """It is neither unloaded nor loaded twice."""
    for words in ("UNLOAD certauth", f"LOAD {MODULE} journal other"):
        with pytest.raises(redis.RedisError):
            node.call("MODULE", *words.split())


def journal_of(node: Node) -> Path:
    return node.server.directory / "certauth" / "policy"


def starts_again(node: Node) -> None:
    """On its journal, with a torn record and a damaged one."""
    server, pki = node.server, node.server.pki
    for added in (b"", b"torn"):
        assert server.stop(60) == 0
        with open(journal_of(node), "ab") as file:
            file.write(added)
        server.start()
        assert node.outcome(pki.alice) == LOGIN
        assert ("dropped" in server.log) == bool(added)
    assert server.stop(60) == 0
    good = journal_of(node).read_bytes()
    journal_of(node).write_bytes(good.replace(b"alice", b"mallo", 1))
    server.start()
    assert node.outcome(pki.alice) == refuse("no_journal")
    assert server.stop(60) == 0
    journal_of(node).write_bytes(good)
    server.start()
    node.load([], "OWNER", "memcheck")  # gives the node back
    assert node.outcome(pki.alice).action == "leave"


LIFE = (
    every_decision, resumed, half_a_handshake, new_policy, users_change, revocations, patterns,
    refused_writes, everything_read, managed_trust, many_lines, stays, starts_again,
)  # fmt: skip


def test_a_life_is_clean(installed: Server, start: Start, tmp_path: Path) -> None:
    """No error and no lost memory, in the server, in the module and in what they call."""
    ops = table().pki.ca.issue("CN=ops")
    lines = [authority(table().pki.ca), bind(ops, "ops"), "user ops on +@all", "limit -flushall"]
    node = table_node(
        start, watched(installed), plain=True, config=["enable-module-command local"],
        module=bootstrap(tmp_path, *lines)[2:],
    )  # fmt: skip
    for step in LIFE:
        step(node)
    assert node.counters()["api_certificates"] == 0
    assert node.server.stop(60) == 0
    errors = found(node.server)
    assert not errors, "\n\n".join(errors)


def test_a_load_that_fails_leaves_nothing(installed: Server, start: Start) -> None:
    """Nor does a second one that succeeds."""
    server = start(watched(installed), config=["enable-module-command local"])
    admin = server.admin()
    for words in ("journal", "journal j bootstrap /nowhere", "what"):
        with pytest.raises(redis.ResponseError):
            admin.execute_command("MODULE", "LOAD", str(MODULE), *words.split())
    assert admin.execute_command("MODULE", "LOAD", str(MODULE), "journal", "j")
    assert server.stop(60) == 0
    errors = found(server)
    assert not errors, "\n\n".join(errors)
