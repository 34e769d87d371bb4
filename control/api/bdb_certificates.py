"""/v1/bdbs/certificates and /v1/bdbs/{uid}/certificates: what the servers of a database show to
their clients. Redis Enterprise has one certificate of its proxy for each database; here each server
has its own, whose key never leaves it."""

from typing import Any

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict

from control.api.logs import END, moment
from control.api.models import Answer, Body, words
from control.api.web import answer, caller, needs, number, store
from control.errors import Refusal, invalid, missing, refused
from control.policy import core
from control.records import Database, rendered_time
from control.reports import Node

TLS_MODES = ("enabled", "disabled", "replica_ssl")
PAGE = 10_000  # certificates


class ServerCertificate(BaseModel):
    """Of the server at `address`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: str
    address: str
    cert: str
    not_before: str
    not_after: str


class BdbCertificateAnswer(Answer):
    """The certificate that ends first, and those of all servers."""

    bdb_uid: str
    cert: str
    not_before: str
    not_after: str
    servers: list[ServerCertificate]


class BdbCertificateBody(Body):
    """What POST takes on Redis Enterprise; nothing of it is looked at."""

    IGNORED = words("cert private_key")
    OPTIONAL = True


blueprint = Blueprint("bdb_certificates", __name__)
QUERY = ("expires_before", "tls_mode", "page", "page_size")


@blueprint.get("/v1/bdbs/certificates")
@needs("view_all_bdbs_info", scoped=True, answers=list[ServerCertificate], query=QUERY)
def read_all() -> Response:
    """Those of all servers that were seen. Who has a role for some databases sees theirs."""
    mode = request.args.get("tls_mode", "")
    if mode and mode not in TLS_MODES:
        raise invalid("invalid_param", f"tls_mode: {', '.join(TLS_MODES)}")
    until, page, size = moment("expires_before", END), number("page", 1), number("page_size", PAGE)
    if not page or not size:
        raise invalid("invalid_param", "page and page_size must be 1 or more")
    found = [
        one
        for database in store().objects.all(Database)
        if caller().may_on("view_all_bdbs_info", database.uid) and mode in ("", database.tls_mode)
        for one in shown(database, until)
    ]
    return answer(found[(page - 1) * size : page * size])


@blueprint.get("/v1/bdbs/<int(max=2147483647):uid>/certificates")
@needs("view_bdb_info", scoped=True, answers=BdbCertificateAnswer)
def read(uid: int) -> Response:
    found = shown(store().objects.get(Database, uid), END)
    if not found:
        raise missing(
            f"certificate of bdb {uid}: the control plane has not seen a certificate "
            "of any of its servers"
        )
    first = min(found, key=lambda one: one["not_after"])
    of_all = {name: value for name, value in first.items() if name != "address"}
    return answer({**of_all, "servers": found})


@blueprint.post("/v1/bdbs/<int(max=2147483647):uid>/certificates")
@needs("update_bdb", scoped=True, takes=BdbCertificateBody)
def put(uid: int, sent: BdbCertificateBody) -> Response:
    """Always a 406."""
    raise not_managed(uid)


@blueprint.delete("/v1/bdbs/<int(max=2147483647):uid>/certificates")
@needs("update_bdb", scoped=True)
def delete(uid: int) -> Response:
    """Always a 406."""
    raise not_managed(uid)


def not_managed(uid: int) -> Refusal:
    store().objects.get(Database, uid)
    return refused(
        "server_certificates_not_managed",
        "each server has its own certificate, and the key never leaves the server: "
        "redis-certauth node enrol creates both there, and tls_server_ca names their CA; for "
        "certificates of clients use authentication_ssl_client_certs",
    )


def shown(database: Database, until: int) -> list[dict[str, Any]]:
    """What each of its servers shows that ends by then."""
    nodes = (one for one in store().nodes.of(database.uid) if one.certificate)
    found = [(node, core.identity(node.certificate.encode())) for node in nodes]
    return [render(database, node, of) for node, of in found if of.not_after <= until]


def render(database: Database, node: Node, of: core.Identity) -> dict[str, Any]:
    return {
        "bdb_uid": str(database.uid),
        "address": node.address,
        "cert": node.certificate,
        "not_before": rendered_time(of.not_before),
        "not_after": rendered_time(of.not_after),
    }
