"""/v1/certauth/ca: the CAs that clients are judged by, who depends on each, and what to say when
one that is in use would go."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, current_app
from pydantic import BaseModel, ConfigDict

from control.api.models import Answer
from control.api.web import answer, flag, needs, rehearsing, store, warn
from control.domain import rotation
from control.domain.rotation import Dependant, Use
from control.errors import refused
from control.nodes.client import NodeError
from control.pki import crl, trust
from control.pki.pem import pem_to_ders
from control.policy import core
from control.policy.lines import revoke_lines
from control.records import Database, Trust, rendered_time
from control.reports import ClientCertificate, Session
from control.store import InventoryFilter


class DependantAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    user: str
    certificates: int
    sessions: int
    only: bool


class AuthorityAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    ca: str
    subject: str
    not_after: str
    admits: list[int]
    anchors: list[int]
    users: int
    certificates: int
    sessions: int
    who: list[DependantAnswer]


class PinAnswer(BaseModel):
    """A client's own certificate that is trusted by itself."""

    model_config = ConfigDict(strict=True, extra="forbid")
    cert: str
    subject: str
    not_after: str
    pinned: list[int]
    users: int
    certificates: int
    sessions: int
    who: list[DependantAnswer]


class RemovedAuthorityAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    ca: str
    refused: list[int]


class AuthoritiesAnswer(Answer):
    cas: list[AuthorityAnswer]
    pins: list[PinAnswer]
    removed: list[RemovedAuthorityAnswer]
    silent: list[str]


blueprint = Blueprint("rotation", __name__)
KNOWN = 1_000_000  # certificates
PART = 1000  # of them, looked up at once
SHOWN = 100  # dependants of a CA that are named
ANCHORS_STAY = (
    ". A CA that is trusted only above other CAs stays so: name it in client_cas if it issues "
    "clients' certificates"
)
CLUSTER = 0  # the place where the REST API's own clients are


@blueprint.get("/v1/certauth/ca")
@needs("view_cluster_info", answers=AuthoritiesAnswer)
def read() -> Response:
    """Every CA that is trusted, and every certificate that is pinned: where, and which users,
    certificates and live sessions need it."""
    sessions, silent = live()
    found = uses(sessions)
    places = {CLUSTER: store().settings.trust()} | {
        one.uid: trust_of(one) for one in store().objects.all(Database) if not one.deleting
    }
    removed = sorted({key for place in places.values() for key in place.removed})
    return answer(
        {
            "cas": [render(der, places, found) for der in store().settings.authorities()],
            "pins": [
                render_pin(der, places, found)
                for der in dict.fromkeys(der for place in places.values() for der in place.pins)
            ],
            "removed": [
                {"ca": key, "refused": [uid for uid, one in places.items() if key in one.removed]}
                for key in removed
            ],
            "silent": silent,
        }
    )


def render(der: bytes, places: dict[int, Trust], found: Sequence[Use]) -> dict[str, Any]:
    identity = core.identity(der)
    return {
        "ca": identity.key,
        "subject": identity.subject,
        "not_after": rendered_time(identity.not_after),
        "admits": [uid for uid, place in places.items() if der in place.cas],
        "anchors": [uid for uid, place in places.items() if der in place.anchors],
        **render_dependants(rotation.dependants(found, identity.key)),
    }


def render_pin(der: bytes, places: dict[int, Trust], found: Sequence[Use]) -> dict[str, Any]:
    identity = core.identity(der)
    return {
        "cert": identity.cert,
        "subject": identity.subject,
        "not_after": rendered_time(identity.not_after),
        "pinned": [uid for uid, place in places.items() if der in place.pins],
        **render_dependants(rotation.dependants(found, identity.cert)),
    }


def render_dependants(who: Sequence[Dependant]) -> dict[str, Any]:
    return {
        "users": len(who),
        "certificates": sum(one.certificates for one in who),
        "sessions": sum(one.sessions for one in who),
        "who": [asdict(one) for one in who[:SHOWN]],
    }


def trust_of(database: Database) -> Trust:
    own = "".join(database.authentication_ssl_client_certs)
    return trust.stored(own, database.client_ca_uses) if own else store().settings.trust()


def live() -> tuple[list[Session], list[str]]:
    """The sessions on all nodes by certificate, and the nodes that did not answer."""
    found: list[Session] = []
    silent: list[str] = []
    for database in store().objects.all(Database):
        asked = current_app.extensions["ask"](database.uid, rotation.everybody)
        for address, told in asked.items():
            if isinstance(told, NodeError):
                silent.append(address)
            else:
                made = (rotation.session(database.uid, address, one) for one in told if one["user"])
                found += made
    return found, silent


def uses(sessions: Sequence[Session]) -> list[Use]:
    kept = (der for one in store().crls.all() for der in pem_to_ders(one.authorities))
    paths = crl.paths(dict.fromkeys([*store().settings.authorities(), *kept]))
    good = store().inventory.find(InventoryFilter(good_at=int(time.time())), limit=KNOWN)
    return rotation.uses(not_revoked(good), sessions, paths)


def not_revoked(certificates: Sequence[ClientCertificate]) -> list[ClientCertificate]:
    """Those that neither administrators nor their CA have revoked."""
    found: list[ClientCertificate] = []
    for start in range(0, len(certificates), PART):
        part = {one: revoke_lines(one) for one in certificates[start : start + PART]}
        revoked = set(
            store().revocations.among([line for lines in part.values() for line in lines])
        )
        found += [one for one, lines in part.items() if revoked.isdisjoint(lines)]
    return found


# ---- Before more is trusted, or a CA goes ----


def check_growth(before: Trust, after: Trust, agreed: bool) -> None:
    """Raises Refusal 409 where clients could come from more CAs than now, unless that was agreed
    to; not in a rehearsal, which shows the lines."""
    more = trust.grown(before, after)
    if more and not agreed and not rehearsing():
        raise refused(
            "trust_grows",
            f"clients could come from more CAs than now: {'; '.join(more)}: from each, and from "
            "every CA below it. If you want that, send trust_grows: true (redis-certauth: "
            "--trust-grows); client_cas names the CAs that issue clients' certificates",
        )


def check_cluster(after: Trust) -> list[str]:
    """The users whom another `mtls_trusted_ca` cuts, here or on a database without CAs of its own;
    none without ?force: then they raise Refusal 409."""
    followers = {
        one.uid for one in store().objects.all(Database) if not one.authentication_ssl_client_certs
    }
    return check(store().settings.trust(), after, {CLUSTER, *followers})


def check(before: Trust, after: Trust, places: Collection[int]) -> list[str]:
    """The same for any place."""
    if rehearsing() or not trust.lessens(before, after):
        return []  # a preview says more
    found = rotation.cut(uses(live()[0]), before, after, places)
    stays = ANCHORS_STAY if after.anchors else ""
    if found and not flag("force"):
        raise refused(
            "ca_in_use",
            "this would remove a CA or a pinned certificate that is still in use, by "
            f"{rotation.told(found)}: GET /v1/certauth/ca has more. Give these clients "
            f"certificates of another CA first; ?force cuts them off{stays}",
        )
    return sorted({one.user for one in found})


def warn_of_serving(after: Trust) -> None:
    """Of CAs that clients come from: which of their certificates, of those that are known, pass for
    a node's where only the TLS handshake decides."""
    for der in after.cas:
        above = core.identity(der)
        now = int(time.time())
        wanted = InventoryFilter(from_ca=above.key, also_serves=True, good_at=now)
        found = store().inventory.find(wanted, limit=SHOWN + 1)
        count = f"more than {SHOWN}" if len(found) > SHOWN else len(found)
        if found:
            warn(
                f"{count} certificates of clients by the CA '{above.subject}' are not "
                f"restricted to clients, such as the certificate of {found[0].user}: where only "
                "the TLS handshake decides, each of them can pass as a node. Issue them for "
                "clientAuth only (extended key usage); GET /v1/certauth/certificates?serves "
                "lists them"
            )


def warn_of_pins(before: Trust, database: Database) -> None:
    """Of what only comes in where a server's module answers for it in the handshake: the servers
    where it does not; and of a client's own certificate that passes for a CA."""
    after = trust_of(database)
    more = set(after.pins) - set(before.pins) | set(trust.rootless(after)) - set(before.cas)
    for node in store().nodes.of(database.uid) if more else ():
        if node.detail and not node.detail.startswith("managed"):
            warn(
                f"{node.address}: its TLS handshake accepts neither a pinned certificate nor a "
                f"CA without its root, unless its own files have that root: its trust is "
                f"{node.detail}"
            )
    for der in set(after.cas) - set(before.cas):
        leaf = core.identity(der)
        users = store().objects.users_like(leaf)
        if users and leaf.subject == leaf.issuer:
            warn(
                f"'{leaf.subject}' says that it is a CA: so clients that it issued may log in, "
                f"and not this certificate itself, although user '{users[0].name}' has its "
                "identity. If it is a client's own certificate, send "
                f'pinned_certificates: ["{leaf.cert}"]'
            )


def note(users: Sequence[str]) -> None:
    """Tells the event log who was cut off by force."""
    if users:
        store().events.note("ca_removed_in_use", "WARNING", users=list(users))
