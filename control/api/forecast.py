"""/v1/certauth/forecast: who will lose access, and when, as far as it is known today."""

import time
from typing import Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict

from control.api.models import Answer
from control.api.rotation import KNOWN, not_revoked
from control.api.web import answer, needs, number, store
from control.domain import forecast
from control.domain.forecast import Known, Loss
from control.errors import invalid
from control.nodes.waiting import servers
from control.pki import crl
from control.pki.pem import pem_to_ders
from control.policy import core
from control.records import Database, rendered_time
from control.reports import ClientCertificate, RevocationList
from control.store import InventoryFilter

DAYS, MOST = 90, 3650
SHOWN = 1_000  # of a list


class LossAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    time: str
    bdb_uid: int
    bdb_name: str
    user: str
    cert: str
    subject: str
    reason: str
    ca: str
    last: bool


class EndingAuthority(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    time: str
    ca: str
    subject: str


class EndingList(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    time: str
    uid: int
    issuer: str
    stale: str


class EndingServer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    time: str
    bdb_uid: int
    bdb_name: str
    address: str


class RenewalAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    time: str
    user: str
    cert: str
    subject: str
    issuer: str


class ForecastAnswer(Answer):
    """`losses` are the first of `losses_count`."""

    until: str
    losses: list[LossAnswer]
    losses_count: int
    cas: list[EndingAuthority]
    crls: list[EndingList]
    nodes: list[EndingServer]
    without_client_auth: list[RenewalAnswer]


blueprint = Blueprint("forecast", __name__)


@blueprint.get("/v1/certauth/forecast")
@needs("view_all_users_info", answers=ForecastAnswer, query=("days",))
def read() -> Response:
    """What ends until a later day, and who gets in no more then: of the certificates that are
    known."""
    days = number("days", DAYS)
    if not 1 <= days <= MOST:
        raise invalid("invalid_param", f"days: must be a number from 1 to {MOST}")
    now = int(time.time())
    kept = (der for one in store().crls.all() for der in pem_to_ders(one.authorities))
    authorities = list(dict.fromkeys([*store().settings.authorities(), *kept]))
    until = now + days * 86400
    known = Known(
        now, until, forecast.authority_ends(authorities), crl.paths(authorities),
        store().crls.all(), forecast.public_authorities(),
    )  # fmt: skip
    found = not_revoked(store().inventory.find(InventoryFilter(good_at=now), limit=KNOWN))
    databases = [one for one in store().objects.all(Database) if not one.deleting]
    lost: list[Loss] = []
    nodes = []
    for database in databases:
        policy = core.Policy(store().policies.whole(database.uid)[1])
        lost += forecast.losses(database, policy, found, known)
        ending = forecast.node_ends(servers(store(), database), until)
        nodes += [server(database, node.address, end) for node, end in ending]
    lost.sort(key=lambda loss: (loss.end.time, loss.database.uid))
    renewed = forecast.without_client_auth(found, known)
    return answer(
        {
            "until": rendered_time(until),
            "losses": [loss(one) for one in lost[:SHOWN]],
            "losses_count": len(lost),
            "cas": [one for one in map(authority(known), dict.fromkeys(authorities)) if one],
            "crls": [late(one) for one in known.overdue()],
            "nodes": sorted(nodes, key=lambda one: str(one["time"])),
            "without_client_auth": [renewal(one) for one in renewed[:SHOWN]],
        }
    )


def loss(one: Loss) -> dict[str, Any]:
    return {
        "time": rendered_time(one.end.time),
        "bdb_uid": one.database.uid,
        "bdb_name": one.database.name,
        "user": one.user,
        "cert": one.certificate.cert,
        "subject": one.certificate.subject,
        "reason": one.end.reason,
        "ca": one.end.by,
        "last": one.last,
    }


def authority(known: Known) -> Any:
    """Shows a CA that ends by then, and has not been renewed; None of others."""

    def shown(der: bytes) -> dict[str, Any] | None:
        one = core.identity(der)
        if not known.now < one.not_after == known.ends[one.key] <= known.until:
            return None
        return {"time": rendered_time(one.not_after), "ca": one.key, "subject": one.subject}

    return shown


def late(one: RevocationList) -> dict[str, Any]:
    return {
        "time": rendered_time(one.next_update),
        "uid": one.uid,
        "issuer": one.issuer,
        "stale": one.stale,
    }


def server(database: Database, address: str, end: int) -> dict[str, Any]:
    return {
        "time": rendered_time(end),
        "bdb_uid": database.uid,
        "bdb_name": database.name,
        "address": address,
    }


def renewal(one: ClientCertificate) -> dict[str, Any]:
    names = ("user", "cert", "subject", "issuer")
    return {"time": rendered_time(one.not_after), **{name: getattr(one, name) for name in names}}
