"""The front: who reaches the app, with which certificate, and what attackers cannot do to it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from flask import Flask, Response, jsonify, request

from control.http.bridge import peer_cert
from control.http.protocol import Limits
from control.http.server import THREADS, Listen, Server
from control.http.tls import source_of, tls_context
from tests.kit.tls_client import ROOT, Identity, client_hello, context, has_ipv6, issue

PATIENCE = 20  # Seconds until a test gives up waiting.
HASTY = Limits(
    handshake_seconds=0.5,
    header_seconds=0.5,
    body_seconds=0.5,
    idle_seconds=0.5,
    write_seconds=0.5,
    linger_seconds=0.5,
)
GET = b"GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
INTERMEDIATE = issue("intermediate", ROOT, ca=True)
SHOWN = issue("server", ROOT)
ALICE = issue("alice", INTERMEDIATE)
STRANGERS = {
    "another CA": issue("alice", issue("another root", ca=True)),
    "self-signed": issue("alice"),
    "expired": issue("alice", INTERMEDIATE, until=-1),
    "a CA itself": INTERMEDIATE,
}


@dataclass
class App:
    """A Flask app that shows what the front gave it; `gate` holds requests of /slow."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    bodies: list[bytes] = field(default_factory=list)

    def build(self) -> Flask:
        flask = Flask("front")

        @flask.get("/whoami")
        def whoami() -> Response:
            peer = peer_cert(request.environ)
            seen = {
                "chain": [hashlib.sha256(der).hexdigest() for der in peer.chain] if peer else None,
                "address": request.environ["REMOTE_ADDR"],
                "url": request.url,
                "headers": sorted(name.lower() for name, _ in request.headers),
            }
            response = jsonify(seen)
            response.status_code = 200 if peer is None or peer.leaf == ALICE.der else 401
            return response

        @flask.post("/echo")
        def echo() -> Response:
            self.bodies.append(request.get_data())
            return jsonify(length=len(self.bodies[-1]))

        @flask.route("/slow", methods=["GET", "POST"])
        def slow() -> Response:
            self.entered.set()
            self.gate.wait(PATIENCE)
            return jsonify(done=True)

        @flask.get("/big")
        def big() -> Response:
            return Response(bytes(int(request.args["bytes"])), mimetype="application/octet-stream")

        @flask.get("/bug")
        def bug() -> Response:
            raise KeyError("a secret")

        flask.config["PROPAGATE_EXCEPTIONS"] = True
        return flask


@dataclass
class Site:
    """A running server with its app."""

    server: Server
    app: App
    port: int
    proxy: Path


Start = Callable[..., Site]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    sites: list[Site] = []

    def run(
        host: str = "127.0.0.1", *, proxied: bool = False, limits: Limits | None = None
    ) -> Site:
        app, proxy = App(), tmp_path / "proxy.sock"
        server = Server(
            app.build(),
            Listen(host, 0),
            SHOWN.pem + ROOT.pem,
            SHOWN.key_pem,
            proxy_socket=proxy if proxied else None,
            limits=limits,
        )
        sites.append(Site(server, app, server.start(), proxy))
        return sites[-1]

    yield run
    for site in sites:
        site.app.gate.set()
        site.server.stop(grace=1)


def files(folder: Path, *identities: Identity) -> tuple[str, str]:
    """Writes a chain, and the key of its first certificate, for clients that want files."""
    chain, key = folder / "client.pem", folder / "client.key"
    chain.write_bytes(b"".join(identity.pem for identity in identities))
    key.write_bytes(identities[0].key_pem)
    return str(chain), str(key)


def dial(site: Site, made: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> ssl.SSLSocket:
    plain = socket.create_connection((host, site.port), PATIENCE)
    try:
        return (made or context()).wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def answer(connection: socket.socket) -> tuple[int, http.client.HTTPMessage, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    return response.status, response.headers, body


def ask(site: Site, raw: bytes = GET, made: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    with dial(site, made) as connection:
        connection.sendall(raw)
        status, _, body = answer(connection)
        return status, body


def refused(site: Site, raw: bytes) -> tuple[int, str]:
    """An answer that the front makes: its status and error_code; the connection ends with it."""
    with dial(site) as connection:
        connection.sendall(raw)
        return front_answer(connection)


def front_answer(connection: socket.socket) -> tuple[int, str]:
    status, headers, body = answer(connection)
    error = json.loads(body)
    assert set(error) == {"error_code", "description", "message"}
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert connection.recv(1) == b""
    return status, error["error_code"]


def closed(connection: socket.socket) -> bool:
    """Waits for the server to end the connection without an answer."""
    try:
        return connection.recv(1) == b""
    except (ConnectionError, ssl.SSLEOFError):
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def fingerprint(identity: Identity) -> str:
    return hashlib.sha256(identity.der).hexdigest()


# Who reaches the app.


def test_without_a_certificate_the_app_sees_nobody(start: Start) -> None:
    """No certificate is demanded, and none is invented."""
    status, body = ask(start())
    seen = json.loads(body)
    assert (status, seen["chain"], seen["address"]) == (200, None, "127.0.0.1")
    assert seen["url"].startswith("https://")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_app_sees_the_whole_presented_path(
    start: Start, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The chain is what the client sent, leaf first, byte for byte."""
    made = context(files(tmp_path, ALICE, INTERMEDIATE, ROOT))
    made.maximum_version = version
    status, body = ask(start(), made=made)
    wanted = [fingerprint(one) for one in (ALICE, INTERMEDIATE, ROOT)]
    assert (status, json.loads(body)["chain"]) == (200, wanted)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_reaches_the_app_which_refuses(start: Start, tmp_path: Path, name: str) -> None:
    """Any certificate passes the handshake, so that the refusal is a 401 with a reason."""
    stranger = STRANGERS[name]
    status, body = ask(start(), made=context(files(tmp_path, stranger)))
    assert (status, json.loads(body)["chain"][0]) == (401, fingerprint(stranger))


def test_curl_logs_in_with_its_certificate(start: Start, tmp_path: Path) -> None:
    """The client of the documentation works, its own certificate and the server's checked."""
    site, (chain, key) = start(), files(tmp_path, ALICE, INTERMEDIATE)
    anchor = tmp_path / "root.pem"
    anchor.write_bytes(ROOT.pem)
    url = f"https://127.0.0.1:{site.port}/whoami"
    command = ["curl", "-sS", "--cacert", str(anchor), "--cert", chain, "--key", key, url, url]
    done = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
    wanted = [fingerprint(ALICE), fingerprint(INTERMEDIATE)]
    first, second = done.stdout.decode().splitlines()
    assert json.loads(first)["chain"] == json.loads(second)["chain"] == wanted


def test_a_kept_connection_keeps_its_certificate(start: Start, tmp_path: Path) -> None:
    """Every request of one connection carries the certificate of its handshake."""
    made = context(files(tmp_path, ALICE))
    with dial(start(), made) as connection:
        for _ in range(3):
            connection.sendall(GET)
            _, _, body = answer(connection)
            assert json.loads(body)["chain"] == [fingerprint(ALICE)]


@pytest.mark.parametrize("host", ["127.0.0.1", *(["::1"] if has_ipv6() else [])])
def test_either_address_family_is_served(start: Start, host: str) -> None:
    """A host with a colon listens on IPv6, and the app sees the client's address."""
    with dial(start(host), host=host) as connection:
        connection.sendall(GET)
        assert json.loads(answer(connection)[2])["address"] == host


def test_a_request_arrives_as_it_was_sent(start: Start) -> None:
    """The body, chunked or not, is whole, and headers that a hyphen could forge are dropped."""
    site = start()
    body = bytes(range(256)) * 1024
    assert ask(site, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)[0] == 200
    chunks = b"".join(b"%x\r\n%s\r\n" % (1024, body[i : i + 1024]) for i in range(0, 262144, 1024))
    assert ask(site, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")[0] == 200
    assert site.app.bodies == [body, body]
    _, seen = ask(site, GET[:-2] + b"X-Kept: 1\r\nX_Real_Ip: 6.6.6.6\r\n\r\n")
    assert "x-kept" in json.loads(seen)["headers"]
    assert not {"x-real-ip", "x_real_ip"} & set(json.loads(seen)["headers"])


def test_expect_100_is_answered_before_the_body(start: Start) -> None:
    """A client that asks first is told to go on."""
    with dial(start()) as connection:
        connection.sendall(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"ok")
        assert answer(connection)[2] == b'{"length":2}\n'


@pytest.mark.parametrize("limits", [Limits(), Limits(write_buffer=50_000_000, linger_seconds=0)])
def test_a_large_answer_arrives_whole(start: Start, limits: Limits) -> None:
    """Nothing is lost, whether the answer waits before the write buffer or, at the close, in it."""
    raw = b"GET /big?bytes=30000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert ask(start(limits=limits), raw) == (200, bytes(30_000_000))


def test_a_bug_in_the_app_is_a_500_without_its_text(start: Start) -> None:
    """An exception is logged, and not shown to strangers."""
    site = start()
    status, body = ask(site, b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, json.loads(body)["error_code"]) == (500, "internal_error")
    assert b"secret" not in body
    assert ask(site)[0] == 200


# The server's own certificate, and sessions.


def test_the_next_handshake_shows_a_replaced_certificate(start: Start) -> None:
    """Also on a connection that was accepted before; open ones stay open."""
    site, other = start(), issue("other", ROOT)
    with dial(site) as old, socket.create_connection(("127.0.0.1", site.port), PATIENCE) as early:
        assert old.getpeercert(True) == SHOWN.der
        site.server.replace_certificate(other.pem, other.key_pem)
        with context().wrap_socket(early, server_hostname="127.0.0.1") as late:
            assert late.getpeercert(True) == other.der
        old.sendall(GET)
        assert answer(old)[0] == 200


def test_certificates_are_replaced_under_load_without_a_failure(start: Start) -> None:
    """Requests, fresh and kept alive, all succeed, and each swap is seen by the next handshake."""
    site, pair = start(), [issue("one", ROOT), issue("two", ROOT)]
    statuses: list[int] = []

    def load() -> None:
        with dial(site) as kept:
            for _ in range(15):
                statuses.append(ask(site)[0])
                kept.sendall(GET)
                statuses.append(answer(kept)[0])

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        site.server.replace_certificate(pair[turn % 2].pem, pair[turn % 2].key_pem)
        with dial(site) as probe:
            assert probe.getpeercert(True) == pair[turn % 2].der
    for thread in threads:
        thread.join()
    assert statuses == [200] * 90


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        (b"", SHOWN.key_pem),
        (b"nonsense", SHOWN.key_pem),
        (SHOWN.pem.replace(b"M", b"!"), SHOWN.key_pem),
        (SHOWN.pem, b"nonsense"),
        (SHOWN.pem, ALICE.key_pem),
        (
            SHOWN.pem,
            SHOWN.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            ),
        ),
    ],
    ids=["empty", "no PEM", "broken PEM", "no key", "another's key", "encrypted key"],
)
def test_a_bad_certificate_is_refused_and_the_old_one_stays(
    start: Start, certificate: bytes, key: bytes
) -> None:
    """What cannot be shown is refused at once, with nothing changed."""
    site = start()
    with pytest.raises(ValueError, match="the key must be the certificate's own"):
        site.server.replace_certificate(certificate, key)
    with dial(site) as connection:
        assert connection.getpeercert(True) == SHOWN.der


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_ever_resumed(start: Start, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Each connection proves its certificate again, since a resumed one outlives its expiry."""
    site, made = start(), context(files(tmp_path, ALICE))
    made.minimum_version = made.maximum_version = version
    session: ssl.SSLSession | None = None
    for _ in range(3):
        plain = socket.create_connection(("127.0.0.1", site.port), PATIENCE)
        with made.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
            connection.sendall(GET)
            assert json.loads(answer(connection)[2])["chain"] == [fingerprint(ALICE)]
            assert not connection.session_reused
            session = connection.session
            assert session is not None
            connection.unwrap()  # Without a clean end, TLS 1.2 would not offer it again.


def test_tls_below_1_2_is_refused(start: Start) -> None:
    """The floor holds, whatever the client allows."""
    made = context()
    made.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        made.minimum_version, made.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        dial(start(), made)


# Attacks.


def half_open(site: Site, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", site.port), PATIENCE)
    connection.sendall(sent)
    return connection


def tls_open(site: Site, sent: bytes) -> socket.socket:
    connection = dial(site)
    connection.sendall(sent)
    return connection


SIEGES: dict[str, Callable[[Site], socket.socket]] = {
    "nothing sent": lambda site: half_open(site, b""),
    "half a ClientHello": lambda site: half_open(site, client_hello()[:60]),
    "ClientHello, then silence": lambda site: half_open(site, client_hello()),
    "TLS, then silence": lambda site: tls_open(site, b""),
    "half the headers": lambda site: tls_open(site, GET[:-2]),
    "half the body": lambda site: tls_open(site, POST + b"Content-Length: 9\r\n\r\nhalf"),
    "half a chunk": lambda site: tls_open(
        site, POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"
    ),
}


@pytest.mark.parametrize("name", SIEGES)
def test_fifty_slow_peers_stop_nobody_else(start: Start, name: str) -> None:
    """A peer that sends half of something holds no thread: all others are answered."""
    site = start()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(SIEGES[name](site))
        assert [ask(site)[0] for _ in range(10)] == [200] * 10
    assert site.app.bodies == []


def test_changes_that_wait_keep_nobody_from_reading(start: Start) -> None:
    """As many as there are threads, and more, as where somebody holds a lock on the database."""
    site = start()
    slow = POST.replace(b"/echo", b"/slow") + b"Content-Length: 0\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(tls_open(site, slow))
        assert site.app.entered.wait(PATIENCE)
        assert [ask(site)[0] for _ in range(3)] == [200] * 3
        assert not site.app.gate.is_set()


@pytest.mark.parametrize("name", SIEGES)
def test_a_slow_peer_is_cut_in_time(start: Start, name: str) -> None:
    """Each half-sent thing has its deadline; a request that began is told so."""
    with SIEGES[name](start(limits=HASTY)) as connection:
        if name.startswith("half") and "Hello" not in name:
            assert front_answer(connection) == (408, "request_timeout")
        elif "Hello, then" in name:
            while connection.recv(65536):
                pass
        else:
            assert closed(connection)


@pytest.mark.parametrize("noise", [b"", b"\r\n\r\n"], ids=["silent", "empty lines"])
def test_an_idle_kept_connection_is_closed(start: Start, noise: bytes) -> None:
    """Empty lines between requests, which the parser skips, do not prolong it."""
    with dial(start(limits=HASTY)) as connection:
        connection.sendall(GET)
        assert answer(connection)[0] == 200
        connection.sendall(noise)
        assert closed(connection)


def test_a_reader_that_does_not_read_is_cut(start: Start) -> None:
    """An answer nobody takes is given up, and its place goes to the next."""
    site = start(limits=Limits(connections_per_source=1, write_seconds=0.5))
    with dial(site) as connection:
        connection.sendall(b"GET /big?bytes=50000000 HTTP/1.1\r\nHost: x\r\n\r\n")

        def place_is_free() -> bool:
            with contextlib.suppress(OSError):
                return ask(site)[0] == 200
            return False

        assert eventually(place_is_free)


@pytest.mark.parametrize("limits", [Limits(connections_per_source=3), Limits(connections=3)])
def test_connections_over_a_cap_are_closed_and_leave_room_again(
    start: Start, limits: Limits
) -> None:
    """The fourth is cut before its handshake; when one ends, the next one comes in."""
    site = start(limits=limits)
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(dial(site)) for _ in range(3)]
        with pytest.raises(OSError):  # noqa: PT011, an EOF or a reset.
            dial(site)
        first.close()

        def admitted() -> bool:
            with contextlib.suppress(OSError):
                return ask(site)[0] == 200
            return False

        assert eventually(admitted)


def test_an_ipv6_host_counts_by_its_network() -> None:
    """Anyone who owns a /64 cannot multiply by changing addresses in it; another /64 is another."""
    assert source_of(("2001:db8::1", 1, 0, 0)) == source_of(("2001:db8::ffff:2", 1, 0, 0))
    assert source_of(("2001:db8:0:1::1", 1, 0, 0)) != source_of(("2001:db8::1", 1, 0, 0))
    assert source_of(("fe80::1%eth0", 1, 0, 2)) == "fe80::/64"
    assert source_of(("10.0.0.1", 1)) != source_of(("10.0.0.2", 1))


def test_the_handshake_verifies_no_path() -> None:
    """Forged CAs with giant keys would hold the loop, for a result that nobody looks at."""
    assert tls_context(SHOWN.pem, SHOWN.key_pem).get_verify_depth() == 0


def test_answers_are_not_held_back_by_the_kernel(start: Start) -> None:
    """Without TCP_NODELAY each answer waits 40 ms for the peer's acknowledgement of its headers."""
    site = start()
    with dial(site) as connection:
        connection.sendall(GET)
        assert answer(connection)[0] == 200
        (served,) = site.server._front.connections
        accepted = served.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_body_over_the_cap_is_refused_before_it_is_sent(start: Start) -> None:
    """An announced length is enough; the longest allowed body still arrives."""
    site, cap = start(), Limits().body_bytes
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    assert refused(site, head % (cap + 1)) == (413, "body_too_large")
    assert site.app.bodies == []
    assert ask(site, POST + b"Content-Length: %d\r\n\r\n" % cap + bytes(cap))[0] == 200
    assert [len(body) for body in site.app.bodies] == [cap]


@pytest.mark.parametrize(
    ("size", "count"), [(1, 400_000), (65536, 17)], ids=["tiny chunks", "large chunks"]
)
def test_a_chunked_body_over_the_cap_never_reaches_the_app(
    start: Start, size: int, count: int
) -> None:
    """It is refused whole, never cut to size; chunk framing counts as well."""
    site = start()
    chunks = b"%x\r\n%s\r\n" % (size, bytes(size)) * count
    raw = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    assert refused(site, raw) == (413, "body_too_large")
    assert site.app.bodies == []


def test_a_client_that_sends_on_still_reads_why_it_was_refused(start: Start) -> None:
    """The answer is not overtaken by the reset that unread bytes would cause."""
    site = start(limits=Limits(linger_seconds=PATIENCE))
    raw = POST + b"Content-Length: 30000000\r\n\r\n" + bytes(30_000_000)
    assert refused(site, raw) == (413, "body_too_large")


def test_a_client_that_leaves_mid_body_never_reaches_the_app(start: Start) -> None:
    """Half a body is not a body."""
    site = start()
    with dial(site) as connection:
        connection.sendall(POST + b"Content-Length: 9\r\n\r\nhalf")
    assert ask(site)[0] == 200
    assert site.app.bodies == []


@pytest.mark.parametrize(
    "raw",
    [
        GET[:-2] + b"X-Long: " + bytes([97]) * 65536,
        GET[:-2] + b"X-Long: " + bytes([97]) * 65530 + b"\r\n\r\n",
        GET[:-2] + b"X: y\r\n" * 20000,
        b"GET /" + bytes([97]) * 90000,
        b"\r\n" * 50000,
    ],
    ids=["one endless", "one complete", "many", "URL", "empty lines"],
)
def test_headers_over_the_cap_are_cut_with_an_answer(start: Start, raw: bytes) -> None:
    """64 KiB is the most; just below it is fine."""
    site = start()
    assert refused(site, raw) == (431, "headers_too_large")
    assert ask(site, GET[:-2] + b"X-Long: " + bytes([97]) * 65000 + b"\r\n\r\n")[0] == 200


CHUNKED = b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"\r\n0\r\n\r\n" + GET
MALFORMED = {
    "CL and TE": POST + b"Content-Length: 5\r\n" + CHUNKED + HIDDEN,
    "TE and CL": POST + CHUNKED + b"Content-Length: 5\r\n" + HIDDEN,
    "two CL": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n" + HIDDEN,
    "the same CL twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n" + HIDDEN,
    "CL list": POST + b"Content-Length: 5, 5\r\n" + HIDDEN,
    "CL with a sign": POST + b"Content-Length: +5\r\n" + HIDDEN,
    "CL before blank": POST + b"Content-Length : 5\r\n" + HIDDEN,
    "unknown TE": POST + b"Transfer-Encoding: xchunked\r\n" + HIDDEN,
    "TE not last": POST + b"Transfer-Encoding: chunked, identity\r\n" + HIDDEN,
    "folded header": POST + b"X: y\r\n z\r\nContent-Length: 5\r\n" + HIDDEN,
    "bare CR": POST + b"X: y\rContent-Length: 5\r\n" + HIDDEN,
    "NUL in a header": POST + b"X: \0\r\n" + HIDDEN,
    "bad chunk size": POST + CHUNKED + b"\r\n-1\r\n\r\n",
    "trailer": POST + CHUNKED + b"\r\n0\r\nAuthorization: Basic eDp4\r\n\r\n",
    "no host": GET.replace(b"Host: x\r\n", b""),
    "two hosts": GET[:-2] + b"Host: y\r\n\r\n",
    "bytes in the URL": GET.replace(b"/whoami", b"/\xff"),
    "bytes in the query": GET.replace(b"/whoami", b"/whoami?\xff"),
    "not HTTP": b"HELO\r\n\r\n",
    "HTTP/0.9 by its name": GET.replace(b"1.1", b"0.9"),
    "HTTP/2 by its name": GET.replace(b"1.1", b"2.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_with_two_readings_is_refused(start: Start, name: str) -> None:
    """Whatever a proxy might read in another way is a 400 and ends the connection."""
    site = start()
    assert refused(site, MALFORMED[name]) == (400, "bad_request")
    assert site.app.bodies == []


@pytest.mark.parametrize(
    "raw",
    [
        GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
    ],
    ids=["upgrade", "CONNECT"],
)
def test_no_connection_becomes_another_protocol(start: Start, raw: bytes) -> None:
    """There would be no deadline on it."""
    assert refused(start(), raw) == (501, "not_implemented")


def test_a_pipelining_client_gets_one_answer_and_the_end(start: Start) -> None:
    """Thousands of requests in one packet cost one; a second request is not carried out."""
    site = start()
    post = POST + b"Content-Length: 1\r\n\r\n1"
    with dial(site) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + post * 500)
        assert site.app.entered.wait(PATIENCE)
        site.app.gate.set()
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""
    assert site.app.bodies == []


def test_plain_http_is_told_to_use_https(start: Start) -> None:
    """A person with the wrong URL gets a sentence, not a reset."""
    site = start()
    with half_open(site, GET) as connection:
        assert front_answer(connection) == (400, "https_only")
    assert site.app.bodies == []


# The proxy.


def escaped(identity: Identity) -> bytes:
    return quote(identity.pem.decode()).encode()


SPELLINGS = [b"X-SSL-Client-Escaped-Cert", b"x_ssl_client_escaped_cert"]


@pytest.mark.parametrize("proxied", [False, True], ids=["no proxy", "beside a proxy"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_client_cannot_name_a_certificate_in_a_header(
    start: Start, proxied: bool, name: bytes
) -> None:
    """On the TLS port the proxy's header is worth nothing and is not even shown to the app."""
    raw = GET[:-2] + name + b": " + escaped(ALICE) + b"\r\nX-Real-IP: 6.6.6.6\r\n\r\n"
    status, body = ask(start(proxied=proxied), raw)
    seen = json.loads(body)
    assert (status, seen["chain"], seen["address"]) == (200, None, "127.0.0.1")
    assert not [one for one in seen["headers"] if "cert" in one or "real" in one]


def through(site: Site, *lines: bytes) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(site.proxy))
        connection.sendall(GET[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
        status, _, body = answer(connection)
        return status, body


def test_the_proxy_names_certificate_and_address_on_its_own_socket(start: Start) -> None:
    """What comes over the unix socket is the proxy's word; what it does not say is unknown."""
    site = start(proxied=True)
    certificate = SPELLINGS[0] + b": " + escaped(ALICE)
    seen = json.loads(through(site, certificate, b"X-Real-IP: 10.1.2.3")[1])
    assert (seen["chain"], seen["address"]) == ([fingerprint(ALICE)], "10.1.2.3")
    assert seen["url"].startswith("https://")
    for nothing in ([], [SPELLINGS[0] + b": "]):  # nginx sends no header then, HAProxy an empty one
        seen = json.loads(through(site, *nothing)[1])
        assert (seen["chain"], seen["address"]) == (None, "")
    assert site.proxy.stat().st_mode & 0o777 == 0o660
    site.server.stop()
    assert not site.proxy.exists()


@pytest.mark.parametrize(
    "lines",
    [
        [SPELLINGS[0] + b": nonsense"],
        [SPELLINGS[0] + b": bm9uZQ=="],
        [SPELLINGS[0] + b": \xff"],
        [SPELLINGS[0] + b": " + escaped(ALICE)] * 2,
    ],
    ids=["not PEM", "not DER", "not ASCII", "two"],
)
def test_a_certificate_that_the_proxy_garbles_is_a_400(start: Start, lines: list[bytes]) -> None:
    """It is not taken for a client without one."""
    status, body = through(start(proxied=True), *lines)
    assert (status, json.loads(body)["error_code"]) == (400, "bad_request")


# Start and stop.


def test_a_port_in_use_is_an_error_and_nothing_is_started(start: Start) -> None:
    """Anyone who starts it learns so at once, from the call."""
    taken = start()
    before = threading.active_count()
    other = Server(App().build(), Listen("127.0.0.1", taken.port), SHOWN.pem, SHOWN.key_pem)
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.stop()
    assert threading.active_count() == before
    assert ask(taken)[0] == 200


def test_a_proxy_socket_that_cannot_be_bound_frees_the_port(tmp_path: Path) -> None:
    """Nothing is left listening; a socket left over from a killed server is not an obstacle."""
    occupied = tmp_path / "file"
    occupied.write_text("not a socket")

    def server(port: int, path: Path) -> Server:
        listen = Listen("127.0.0.1", port)
        return Server(App().build(), listen, SHOWN.pem, SHOWN.key_pem, proxy_socket=path)

    with socket.create_server(("127.0.0.1", 0)) as picked:
        port = picked.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        server(port, occupied).start()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    again = server(port, tmp_path / "dead")
    assert again.start() == port
    again.stop()
    assert occupied.read_text() == "not a socket"


def test_stop_completes_the_request_in_flight(start: Start) -> None:
    """New connections are refused at once, idle ones closed, and the last answer still arrives."""
    site = start()
    with dial(site) as idle, dial(site) as busy:
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.app.entered.wait(PATIENCE)
        stopping = threading.Thread(target=site.server.stop, kwargs={"grace": PATIENCE})
        stopping.start()
        assert closed(idle)
        with pytest.raises(OSError):  # noqa: PT011, refused or reset.
            dial(site)
        site.app.gate.set()
        status, headers, body = answer(busy)
        assert (status, headers["connection"]) == (200, "close")
        assert json.loads(body) == {"done": True}
    stopping.join(PATIENCE)
    assert not stopping.is_alive()


def test_stop_does_not_wait_longer_than_its_grace(start: Start) -> None:
    """A request that never ends is cut, and stopping twice is not an error."""
    site = start()
    with dial(site) as busy:
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert site.app.entered.wait(PATIENCE)
        site.server.stop(grace=0.1)
        assert not site.app.gate.is_set()
        assert closed(busy)
    site.server.stop()
