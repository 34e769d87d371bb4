"""The REST API against hand-made abuse, on SQLite and on PostgreSQL: never a 5xx, never an error of
another shape, never a secret in an answer or in a log. tests/kit/abuse.py has what is sent."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import re
import socket
import ssl
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from control import service
from control.api.openapi import describe
from control.http.server import Listen, Server
from control.records import Role
from control.service import Config
from tests.kit.abuse import (
    ALIKE,
    LITERALS,
    PASSWORD,
    SEGMENTS,
    Canaries,
    Material,
    bodies,
    faults,
    logged,
    resolved,
    token_of,
)
from tests.kit.postgres import Served, postgres
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Pki, root

pytestmark = pytest.mark.timeout(900)  # where everything is sent
KEY = root("CN=uploaded").key_pem.decode()


# `make test` sends one in so many of what there is to send.
STEPS = [24, pytest.param(1, marks=pytest.mark.slow)]


class Target:
    """A control plane in this process with one of everything, and what it may not tell."""

    def __init__(self, api: ControlPlane, pki: Pki, log: io.StringIO) -> None:
        self.api, self.log, self.material = api, log, Material(pki)
        self.document = describe(api.app)
        api.trust(pki.ca)
        api.certificate_user("alice", "CN=alice,OU=eng,O=acme", role="admin")
        api.ok("POST /v1/users", {"name": "root", "password": PASSWORD, "role": "admin"})
        api.ok("POST /v1/roles", {"name": "ops"})
        api.ok("POST /v1/redis_acls", {"name": "get", "acl": "+get ~*"})
        api.database()
        stored = api.store.objects.user_by_login("root")
        assert stored
        self.authorization = token_of(api.store, "root")
        self.canaries = Canaries(
            api.store, key=KEY, hash=stored.passwords[0].hash, token=self.authorization
        )

    def operations(self) -> Iterator[tuple[str, str, Any, Any]]:
        """Method, path, description, and the schema of the body, if it has one."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                content = operation.get("requestBody", {}).get("content", {})
                schema = content.get("application/json", {}).get("schema")
                yield method.upper(), path, operation, schema

    def wrong(self, method: str, path: str, content: bytes | None = None) -> list[str]:
        """What is wrong with the answer to a request of an administrator, whatever it is."""
        # No matter who that is by now: some requests change its password.
        headers = {"Authorization": token_of(self.api.store, "root")}
        if content is not None:
            headers["Content-Type"] = "application/json"
        self.said = response = self.api.client.open(
            path, method=method, data=content, headers=headers
        )
        text = response.get_data().decode("utf-8", "replace")
        return [
            *faults(response.status_code, response.mimetype, text),
            *self.canaries.seen(text, path),
            *self.canaries.seen(str(response.headers), path),
        ]

    def logged(self) -> list[str]:
        """What is wrong with the log since the last time."""
        text = self.log.getvalue()
        self.log.truncate(0)
        return self.canaries.seen(text) + ["a request failed"] * ("a request failed" in text)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[ControlPlane]:
    if kind == "sqlite":
        api = ControlPlane(folder)
        yield api
        api.close()
        return
    with postgres() as server:
        config = Config(folder / "home", database=server.new())
        service.init(config, "acme", *ADMIN, ("localhost",))
        served = Served(config)
        yield served
        served.close()


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki: Pki
) -> Iterator[Target]:
    with database(request.param, tmp_path_factory.mktemp("abuse")) as api, logged() as log:
        yield Target(api, pki, log)


# ---- What finds something ----


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (500, "application/json", '{"error_code": "a", "description": "b", "message": "b"}'),
        (404, "application/json", '{"error_code": "a", "description": "b"}'),
        (404, "application/json", '{"error_code": "a", "description": "b", "message": null}'),
        (404, "text/html", "<h1>Not Found</h1>"),
        (308, "text/html", "<h1>Redirecting</h1>"),
        (200, "application/json", '{"a": Infinity}'),
        (200, "application/json", ""),
    ],
)
def test_what_is_wrong_with_an_answer_is_found(status: int, kind: str, text: str) -> None:
    """Else nothing below could fail."""
    assert faults(status, kind, text)
    assert not faults(200, "application/json", "[]")
    assert not faults(404, kind, '{"error_code": "a", "description": "b", "message": "b"}')


def test_secrets_are_found(target: Target) -> None:
    """In any text: those that were planted, and what looks like one."""
    api, seen = target.api, target.canaries.seen
    stored = api.store.objects.user_by_login("root")
    assert stored
    token, cluster = target.authorization.partition(" ")[2], api.store.settings.cluster()
    for secret in (
        PASSWORD, KEY, KEY.split("\n")[1], cluster.jwt_key, stored.passwords[0].hash, token,
        "$argon2id$v=19$x", "-----BEGIN EC PRIVATE KEY-----",
        'Traceback (most recent call last):\n  File "x.py"',
    ):  # fmt: skip
        assert seen(f"a {secret} b"), secret
    assert not seen(token.rpartition(".")[0] + ".another", "/v1/users/authorize")
    assert not seen("nothing")


# ---- Bodies ----


@pytest.mark.parametrize("step", STEPS)
def test_a_body_with_an_odd_value(target: Target, step: int) -> None:
    """In each field of each body, at any depth; and no body at all."""
    found = []
    for method, path, _, schema in target.operations():
        if schema is None:
            continue
        path = re.sub(r"{\w+}", "x", path.replace("{uid}", "2"))
        for what, text in islice(bodies(schema, target.document, target.material), 0, None, step):
            if wrong := target.wrong(method, path, text.encode("utf-8", "surrogatepass")):
                found.append((method, path, what, wrong))
    assert found == []
    assert target.logged() == []


def test_thousands_of_wrong_things_are_answered_in_a_line(target: Target) -> None:
    """A body of a megabyte had an answer of forty, after seconds in which nobody else had one. Now
    the first of a list is looked at, and an object has a limit."""
    found = []
    for method, path, _, schema in target.operations():
        if schema is None:
            continue
        path = re.sub(r"{\w+}", "x", path.replace("{uid}", "2"))
        fields = ",".join(f'"{number}":0' for number in range(5000))
        many = {"fields": f"{{{fields}}}"}
        for field, inner in resolved(schema, target.document)["properties"].items():
            if inner.get("type") == "array":
                for kind in "{}", "0":
                    many[f"{field} of {kind}"] = f'{{"{field}":[{f"{kind}," * 4000}{kind}]}}'
            elif inner.get("type") == "object":
                many[field] = f'{{"{field}":{{{fields}}}}}'
        for what, text in many.items():
            wrong = target.wrong(method, path, text.encode())
            said = target.said.get_data(as_text=True)
            more = re.search(r"and (\d+) more", said)
            if wrong or len(said) > 2000 or (more and int(more[1]) > 1000):
                found.append((method, path, what, wrong, said[:200]))
    assert found == []


def test_names_are_of_what_looks_like_nothing_else(target: Target) -> None:
    """No letter of another alphabet, no mark, no direction; so no twin of a name either."""
    kinds = {"/v1/users": "auth_method", "/v1/roles": "", "/v1/redis_acls": "acl",
             "/v1/bdbs": "endpoints", "/v1/certauth/profiles": ""}  # fmt: skip
    for path, more in kinds.items():
        for what, name in ALIKE.items():
            if name.isascii() and name.isprintable():
                continue
            body = {"name": name} | ({more: target.material[more]} if more else {})
            assert target.wrong("POST", path, json.dumps(body).encode()) == [], (path, what)
            assert target.said.status_code == 400, (path, what)
            assert target.said.json["error_code"] == "invalid_schema", (path, what)


def test_twins_of_a_subject_are_two_subjects(target: Target) -> None:
    """What is composed and what is not are other bytes in a certificate, and so other users: each
    finds its own, and nobody the other's."""
    api = target.api
    for number, form in enumerate(("NFC", "NFD")):
        subject = "CN=" + unicodedata.normalize(form, "caf\u00e9")
        made = api.certificate_user(f"cafe{number}", subject, role="none")
        assert api.ok(f"GET /v1/users/{made['uid']}")["certificate_subject_line"] == subject


# ---- Addresses ----


def test_an_odd_address(target: Target) -> None:
    """In each part of a path that is a name or a number."""
    found = []
    for method, path, _, schema in target.operations():
        if "{" not in path or "/est/" in path:  # whose errors are sentences: test_est.py
            continue
        content = b"{}" if schema else None
        for odd in SEGMENTS:
            asked = re.sub(r"{\w+}", lambda _, odd=odd: odd, path)
            if wrong := target.wrong(method, asked, content):
                found.append((method, asked[:99], wrong, target.said.get_data()[:99]))
    assert found == []
    assert target.logged() == []


WAITING = ("wait_for_sync=1.0", "wait_for_sync=01")  # as they are asked to


@pytest.mark.parametrize("step", STEPS)
def test_an_odd_query(target: Target, step: int) -> None:
    """In each parameter; said several times; with as many others as the front lets through."""
    found = []
    texts = [quote(text[:4000].encode("utf-8", "surrogatepass")) for text in ALIKE.values()]
    for method, path, operation, schema in target.operations():
        names = [one["name"] for one in operation["parameters"] if one["in"] == "query"]
        path = re.sub(r"{\w+}", "x", path.replace("{uid}", "2"))
        asked = [f"{name}={odd}" for name in names for odd in chain(SEGMENTS, texts)]
        asked += [f"{name}=1&" * 3 + "&".join(f"a{n}" for n in range(9000)) for name in names]
        for one in islice((one for one in asked if one not in WAITING), 0, None, step):
            if wrong := target.wrong(method, f"{path}?{one}", b"{}" if schema else None):
                found.append((method, path, one[:99], wrong))
    assert found == []
    assert target.logged() == []


# ---- Bytes ----


class Site:
    """The application behind the real front."""

    def __init__(self, target: Target, pki: Pki) -> None:
        self.target, chain, key = target, pki.server.pem, pki.server.key_pem
        self.server = Server(target.api.app, Listen("127.0.0.1", 0), chain, key)
        self.port = self.server.start()
        self.context = ssl.create_default_context(cadata=pki.server_ca.pem.decode())

    def ask(self, raw: bytes) -> tuple[http.client.HTTPResponse, str]:
        """The first answer to these bytes."""
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        with self.context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(raw)
            response = http.client.HTTPResponse(connection, method=raw.partition(b" ")[0].decode())
            response.begin()
            return response, response.read().decode()


@pytest.fixture(scope="module")
def site(target: Target, pki: Pki) -> Iterator[Site]:
    # A body of the tests above may have forbidden OPTIONS.
    allowed = b'{"options_method_forbidden": false}'
    assert target.wrong("PUT", "/v1/cluster", allowed) == []
    assert target.said.status_code == 200
    made = Site(target, pki)
    yield made
    made.server.stop()


HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b'{"name":"smuggled"}'
LOGIN = b"Authorization: @\r\n"  # whose token it is, is known later


def get(target: bytes = b"/v1/roles", headers: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"GET %s HTTP/%s\r\n%s%s%s\r\n" % (target, version, HOST, LOGIN, headers)


def post(headers: bytes, body: bytes = SMUGGLED, kind: bytes = JSON) -> bytes:
    return b"POST /v1/roles HTTP/1.1\r\n%s%s%s%s\r\n%s" % (HOST, LOGIN, kind, headers, body)


def sized(body: bytes, headers: bytes = b"", kind: bytes = JSON) -> bytes:
    return post(b"Content-Length: %d\r\n%s" % (len(body), headers), body, kind)


def typed(kind: bytes) -> bytes:
    return sized(SMUGGLED, b"Origin: https://evil.example\r\n", b"Content-Type: %s\r\n" % kind)


def basic(content: bytes) -> bytes:
    return get().replace(b"@", b"Basic " + base64.b64encode(content))


def login(header: bytes) -> bytes:
    return get().replace(b"@", header)


END = b"0\r\n\r\n"
HIDDEN = END + sized(SMUGGLED)  # behind the end of a request, by one reading of it
FORM, PARTS = b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x"
BOMB = gzip.compress(bytes(50_000_000))
# What is sent, and the status of what is answered. Nothing in it may make the role `smuggled`.
RAW: dict[str, tuple[bytes, int]] = {
    "nothing odd": (get(), 200),
    # The request line
    "HTTP/1.0": (get(version=b"1.0"), 200),
    "HTTP/1.2": (get(version=b"1.2"), 400),
    "HTTP/2 by its name": (get(version=b"2.0"), 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "another method": (get().replace(b"GET", b"PROPFIND"), 405),
    "an invented method": (get().replace(b"GET", b"FOO"), 400),
    "TRACE": (get().replace(b"GET", b"TRACE"), 405),
    "OPTIONS": (get().replace(b"GET", b"OPTIONS"), 200),
    "OPTIONS *": (get(b"*").replace(b"GET", b"OPTIONS"), 404),
    "CONNECT": (get(b"localhost:1").replace(b"GET", b"CONNECT"), 501),
    "no path": (get(b"v1/roles"), 400),
    "absolute form": (get(b"https://localhost/v1/roles"), 200),
    "absolute form of another host": (get(b"http://evil.example/v1/roles"), 200),
    "absolute form of no host": (get(b"https:///v1/roles"), 400),
    "two slashes": (get(b"/v1//roles"), 404),
    "two slashes and a host": (get(b"//evil.example/v1/roles"), 404),
    "slashes at the end": (get(b"/v1/roles//"), 404),
    "dots": (get(b"/v1/users/../roles"), 404),
    "dots, encoded": (get(b"/v1/users/%2e%2e/roles"), 404),
    "backslash": (get(b"/v1\\roles"), 404),
    "parameters of a path": (get(b"/v1/roles;a=b"), 404),
    "upper case": (get(b"/V1/ROLES"), 404),
    "NUL": (get(b"/v1/roles\0"), 400),
    "NUL, encoded": (get(b"/v1/roles/%00"), 400),
    "lines, encoded": (get(b"/v1/roles/%0d%0aX:y"), 404),
    "a long path": (get(b"/" + b"a" * 60_000), 404),
    "a deep path": (get(b"/" + b"a/" * 30_000), 404),
    "a path out of all": (get(b"/" + b"../" * 20_000 + b"v1/roles"), 404),
    "a query said twice": (get(b"/v1/logs?limit=1&limit=x"), 400),
    "a query of nothing": (get(b"/v1/roles?&=&&;;===%zz"), 400),
    "a method in the query": (get(b"/v1/roles/8?_method=DELETE"), 400),
    "tabs": (get().replace(b" ", b"\t", 2), 400),
    "no carriage returns": (get().replace(b"\r\n", b"\n"), 400),
    "no line feeds": (get().replace(b"\r\n", b"\r"), 400),
    # Headers
    "blank before a colon": (get(headers=b"X : y\r\n"), 400),
    "blank before a name": (get(headers=b" X: y\r\n"), 400),
    "no colon": (get(headers=b"X\r\n"), 400),
    "no name": (get(headers=b": y\r\n"), 400),
    "folded": (get(headers=b"X: y\r\n z\r\n"), 400),
    "NUL in a name": (get(headers=b"X\0: y\r\n"), 400),
    "NUL in a value": (get(headers=b"X: \0\r\n"), 400),
    "bytes in a name": (get(headers=b"\xff: y\r\n"), 400),
    "bytes in a value": (get(headers=b"X: \xff\xfe\r\n"), 200),
    "five thousand headers": (get(headers=b"".join(b"X%d:y\r\n" % n for n in range(5000))), 200),
    "no host": (get().replace(HOST, b""), 400),
    "an odd host": (get().replace(b"localhost", b"a b/../@x:99999999"), 200),
    "half an address as host": (get().replace(b"localhost", b"[::1"), 200),
    "bytes as host": (get().replace(b"localhost", b"\xff\xfe"), 200),
    "a proxy's headers": (get(headers=b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1\r\n"), 200),
    "another method, by a header": (sized(b"{}", b"X-HTTP-Method-Override: DELETE\r\n"), 400),
    "an upgrade": (get(headers=b"Connection: upgrade\r\nUpgrade: h2c\r\n"), 501),
    "a range": (get(headers=b"Range: bytes=0-0\r\nIf-None-Match: *\r\n"), 200),
    "cookies": (get(headers=b"Cookie: session=\xff; " + b"a=b; " * 9000 + b"\r\n"), 200),
    # Logins
    "two logins": (get(headers=b"Authorization: Basic eDp4\r\n"), 401),
    "no login": (get().replace(LOGIN, b""), 401),
    "Basic alone": (login(b"Basic"), 401),
    "Basic of bytes": (login(b"Basic \xff\xff"), 401),
    "Basic of no base64": (login(b"Basic !!!"), 401),
    "Basic of NUL": (basic(b"a\0b:c\0d"), 401),
    "Basic of a lone surrogate": (basic("\ud800:\udc00".encode("utf-8", "surrogatepass")), 401),
    "Basic of no colon": (basic(b"root"), 401),
    "a long Basic": (basic(b"a" * 20_000 + b":" + b"b" * 20_000), 401),
    "Digest": (login(b'Digest username="x", realm="\xff", nonce='), 401),
    "a token of no algorithm": (login(b"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."), 401),
    "a token of bytes": (login(b"JWT \xff.\xff.\xff"), 401),
    "a long token": (login(b"JWT " + b"A" * 60_000), 401),
    # Bodies
    "length and chunks": (post(b"Content-Length: 5\r\n" + CHUNKED, HIDDEN), 400),
    "chunks and length": (post(CHUNKED + b"Content-Length: 5\r\n", HIDDEN), 400),
    "two lengths": (post(b"Content-Length: 19\r\nContent-Length: 0\r\n"), 400),
    "a length below nothing": (post(b"Content-Length: -1\r\n"), 400),
    "a hexadecimal length": (post(b"Content-Length: 0x13\r\n"), 400),
    "a length of 2^63": (post(b"Content-Length: 9223372036854775808\r\n"), 413),
    "a length of 2^64": (post(b"Content-Length: 18446744073709551616\r\n"), 400),
    "a length of many digits": (post(b"Content-Length: " + b"9" * 5000 + b"\r\n"), 400),
    "a raised length": (post("Content-Length: \u00b9\u2079\r\n".encode()), 400),
    "an empty length": (post(b"Content-Length:\r\n"), 400),
    "a length in two": (post(b"Content-Length: 1 9\r\n"), 400),
    "chunked twice": (post(CHUNKED + CHUNKED, END), 400),
    "chunked after a tab": (post(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    "chunked, compressed": (post(b"Transfer-Encoding: gzip, chunked\r\n", END), 400),
    "not encoded": (post(b"Transfer-Encoding: identity\r\n"), 400),
    "a chunk of 0x": (post(CHUNKED, b"0x13\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"), 400),
    "a chunk of a blank": (post(CHUNKED, b" 13\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"), 400),
    "a chunk below nothing": (post(CHUNKED, b"-13\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"), 400),
    "a chunk beyond 2^64": (post(CHUNKED, b"f" * 17 + b"\r\n"), 400),
    "chunks without a line's end": (post(CHUNKED, b"13\r\n" + SMUGGLED + b"0\r\n\r\n"), 400),
    "chunks with bare line feeds": (post(CHUNKED, b"13\n" + SMUGGLED + b"\n0\n\n"), 400),
    "a trailer": (post(CHUNKED, b"13\r\n" + SMUGGLED + b"\r\n0\r\nX: y\r\n\r\n"), 400),
    "200,000 chunks": (post(CHUNKED, b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"), 400),
    "compressed": (sized(gzip.compress(SMUGGLED), b"Content-Encoding: gzip\r\n"), 400),
    "a bomb": (sized(BOMB, b"Content-Encoding: gzip\r\n"), 400),
    "UTF-16": (sized(SMUGGLED.decode().encode("utf-16")), 400),
    "UTF-32": (sized(SMUGGLED.decode().encode("utf-32")), 400),
    "Latin-1": (sized(b'{"name":"\xe9"}'), 400),
    "overlong UTF-8": (sized(b'{"name":"\xc0\x80"}'), 400),
    "no type": (sized(SMUGGLED, kind=b""), 400),
    # A page of another site can have a browser send these three, with its certificate.
    "text": (typed(b"text/plain"), 400),
    "a form": (typed(FORM), 400),
    "parts": (typed(PARTS), 400),
    "two types": (sized(SMUGGLED, kind=JSON + b"Content-Type: text/plain\r\n"), 400),
    "two types in one": (typed(b"text/plain, application/json"), 400),
    # No HTTP at all
    "zeros": (bytes(100), 400),
    "TLS in TLS": (b"\x16\x03\x01\x02\x00\x01" + bytes(200), 400),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_odd_bytes(site: Site, name: str) -> None:
    """What is answered is said; a redirect is never, nor a second answer taken for the first."""
    raw, status = RAW[name]
    target = site.target
    token = token_of(target.api.store, "root").encode()
    response, text = site.ask(raw.replace(b"@", token))
    assert response.status == status, text
    assert "Location" not in response.headers
    assert "Access-Control-Allow-Origin" not in response.headers
    kind = response.headers.get_content_type() if text else ""
    assert faults(status, kind, text) == [] or status == 501
    assert target.canaries.seen(text + str(response.headers)) == []
    assert target.logged() == []
    assert "smuggled" not in roles(target)


def roles(target: Target) -> set[str]:
    return {one.name for one in target.api.store.objects.all(Role)}


def test_who_does_not_wait_for_the_answer_is_answered_once(site: Site) -> None:
    """A hundred requests in one packet, the first of them being a change: what is behind it is not
    carried out."""
    token = token_of(site.target.api.store, "root").encode()
    raw = (sized(b'{"name":"first"}') + sized(SMUGGLED) * 99).replace(b"@", token)
    response, _ = site.ask(raw)
    assert (response.status, response.headers["Connection"]) == (200, "close")
    assert "first" in roles(site.target)
    assert "smuggled" not in roles(site.target)


def test_literals_are_what_they_say() -> None:
    """Those that are JSON are read, the others are not: numbers beyond a float among them."""
    readable = {name for name, text in LITERALS.items() if parses(text)}
    assert {
        "2^64",
        "beyond a float",
        "minus zero",
        "text: lone surrogate",
        "not as deep",
    } <= readable
    assert {"deep lists", "10,000 digits", "octal", "comment", "no end"}.isdisjoint(readable)


def parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
