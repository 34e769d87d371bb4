"""On a server: certificates bound by part of their subject, by OID, or by several names."""

from contextlib import ExitStack
from typing import Any

import redis
from cryptography import x509

from tests.kit.certs import CN, OU, O, name
from tests.kit.node import enrolled, load, patch, refused, show, status, turned_away, usual, who
from tests.kit.policies import Start, closed, make_node, pairs, whoami
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, der

OID = "1.3.6.1.4.1.99999.1"
PART = "bind attributes OU=analytics,O=acme reader"
LINES = [
    PART,
    "bind attributes OU=ops,O=acme writer",
    "bind attribute serialNumber=12345 device",
    f"bind extension {OID}=shop/cart cart",
    "bind dns one.acme.com reader",
    "bind dns two.acme.com reader",
    *(f"user {user} on ~* &* +@all" for user in ("reader", "writer", "device", "cart")),
]


def extension(content: bytes) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.UnrecognizedExtension(x509.ObjectIdentifier(OID), content), False)]


def cast(pki: Pki) -> dict[str, tuple[Cert, str]]:
    """Certificates, and the user or the reason of each."""

    def issue(subject: Any, content: bytes | None = None, *names: str) -> Cert:
        more = [] if content is None else extension(content)
        return pki.ca.issue(subject, san=names, extensions=more)

    one = name([(CN, "y"), (O, "acme"), (OU, "analytics")])
    both = [[(O, "acme")], [(OU, "analytics")], [(OU, "ops")]]
    return {
        "of the OU": (issue("CN=x,OU=analytics,O=acme"), "reader"),
        "of the OU, in one RDN": (issue(one), "reader"),
        "of another O": (issue("CN=x,OU=analytics,O=other"), "no_binding"),
        "of two OUs": (issue(name(*both)), "conflict"),
        "a NUL behind the OU": (issue(name(both[0], [(OU, "analytics\0")])), "bad_string"),
        "by serial number": (issue("CN=x,2.5.4.5=12345"), "device"),
        "by another": (issue("CN=x,2.5.4.5=1234"), "no_binding"),
        "by two": (issue("2.5.4.5=1,2.5.4.5=12345"), "ambiguous"),
        "by extension": (issue("CN=x", der(12, b"shop/cart")), "cart"),
        "by extension as it is": (issue("CN=x", b"shop/cart"), "cart"),
        "by another text": (issue("CN=x", b"shop/cartx"), "no_binding"),
        "by no text": (issue("CN=x", b"shop/cart\0"), "bad_string"),
        "by an exact line": (pki.alice, "alice"),
        "two names": (issue("CN=x", None, "dns:one.acme.com", "dns:two.acme.com"), "ambiguous"),
    }


def test_each_kind_and_its_refuse_twin(server_kind: Server, start: Start, pki: Pki) -> None:
    """By a real handshake, and as CERTAUTH.EXPLAIN says; after a restart they are what they were,
    line by line."""
    node = make_node(start, server_kind, *usual(pki), *LINES, pki=pki, trust=[pki.ca])
    everybody = cast(pki)
    for _ in range(2):
        for which, (cert, wanted) in everybody.items():
            found = node.outcome(cert)
            told = node.explain(cert.pem)
            assert wanted in (found.user, found.reason), which
            assert found.reason == told["reason"], which
        before = sorted(show(node.admin)), status(node.admin)["digest"]
        node.server.stop()
        node.server.start()
        assert (sorted(show(node.admin)), status(node.admin)["digest"]) == before
    assert set(LINES) < set(before[0])
    cert, _ = everybody["of another O"]
    trace = node.explain(cert.pem)["trace"]
    assert any("the certificate lacks O=acme" in str(one) for one in trace)


def test_sessions_follow_the_lines(server_kind: Server, start: Start, pki: Pki) -> None:
    """A line that goes takes its sessions, found by what is kept of their certificates: by part of
    a subject, by extension, by several names; and only those."""
    server = enrolled(start, server_kind, pki, "set several-names same", *LINES)
    admin = server.admin()
    everybody = cast(pki)
    lines = {
        "of the OU": [f"-{PART}"],
        "by serial number": ["-bind attribute serialNumber=12345 device"],
        "by extension": [f"-bind extension {OID}=shop/cart cart"],
        "two names": ["-set several-names same"],
    }
    with ExitStack() as stack:
        open_ = {}
        for which in (*lines, "by an exact line"):
            open_[which] = stack.enter_context(server.tls(everybody[which][0]).connect())
            open_[which].command("PING")
        assert whoami(open_["two names"])["user"] == "reader"
        for number, (which, changes) in enumerate(lines.items(), 1):
            patch(admin, number, number + 1, changes)
            assert closed(open_.pop(which)), which
            for other in open_.values():
                assert other.command("PING") == b"PONG"
        assert turned_away(server, everybody["two names"][0]) == "ambiguous"
        assert who(server, pki.alice) == "alice"


def foretell(admin: redis.Redis, changes: list[str]) -> list[dict[str, Any]]:
    """What would become of each session."""
    page = pairs(admin.execute_command("CERTAUTH.SESSIONS", "LINES", *changes))
    return [pairs(one) for one in page["sessions"]]


def test_a_preview_tells_of_them(installed: Server, start: Start, pki: Pki) -> None:
    """What SESSIONS … LINES says of a change is what becomes of it."""
    server = enrolled(start, installed, pki, *LINES)
    admin = server.admin()
    cert, _ = cast(pki)["of the OU"]
    with server.tls(cert).connect() as connection:
        connection.command("PING")
        change = [f"-{PART}", "+bind attributes CN=x,OU=analytics writer"]
        (told,) = [one for one in foretell(admin, change) if one["user"]]
        assert (told["holds"], told["then_user"], told["stays"]) == ("reader", "writer", 0)
        (told,) = [one for one in foretell(admin, change[:1]) if one["user"]]
        assert (told["then"], told["then_reason"]) == ("refuse", "no_binding")
        patch(admin, 1, 2, change)
        assert closed(connection)
        assert who(server, cert) == "writer"


def test_the_33rd_list_of_types_is_refused_by_its_line(
    installed: Server, start: Start, pki: Pki
) -> None:
    """And 10,000 lines of one list are taken; nothing changes by what is refused."""
    server = enrolled(start, installed, pki)
    admin = server.admin()
    many = [f"+bind attributes OU=team{n},O=acme alice" for n in range(10_000)]
    patch(admin, 1, 2, many)
    lists = [f"+bind attributes 1.3.{n}=x alice" for n in range(32)]
    with refused("LINES 1 bad, nothing changed; line 32: the `bind attributes` lines of a policy"):
        patch(admin, 2, 3, lists)
    patch(admin, 2, 3, lists[:31])
    assert who(server, pki.ca.issue("CN=x,OU=team9999,O=acme")) == "alice"
    with refused("LINES 1 bad, nothing changed; line 5: not an object identifier such as"):
        load(admin, 4, [*usual(pki), "bind extension 1.2.x=y alice"])
    assert status(admin)["generation"] == 3
    assert turned_away(server, pki.ca.issue("CN=x,OU=team10000,O=acme")) == "no_binding"
