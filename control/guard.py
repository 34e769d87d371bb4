"""Who is asking, and what they may do: 401 for the first question, 403 for the second.

An explicit `Authorization` header counts before a client certificate. The certificate is decided by
the core, on every request and with the whole path that was presented, under the REST API's own
policy: no resumed session and no kept-alive connection outlives a CA, an expiry or a deleted user.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, get_args
from wsgiref.types import WSGIEnvironment

from flask import Request

from control import core, policy
from control.errors import Refusal, forbidden, unauthorized
from control.passwords import Passwords
from control.records import Management, User
from control.store import Store

# How long the record of a user's last login may lag behind.
LOGIN_SECONDS = 60

# Which management roles hold a permission. `none` holds nothing.
Managements = frozenset[Management]
_ADMIN: Managements = frozenset({"admin"})
_PEOPLE: Managements = frozenset({"admin", "user_manager"})
_DATABASES: Managements = frozenset({"admin", "cluster_member", "db_member"})
_EVERYBODY: Managements = frozenset(get_args(Management))
_VIEWERS: Managements = _EVERYBODY - {"none"}
PERMISSIONS: dict[str, Managements] = {
    "any": _EVERYBODY,  # whoever is logged in
    "view_cluster_info": _VIEWERS,
    "update_cluster": _ADMIN,
    "view_all_users_info": _PEOPLE,
    "view_user_info": _PEOPLE,
    "create_new_user": _PEOPLE,
    "update_user": _PEOPLE,
    "delete_user": _PEOPLE,
    "view_all_roles_info": _VIEWERS,
    "view_role_info": _VIEWERS,
    "create_role": _PEOPLE,
    "update_role": _PEOPLE,
    "delete_role": _PEOPLE,
    "view_all_redis_acls_info": _VIEWERS,
    "view_redis_acl_info": _VIEWERS,
    "create_redis_acl": _PEOPLE,
    "update_redis_acl": _PEOPLE,
    "delete_redis_acl": _PEOPLE,
    "view_all_bdbs_info": _VIEWERS,
    "view_bdb_info": _VIEWERS,
    "create_bdb": _DATABASES,
    "update_bdb": _DATABASES,
    "delete_bdb": _DATABASES,
    # Not Redis Enterprise's: it tells whom a certificate makes somebody.
    "explain_certificates": _PEOPLE | _DATABASES,
}


class Presented(Protocol):
    """The certificates of a client, DER, as control/server.py gives them."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The leaf first."""
        ...


PeerCert = Callable[[WSGIEnvironment], Presented | None]


@dataclass(frozen=True)
class Caller:
    """Somebody who has logged in."""

    user: User
    managements: Managements

    def may(self, permission: str) -> bool:
        """Several roles add up."""
        return not self.managements.isdisjoint(PERMISSIONS[permission])


class Guard:
    """Decides about requests. `peer_cert` reads the client's certificates out of a WSGI environ."""

    def __init__(self, store: Store, peer_cert: PeerCert) -> None:
        self._store = store
        self._peer_cert = peer_cert
        self._passwords = Passwords()

    def authenticate(self, request: Request) -> Caller:
        """Who is asking. Raises Refusal 401."""
        if "Authorization" in request.headers:
            user = self._by_password(request)
        else:
            user = self._by_certificate(request)
        now = int(time.time())
        if now - user.last_login >= LOGIN_SECONDS:
            self._store.logged_in(user.uid, now)
        return self._caller(user)

    def decide(
        self, pem: bytes, now: int | None = None, address: str | None = None
    ) -> core.Decision:
        """Who a certificate is for the REST API; the user of the decision is a uid. `pem` is the
        leaf and what is presented above it. Raises core.CoreError."""
        subject = core.identity(pem).subject
        return self._policy(subject).decide(pem, now, address)

    def _policy(self, subject: str) -> core.Policy:
        store = self._store
        users = store.users_by_subject(policy.spellings(subject))

        def make() -> core.Policy:
            return core.Policy(policy.rest_lines(store.cluster(), store.trust(), users))

        return store.recall(("rest policy", *(user.uid for user in users)), make)

    def _by_password(self, request: Request) -> User:
        given = request.authorization
        if given is None or given.type != "basic":
            raise unauthorized(
                "bad_authorization", "the Authorization header is not Basic, or does not parse"
            )
        if not self._store.cluster().control_plane_basic_authentication:
            raise unauthorized(
                "basic_authentication_disabled",
                "passwords are not taken here "
                "(control_plane_basic_authentication): use a client certificate",
            )
        user = self._store.user_by_login(given.username or "")
        stored = user.password_hash if user else ""
        if not self._passwords.check(stored, given.password or "") or user is None:
            raise unauthorized("invalid_credentials", "wrong user name or password")
        return user

    def _by_certificate(self, request: Request) -> User:
        presented = self._peer_cert(request.environ)
        if presented is None:
            raise unauthorized(
                "missing_credentials",
                "send a user name and a password (Basic), or connect with a client certificate",
            )
        if not self._store.cluster().mtls_certificate_authentication:
            raise unauthorized(
                "certificate_authentication_disabled",
                "client certificates are not taken here: mtls_certificate_authentication is off",
            )
        pem = "".join(map(ssl.DER_cert_to_PEM_cert, presented.chain)).encode()
        try:
            decision = self.decide(pem, address=request.remote_addr)
        except core.CoreError as error:
            raise unauthorized(
                "malformed", f"the client certificate does not parse: {error}"
            ) from error
        if decision.user is None:
            raise unauthorized(decision.reason, _why(decision))
        return self._store.get(User, int(decision.user))

    def _caller(self, user: User) -> Caller:
        return Caller(user, frozenset(role.management for role in self._store.roles_of(user)))


def _why(decision: core.Decision) -> str:
    """The step that refused, and the certificate; all other steps are for explain's callers."""
    steps = (step for step in decision.trace if step.startswith(f"{decision.reason}:"))
    return f"refused: {next(steps, decision.reason)} ({decision.trace[0]})"


def denied(caller: Caller, permission: str) -> Refusal:
    """The 403 for a caller without a permission."""
    held = ", ".join(sorted(caller.managements)) or "no role"
    return forbidden(
        "insufficient_permissions",
        f"this needs {permission}, which the management "
        f"of user '{caller.user.name}' ({held}) does not give",
    )
