"""A control plane for tests: its store in a folder, its application, and requests to it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIEnvironment

from pydantic import TypeAdapter

from control.api.app import create_app, init_cluster
from control.records import Database, Endpoint, User
from control.store import Store
from tests.kit.support import Cert

ADMIN = ("admin", "the administrator's password")
PEER = "tests.peer"


@dataclass(frozen=True)
class Peer:
    """What control.http.bridge.peer_cert gives."""

    chain: tuple[bytes, ...]


@dataclass(frozen=True)
class Answer:
    status: int
    json: Any
    headers: Any

    @property
    def code(self) -> str:
        """The error_code; "" where there is none."""
        return self.json.get("error_code", "") if isinstance(self.json, dict) else ""

    @property
    def text(self) -> str:
        """What an error says to a person."""
        return str(self.json["description"])


def presented(cert: Cert) -> Peer:
    """The certificate as a client presents it, with its intermediates."""
    return Peer((cert.der, *(above.der for above in cert.above if not above.self_signed)))


def peer_cert(environ: WSGIEnvironment) -> Peer | None:
    found = environ.get(PEER)
    return found if isinstance(found, Peer) else None


@cache
def new_database() -> bytes:
    """The file of a control plane just initialised: making one takes a tenth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/control.db")
        init_cluster(store, "acme", *ADMIN)
        store.close()
        return (Path(folder) / "control.db").read_bytes()


adapter = cache(TypeAdapter)


class ControlPlane:
    """Initialised, with one administrator who logs in by password (ADMIN)."""

    def __init__(self, folder: Path, content: bytes = b"") -> None:
        self.url = f"sqlite:///{folder}/control.db"
        (folder / "control.db").write_bytes(content or new_database())
        self.store = Store(self.url)
        self.app = create_app(self.store, peer_cert)
        self.client = self.app.test_client()

    def close(self) -> None:
        self.store.close()

    def __call__(
        self,
        request: str,
        body: Any = None,
        *,
        auth: tuple[str, str] | str | None = ADMIN,
        cert: Cert | Peer | None = None,
        **options: Any,
    ) -> Answer:
        """`api("PUT /v1/cluster", {...})`. With `cert`, only that is presented unless `auth` is
        given too. `auth` may also be a whole Authorization header. What is answered with 200 must
        be what the handler declares."""
        method, path = request.split(" ", 1)
        if cert is not None:
            peer = cert if isinstance(cert, Peer) else presented(cert)
            options["environ_overrides"] = {PEER: peer}
            auth = None if auth is ADMIN else auth
        if body is not None:
            options["json"] = body
        if isinstance(auth, str):
            options.setdefault("headers", {})["Authorization"] = auth
            auth = None
        response = self.client.open(path, method=method, auth=auth, **options)
        if response.mimetype == "text/plain":  # the metrics
            return Answer(response.status_code, None, response.headers)
        assert response.mimetype == "application/json"
        if response.status_code == 200 and "fields=" not in path:
            self.check(method, path, response.get_data())
        return Answer(response.status_code, response.json, response.headers)

    def check(self, method: str, path: str, content: bytes) -> None:
        """Whether an answer has the fields that its handler declares, and no others."""
        route, _ = self.app.url_map.bind("").match(path.partition("?")[0], method)
        rule = self.app.view_functions[route].__dict__.get("rule")
        if rule:
            adapter(rule.answers).validate_json(content)

    def ok(self, request: str, body: Any = None, **options: Any) -> Any:
        """The JSON of an answer that is 200."""
        answer = self(request, body, **options)
        assert answer.status == 200, answer.json
        return answer.json

    def trust(self, *cas: Cert, login: bool = True) -> None:
        """Makes these the CAs of clients, no matter who is cut off, and switches login by
        certificate on."""
        pem = "".join(ca.pem.decode() for ca in cas)
        entry = {"name": "mtls_trusted_ca", "certificate": pem, "trust_grows": True}
        self.ok("PUT /v1/cluster/update_cert?force", entry)
        self.ok("PUT /v1/cluster", {"mtls_certificate_authentication": login})

    def certificate_user(self, name: str, subject: str, **fields: Any) -> Any:
        """Makes a user that logs in by certificate."""
        method = {"auth_method": "certificate", "certificate_subject_line": subject}
        return self.ok("POST /v1/users", {"name": name, **method, **fields})

    def alice_reads(self, ca: Cert) -> None:
        """Alice, whose certificate is from this CA, has Read Only on database 1."""
        self.trust(ca)
        self.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="none")
        self.database(tls_mode="enabled", roles_permissions=[{"role_uid": 6, "redis_acl_uid": 2}])

    def role(self, cert: Cert) -> str:
        """What a login by certificate is: its role, or the error_code of the 401."""
        answer = self("GET /v1/users/role", cert=cert)
        return str(answer.json["role"]) if answer.status == 200 else answer.code

    def password_user(self, name: str, role: str) -> tuple[str, str]:
        """Makes a user that logs in by password; what it logs in with."""
        self.ok("POST /v1/users", {"name": name, "password": f"{name}'s", "role": role})
        return name, f"{name}'s"

    def database(self, name: str = "orders", port: int = 6380, **fields: Any) -> Any:
        """Registers a database."""
        endpoints = [{"addr": ["127.0.0.1"], "port": port}]
        return self.ok("POST /v1/bdbs", {"name": name, "endpoints": endpoints, **fields})

    def lines(self, uid: int = 1) -> set[str]:
        """The policy of a database."""
        return set(self.store.policies.whole(uid)[1])


def user(uid: int = 1, name: str = "alice", **fields: Any) -> User:
    """The record of a certificate user."""
    usual = {"auth_method": "certificate", "role_uids": (6,)}
    usual |= {"certificate_subject_line": f"CN={name},O=acme"}
    return User(uid, name, **{**usual, **fields})


def database(uid: int = 1, ports: Sequence[int] = (6380,), **fields: Any) -> Database:
    """The record of a database."""
    endpoints = tuple(Endpoint(("127.0.0.1",), port) for port in ports)
    return Database(uid, f"db{uid}", endpoints, **fields)
