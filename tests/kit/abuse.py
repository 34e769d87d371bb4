"""What is sent to the REST API by those who mean harm, and what must not come of it."""

import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from control.domain import tokens
from control.pki import crl
from control.pki.request import new_request
from control.store import Store
from tests.kit import crls
from tests.kit.support import Pki

# ---- What is sent --------------------------------------------------------------------------------

ALIKE = {
    "empty": "",
    "blank": " ",
    "NUL": "a\0b",
    "lone surrogate": "a\ud800",
    "surrogates the wrong way round": "\udc00\ud800",
    "right to left": "\u202enimda",
    "zero width": "ad\u200bmin",
    "byte order mark": "\ufeffadmin",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "homoglyph": "\u0430dmin",
    "dotless": "adm\u0131n",
    "noncharacter": "\uffff\U0010ffff",
    "many marks": "a" + "\u0301" * 5000,
    "lines": "a\r\nSet-Cookie: b\n\x1b[2J\u2028\u0085",
    "path": "../../../../etc/passwd",
    "long": "a" * 300_000,
    "SQL": "'; DROP TABLE users; --",
    "percent": "%00%s%n{0}{{7*7}}${jndi:x}",
    "line of a policy": 'x" on nopass ~* +@all',
    "names with commas": "CN=a,OU=b+CN=c\\",
    "number": "1e400",
    "time": "9999-12-31T23:59:59+00:00",
    "other digits": "\u0661\u0662\u00b2",
}
# Read as written, so that there are also those that Python's own writer would not make.
LITERALS = {
    "minus zero": "-0",
    "negative": "-1",
    "2^31": str(2**31),
    "2^53": str(2**53 + 1),
    "2^63": str(2**63),
    "2^64": str(2**64),
    "10,000 digits": "9" * 10_000,
    "beyond a float": "1e400",
    "beyond a float, below": "-1e400",
    "close to nothing": "1e-400",
    "whole float": "1.0",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "octal": "010",
    "hexadecimal": "0x10",
    "true": "true",
    "null": "null",
    "list": "[]",
    "object": "{}",
    "list of lists": "[[[]]]",
    "list of nulls": "[null]",
    "long list": "[" + ",".join(["1"] * 20_000) + "]",
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "not as deep": "[" * 200 + "]" * 200,
    "field twice": '{"name":"a","name":"b"}',
    "prototype": '{"__proto__":{"a":1},"__class__":{}}',
    "no end": '"',
    "half an escape": r'"\u12"',
    "comment": "1/**/",
    **{f"text: {name}": json.dumps(text) for name, text in ALIKE.items()},
}
# In a path or a query, percent-encoded or not.
SEGMENTS = [
    "0", "-1", "+1", "1.0", "01", "1e3", "0x1", "2147483648", "9223372036854775808", "9" * 400,
    "%00", "1%00", "%2e%2e", "..", ".", "%2f", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..%5cx",
    "1;a=b", "1%3b", "%ff%fe", "%ed%a0%80", "%c0%ae", "%u0041", "%", "%zz", "%25%30%30", "a" * 8000,
    "%e2%80%aenimda", "%0d%0aSet-Cookie:%20a=b", "*", "{uid}", "%7b%7d", "1?", "1%23", "nan",
    "%d9%a1", "%20", "true", "null", "[]", "a%20OR%201=1", "127.0.0.1:6380", "\u0661",
]  # fmt: skip


class Material:
    """Valid values, by the field that takes them: without them no fuzzer comes past the parser."""

    def __init__(self, pki: Pki) -> None:
        numbers = count(1)

        def name() -> str:
            return f"n{next(numbers)}"

        trusted = pki.ca.pem.decode()

        def endpoints() -> list[dict[str, Any]]:
            return [{"addr": ["127.0.0.1"], "port": next(numbers) % 1000 + 1}]

        self.fields: dict[str, Any] = {
            "name": name,
            "email": lambda: f"{name()}@example.com",
            "certificate": pki.alice.presented.decode(),
            "client_cert": trusted,
            "tls_server_ca": pki.server_ca.pem.decode(),
            "authorities": trusted,
            "csr": new_request("ec").certificate,
            "crl": crl.pem(crls.crl(pki.ca, pki.bob)).decode(),
            "cert": pki.bob.fingerprint,
            "kind": "dns",
            "template": "{id}.iot.acme.com",
            "key": pki.bob.key_id,
            "ca": pki.ca.key_id,
            "bdb_uid": 1,
            "node": "127.0.0.1:6379",
            "id": 1,
            "serial": pki.bob.serial,
            "auth_method": "certificate",
            "certificate_subject_line": lambda: f"CN={name()},O=acme",
            "acl": "+get ~*",
            "subject": "CN={name},O=acme",
            "sans": ["dns:{name}.example.com"],
            "new_password": lambda: f"{PASSWORD} {name()}",
            "user": "alice",
            "username": "root",
            "user_uid": 2,
            "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 1}],
            "authentication_ssl_client_certs": [{"client_cert": trusted}],
            "old_password": PASSWORD,
            "password": PASSWORD,
            "endpoints": endpoints,
            "port": 1,
            "CN": "alice",
            "role_uid": 1,
            "role_uids": [1],
            "uids": ["1"],
            "type": "db",
            "redis_acl_uid": 1,
            "method": "POST",
            "path": "/v1/roles",
            "url": "https://localhost/list.crl",
            "certificates": [{"name": "mtls_trusted_ca", "certificate": trusted}],
            "bdb": lambda: {"name": name(), "endpoints": endpoints()},
            "users": lambda: [{"name": name(), "password": PASSWORD, "role": "none"}],
            "audiences": ["redis"],
            "identity": "uri:spiffe://acme/{sub}",
            "location": "https://localhost/bundle",
            "token": "a.b.c",
            "audit_protocol": "TCP",
            "audit_address": "127.0.0.1",
            "audit_port": 601,
            "changes": lambda: [{"method": "POST", "path": "/v1/roles", "body": {"name": name()}}],
        }

    def __getitem__(self, field: str) -> Any:
        found = self.fields[field]
        return found() if callable(found) else found


def bodies(
    schema: Mapping[str, Any], document: Mapping[str, Any], material: Material
) -> Iterator[tuple[str, str]]:
    """JSON texts that are good but for one field, at any depth, which holds each of LITERALS; and
    the literals by themselves. Each with what is odd about it."""
    yield from LITERALS.items()
    yield from _spoilt(schema, document, material, LITERALS)


def _spoilt(
    schema: Mapping[str, Any],
    document: Mapping[str, Any],
    material: Material,
    literals: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    part = resolved(schema, document)
    whole = choices(schema.get("$ref", "").rpartition("/")[2], part)[0]
    for field, inner in part.get("properties", {}).items():
        few = literals if "description" not in inner else {"null": "null"}  # it is ignored
        odd = dict(few)
        below = resolved(inner.get("items", inner), document)
        if "properties" in below:
            for name, text in _spoilt(inner.get("items", inner), document, material, literals):
                odd[name] = f"[{text}]" if "items" in inner else text
        elif "items" in inner:
            odd |= {f"{name}, listed": f"[{text}]" for name, text in few.items()}
        for name, text in odd.items():
            rest = {one: json.dumps(material[one]) for one in whole if one != field}
            fields = {**rest, field: text}
            content = ",".join(f"{json.dumps(one)}:{value}" for one, value in fields.items())
            yield f"{field}: {name}", f"{{{content}}}"


# What a good body has, where the handler asks for more than the schema requires.
ALTERNATIVES: dict[str, tuple[tuple[str, ...], ...]] = {
    "NewUserBody": (("name", "auth_method", "certificate_subject_line"), ("name", "password")),
    "AuthorizeBody": (("username", "password"),),
    "NewCrlBody": (("crl",), ("crl", "url"), ("crl", "authorities"), ("url",)),
    "IssueBody": (("csr", "user"), ("csr",)),
    "RevokeBody": (("certificate",), ("ca", "serial"), ("cert",), ("key",), ("user_uid",)),
    "UserBody": (("name",), ("email",), ("password",), ("role_uids",)),
    "RoleBody": (("name",),),
    "RedisAclBody": (("acl",), ("name",)),
    "ProfileBody": (("subject", "sans"), ("name",), ("role_uids",)),
    "CrlBody": (("url",),),
    "BdbBody": (("name",), ("endpoints",), ("tls_server_ca",), ("roles_permissions",),
                ("authentication_ssl_client_certs",)),
}  # fmt: skip


def choices(model: str, part: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The fields that good bodies of a model have; `part` is its schema."""
    return ALTERNATIVES.get(model, (tuple(part.get("required", ())),))


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema refers to."""
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


# ---- What must not come of it --------------------------------------------------------------------

PASSWORD = "correct horse battery staple"  # of the users that the tests make
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "the hash of a password": r"\$argon2",
    "a traceback": r"Traceback \(most recent call last\)|File \"[^\"]+\.py\"",
}
TOKEN = r"\beyJ[\w-]+\.eyJ[\w-]+\.[\w-]+"
MAKES_TOKENS = ("/v1/users/authorize", "/v1/users/refresh_jwt")


class Canaries:
    """Secrets that the control plane holds, and that nothing it says may hold."""

    def __init__(self, store: Store, **planted: str) -> None:
        cluster = store.settings.cluster()
        self._known = {"the key of tokens": cluster.jwt_key, "a password": PASSWORD, **planted}
        for name, text in planted.items():
            if "PRIVATE KEY" in text:
                self._known[name] = text.split("\n")[1]
        self._patterns = {name: re.compile(text) for name, text in SECRETS.items()}

    def seen(self, text: str, path: str = "") -> list[str]:
        """Which secrets a text holds: what was answered to a path, or stands in a log."""
        found = [name for name, secret in self._known.items() if secret in text]
        found += [name for name, pattern in self._patterns.items() if pattern.search(text)]
        if not path.startswith(MAKES_TOKENS) and re.search(TOKEN, text):
            found.append("a token")
        return found


def faults(status: int, kind: str, text: str) -> list[str]:
    """What is wrong with an answer, whatever was asked: it failed, or an error has another shape
    than the documented one."""
    found = []
    if status >= 500 and not (status == 501 and "unsupported_resource" in text):
        found.append(f"status {status}")
    if 300 <= status < 400:
        found.append("a redirect: a client that follows sends its login along")
    if status >= 400:
        try:
            said = json.loads(text)
            wanted = {"error_code", "description", "message"}
            if set(said) != wanted or not all(
                isinstance(one, str) and one for one in said.values()
            ):
                found.append("an error of another shape")
        except ValueError:
            found.append("an error that is not JSON")
    if "\n" in kind or (kind == "application/json" and _json_fault(text)):
        found.append("no JSON")
    return found


def _json_fault(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return True
    return False


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What this process logs meanwhile."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    try:
        yield text
    finally:
        logging.getLogger().removeHandler(handler)


def token_of(store: Store, name: str) -> str:
    """A token of the user with this name, as a header."""
    user = store.objects.user_by_login(name)
    assert user
    return f"Bearer {tokens.make(user, store.settings.cluster(), 3600)}"
