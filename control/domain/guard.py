"""Who is asking, and what they may do: 401 for the first question, 403 for the second.

An explicit `Authorization` header (Basic, or a token as Bearer or JWT) counts before a client
certificate. The certificate is decided by the core, on every request and with the whole path that
was presented, under the REST API's own policy: no resumed session and no kept-alive connection
outlives a CA, an expiry or a deleted user.

Too many wrong passwords lock a user, by the cluster's policy. The answer to a wrong password is the
same, and as late, whether the user is there, is not, or is locked.
"""

import logging
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args
from wsgiref.types import WSGIEnvironment

from flask import Request

from control.domain import tokens
from control.domain.counters import Trickle, Uncounted
from control.domain.metrics import API_LOGINS, API_REFUSED
from control.domain.passwords import Passwords, is_expired, is_locked
from control.errors import Refusal, forbidden, unauthorized
from control.policy import bindings, core, locks
from control.policy import lines as policy
from control.records import Cluster, Management, Password, Role, User
from control.reports import ClientCertificate
from control.store import UNAVAILABLE_ERRORS, Store, first_line

log = logging.getLogger(__name__)

# How long the record of a user's last login may lag behind.
LOGIN_SECONDS = 60
MUTE = 10.0  # seconds until that is tried again, where the database does not take it
SEEN = 10_000  # certificates whose last login is in memory
SHOWN = 255  # characters of a login name in the event log

# Which management roles hold a permission. `none` holds nothing.
Managements = frozenset[Management]
_ADMIN: Managements = frozenset({"admin"})
_PEOPLE: Managements = frozenset({"admin", "user_manager"})
_DATABASES: Managements = frozenset({"admin", "cluster_member", "db_member"})
_EVERYBODY: Managements = frozenset(get_args(Management))
NO_ROLE: Managements = frozenset({"none"})  # a user without one may what each login may
_VIEWERS: Managements = _EVERYBODY - NO_ROLE
PERMISSIONS: dict[str, Managements] = {
    "any": _EVERYBODY,  # anyone who is logged in
    "view_all_nodes_info": _VIEWERS,
    "view_node_info": _VIEWERS,
    "view_all_nodes_checks": _VIEWERS,
    "view_cluster_stats": _VIEWERS,
    "view_cluster_alerts": _VIEWERS,
    "view_license": _VIEWERS,
    "view_status_of_cluster_action": _VIEWERS,
    "view_logged_events": _VIEWERS - {"db_viewer"},
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
    "revoke_certificates": _ADMIN,  # a user manager could shut administrators out
}


class Presented(Protocol):
    """The certificates of a client, DER, as control/http/bridge.py gives them."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The leaf first."""
        ...


PeerCert = Callable[[WSGIEnvironment], Presented | None]


By = Literal["password", "token", "certificate"]


@dataclass(frozen=True)
class Caller:
    """Somebody who has logged in."""

    user: User
    managements: Managements  # of roles that are for everything
    by: By
    cert: str = ""  # SHA-256 of the certificate, in hex
    scoped: tuple[Role, ...] = ()  # roles that are for some databases
    login: str = ""  # of a token: the name of the login that it is of

    def may(self, permission: str) -> bool:
        """Several roles add up. A role for some databases counts in `may_on` alone, so that a call
        which does not ask about a database is none of its calls."""
        return not self.managements.isdisjoint(PERMISSIONS[permission])

    def may_on(self, permission: str, bdb_uid: int) -> bool:
        """The same, about this database."""
        return self.may(permission) or any(
            bdb_uid in role.resources for role in self._scoped(permission)
        )

    def may_somewhere(self, permission: str) -> bool:
        """Whether it may do that everywhere or on at least one database: for lists, of which the
        caller then sees its part."""
        return self.may(permission) or bool(self._scoped(permission))

    def _scoped(self, permission: str) -> list[Role]:
        return [role for role in self.scoped if role.management in PERMISSIONS[permission]]


@dataclass(frozen=True)
class Authorization:
    """What an Authorization header says; "": nothing that this API knows."""

    kind: Literal["", "basic", "token"] = ""
    name: str = ""
    secret: str = field(default="", repr=False)


class Guard:
    """Decides about requests. `peer_cert` reads the client's certificates out of a WSGI environ."""

    def __init__(self, store: Store, peer_cert: PeerCert) -> None:
        self._store = store
        self._peer_cert = peer_cert
        self._passwords = Passwords()
        self._trickle, self._enrolling = Trickle(), Trickle()
        self._uncounted = Uncounted()
        self._mute = 0.0  # until when logins are not written down
        self._seen: dict[str, int] = {}  # certificate → when its login was remembered

    def authenticate(self, request: Request, expired: bool = False) -> Caller:
        """Who is asking. `expired`: a password that is to be changed is good enough. Raises Refusal
        401."""
        try:
            return self._authenticate(request, expired)
        except Refusal as error:
            API_REFUSED.labels(error.error_code).inc()
            raise

    def _authenticate(self, request: Request, expired: bool) -> Caller:
        address = request.remote_addr or ""
        given = authorization_of(request)
        if "Authorization" not in request.headers:
            return self.by_certificate(request)
        if given.kind == "basic":
            return self.by_password(given.name, given.secret, address, expired)
        if given.kind == "token":
            return self._by_token(given.secret, address)
        raise unauthorized(
            "bad_authorization",
            "the Authorization header is not Basic, Bearer or JWT; Digest needs passwords that can "
            "be read, and here they are hashed: send Basic (curl: --basic or --anyauth)",
        )

    def which(self, user: User, password: str) -> Password | None:
        """The one of a user's passwords that this is."""
        return self._passwords.check(user.passwords, password)

    def decide(
        self, pem: bytes, now: int | None = None, address: str | None = None
    ) -> core.Decision:
        """Who a certificate is for the REST API; the user of the decision is a uid. `pem` is the
        leaf and what is presented above it. Raises core.CoreError."""
        policy = self._policy(core.identity(pem), self._revoked(pem))
        return policy.decide(pem, now, address, own=True)

    def _revoked(self, pem: bytes) -> tuple[str, ...]:
        """The `revoke` lines that are about a certificate or the CAs above it."""
        store = self._store
        if not store.revocations.exist():
            return ()

        def trusted() -> tuple[tuple[bytes, core.Identity], ...]:
            trust = store.settings.trust()
            return tuple((der, core.identity(der)) for der in (*trust.cas, *trust.anchors))

        return store.revocations.among(policy.revocations_of(pem, store.recall("trusted", trusted)))

    def own_reason(self, request: Request, cluster: Cluster) -> str:
        """Why the client certificate of this request would be refused if these were the settings of
        the cluster; "" where it is let in, or there is none."""
        presented = self._peer_cert(request.environ)
        if presented is None or not cluster.mtls_certificate_authentication:
            return ""
        pem = _pem(presented)
        users = self._store.objects.users_like(core.identity(pem))
        lines = policy.rest_lines(cluster, self._store.settings.trust(), users)
        decided = core.Policy(lines).decide(pem, address=request.remote_addr, own=True)
        return "" if decided.user else decided.reason

    def _policy(self, leaf: core.Identity, revoked: tuple[str, ...]) -> core.Policy:
        store = self._store
        users = store.objects.users_like(leaf)

        def make() -> core.Policy:
            lines = policy.rest_lines(store.settings.cluster(), store.settings.trust(), users)
            return core.Policy([*lines, *revoked, *self._locks(users)])

        return store.recall(("rest policy", revoked, *(user.uid for user in users)), make)

    def _locks(self, users: Iterable[User]) -> list[str]:
        """The `lock` lines as this API's policy has them: its users are uids."""
        held = [one.line for one in self._store.locks.all()]
        out = [f"lock user {one.uid}" for one in users if locks.of_login(held, one.name, "")]
        return [*locks.of_certificates(held), *out]

    def locked_by(self, line: str, request: Request, caller: "Caller") -> bool:
        """Whether a lock would hold out anyone who sends this request."""
        if locks.of_login([line], caller.user.name, request.remote_addr or ""):
            return True
        presented = self._peer_cert(request.environ) if caller.by == "certificate" else None
        if presented is None:
            return False
        pem = _pem(presented)
        lines = ["set enforce on", *policy.trust_lines(self._store.settings.trust()), line]
        return core.Policy(lines).decide(pem, own=True).reason == "locked"

    def by_password(self, login: str, password: str, address: str, expired: bool) -> Caller:
        """Who has this name or e-mail address, and this password; `expired` as above. Raises
        Refusal 401."""
        if not self._store.settings.cluster().control_plane_basic_authentication:
            raise unauthorized(
                "basic_authentication_disabled",
                "this API does not accept passwords (control_plane_basic_authentication is "
                "off): use a client certificate",
            )
        login = login.replace("\0", "\ufffd")  # nobody's name; PostgreSQL takes no text with it
        user = self._store.objects.user_by_login(login)
        stored = user.passwords if user else ()
        found = self._passwords.remembered(stored, password)
        if not found:
            found = self._passwords.check(stored, password)
            # While argon2 worked, others may have locked the user, or changed the password.
            self._store.request.enter()
            user = self._store.objects.user_by_login(login)
        cluster, now = self._store.settings.cluster(), int(time.time())
        locked = user is not None and (
            is_locked(user, cluster, now) or self._uncounted.locks(user, cluster)
        )
        if user is None or found not in user.passwords or locked:
            counted = user.uid if user and user.passwords and not locked else 0
            self._failed(counted, now, login, address)
            raise unauthorized(
                "invalid_credentials",
                "wrong user name or password, or the user is locked after too many wrong passwords",
            )
        if found and is_expired(found, cluster, now) and not expired:
            raise unauthorized(
                "password_expired",
                "this password has expired: set a new one with PUT /v1/users/password",
            )
        return self._logged_in(user, "password", address)

    def _failed(self, uid: int, now: int, login: str, address: str) -> None:
        try:
            self._store.logins.failed(
                uid, now, username=login[:SHOWN], address=address, reason="invalid_credentials"
            )
        except UNAVAILABLE_ERRORS:  # or anybody could guess for as long as that lasts
            self._uncounted.add(uid)
        else:
            self._uncounted.clear()

    def _by_token(self, token: str, address: str) -> Caller:
        try:
            uid, stamp, login = tokens.owner(token, self._store.settings.cluster())
            user = self._user_of_token(uid)
            if login and self._store.logins.has_ended(login):
                raise tokens.refusal("the token's user has logged out")
            if not tokens.fits(stamp, user):
                raise tokens.refusal("the token's user has a new login since then")
        except Refusal as error:
            self._refused(error, address)
            raise
        return replace(self._logged_in(user, "token", address), login=login)

    def _user_of_token(self, uid: int) -> User:
        try:
            return self._store.objects.get(User, uid)
        except Refusal:
            raise tokens.refusal("the token's user does not exist any more") from None

    def presented(self, request: Request) -> bytes:
        """What the client of a request has presented, PEM, the leaf first; b"" for nothing."""
        found = self._peer_cert(request.environ)
        return _pem(found) if found else b""

    def by_certificate(self, request: Request) -> Caller:
        """Whose certificate the client of a request has presented. Raises Refusal 401."""
        presented = self._peer_cert(request.environ)
        if presented is None:
            raise unauthorized(
                "missing_credentials",
                "send a user name and a password (Basic) or a token (Bearer), or connect with a "
                "client certificate",
            )
        if not self._store.settings.cluster().mtls_certificate_authentication:
            raise unauthorized(
                "certificate_authentication_disabled",
                "this API does not accept client certificates: mtls_certificate_authentication "
                "is off",
            )
        address = request.remote_addr
        try:
            user, leaf, ca = self._decided(presented, address)
        except Refusal as error:
            self._refused(error, address or "")
            raise
        self._remember(user, leaf, ca)
        return self._logged_in(user, "certificate", address or "", leaf)

    def _decided(
        self, presented: Presented, address: str | None
    ) -> tuple[User, core.Identity, str]:
        """Who it is, by which certificate, of which CA."""
        try:
            decision = self.decide(_pem(presented), address=address)
        except core.CoreError as error:
            raise malformed(error) from error
        if decision.user is None or decision.leaf is None:
            raise unauthorized(decision.reason, why(decision))
        user = self._store.objects.get(User, int(decision.user))
        return user, decision.leaf, decision.ca or ""

    def check_address(self, address: str) -> None:
        """For what needs no login. Raises Refusal 401 where this address is in a locked network."""
        if locks.of_login((one.line for one in self._store.locks.all()), "", address):
            raise unauthorized("locked", "an administrator has locked the network of this address")

    def _logged_in(
        self, user: User, by: By, address: str, leaf: core.Identity | None = None
    ) -> Caller:
        locked = locks.of_login((one.line for one in self._store.locks.all()), user.name, address)
        if locked:
            raise unauthorized("locked", f"locked by an administrator: {locked}")
        now = int(time.time())
        shown = {"serial": leaf.serial, "issuer": leaf.issuer} if leaf else {}
        self._store.request.act_as(user.name, address=address, **shown)
        if by != "token" and now - user.last_login >= LOGIN_SECONDS:
            self._write_down(lambda: self._store.logins.succeeded(user.uid, now, by))
            API_LOGINS.labels(by).inc()
        roles = self._store.objects.roles_of(user)
        held = frozenset(role.management for role in roles if not role.resources)
        scoped = tuple(role for role in roles if role.resources)
        return Caller(user, held or NO_ROLE, by, leaf.cert if leaf else "", scoped)

    def _remember(self, user: User, leaf: core.Identity, ca: str) -> None:
        now = int(time.time())
        if now - self._seen.get(leaf.cert, 0) < LOGIN_SECONDS:
            return
        if len(self._seen) >= SEEN:
            self._seen.clear()
        self._seen[leaf.cert] = now
        seen = ClientCertificate(
            cert=leaf.cert, key=leaf.key, ca=ca, issuer=leaf.issuer, serial=leaf.serial,
            subject=leaf.subject, user=user.name, not_before=leaf.not_before,
            not_after=leaf.not_after, first=now, last_login=now, serves=leaf.serves,
            sans=bindings.named(leaf), ocsp=leaf.ocsp,
        )  # fmt: skip
        self._write_down(lambda: self._store.inventory.record_seen(seen))

    def _write_down(self, write: Callable[[], None]) -> None:
        """When somebody logged in. Where the database takes nothing now, as when its disk is full,
        those who want to see that get in all the same; each change fails by itself."""
        now = time.monotonic()
        if now < self._mute:
            return
        try:
            write()
        except UNAVAILABLE_ERRORS as error:
            self._mute = time.monotonic() + MUTE
            log.info("logins cannot be recorded now: %s", first_line(error))

    def _refused(self, error: Refusal, address: str) -> None:
        if self._trickle.drop():
            self._note_refused("login_failed", error, address)

    def refused_enrolment(self, error: Refusal, issuer: str, address: str) -> None:
        """Tells the event log of a stranger whose token was refused, of many of them only of some:
        not at the cost of those who fail to log in."""
        if self._enrolling.drop():
            named = {"issuer_name": issuer} if issuer else {}
            self._note_refused("enrolment_refused", error, address, **named)

    def _note_refused(self, kind: str, error: Refusal, address: str, **named: str) -> None:
        detail = {**named, "reason": error.error_code, "description": error.description[:1000]}
        self._write_down(
            lambda: self._store.events.note(kind, "WARNING", address=address, **detail)
        )


def authorization_of(request: Request) -> Authorization:
    """What the header of a request says."""
    try:
        given = request.authorization
    except ValueError:  # Werkzeug's, for a byte that is not ASCII.
        given = None
    if given is not None and given.type == "basic":
        return Authorization("basic", given.username or "", given.password or "")
    if given is not None and given.type in ("bearer", "jwt"):
        return Authorization("token", secret=given.token or "")
    return Authorization()


def malformed(error: core.CoreError) -> Refusal:
    """The 401 for a client certificate that the core does not read."""
    return unauthorized("malformed", f"the client certificate does not parse: {error}")


def _pem(presented: Presented) -> bytes:
    return "".join(map(ssl.DER_cert_to_PEM_cert, presented.chain)).encode()


def why(decision: core.Decision) -> str:
    """The step that refused, and the certificate; all other steps are for explain's callers."""
    steps = (step for step in decision.trace if step.startswith(f"{decision.reason}:"))
    return f"refused: {next(steps, decision.reason)} ({decision.trace[0]})"


def denied(caller: Caller, permission: str) -> Refusal:
    """The 403 for a caller without a permission."""
    held = ", ".join(sorted(caller.managements))
    return forbidden(
        "insufficient_permissions",
        f"this needs {permission}, which the management "
        f"of user '{caller.user.name}' ({held}) does not give",
    )
