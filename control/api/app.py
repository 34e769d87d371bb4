"""The REST API as a WSGI application, put together from its parts."""

import json
import logging
import secrets
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from flask import Flask, Response

from control.ages import Pulse
from control.api import (
    actions,
    alerts,
    auditing,
    bdb_certificates,
    bdbs,
    bulk,
    certauth,
    certificates,
    cluster,
    elsewhere,
    errors,
    est,
    forecast,
    issuers,
    issuing,
    locks,
    login,
    logs,
    metrics,
    patterns,
    policies,
    redis_acls,
    reference,
    responders,
    revocation,
    roles,
    rotation,
    sessions,
    system,
    trust_sources,
    users,
    web,
)
from control.api.models import parse
from control.api.users import NewUserBody
from control.domain import preview
from control.domain.enrolment import Keys
from control.domain.guard import Guard, PeerCert
from control.domain.issuing import OpenPolicies
from control.domain.metrics import Figures, Own
from control.domain.passwords import new_password
from control.domain.revocation import Authorities
from control.errors import database_away, invalid, refused
from control.nodes.auditing import SinkFigures
from control.nodes.trials import Trials
from control.pki.crl import CrlError
from control.pki.pem import CertificateError, Issued
from control.records import Cluster, User
from control.store import UNAVAILABLE_ERRORS, Store, first_line, is_locked

log = logging.getLogger(__name__)
BODY = 1 << 20  # bytes of a request's body, as in control/http/protocol.py
MODULES = (
    cluster, certificates, users, login, roles, redis_acls, bdbs, actions, logs, system, certauth,
    metrics, issuing, revocation, locks, forecast, rotation, sessions, reference, patterns, issuers,
    est, trust_sources, elsewhere, auditing, alerts, bdb_certificates, bulk, responders, policies,
)  # fmt: skip


def no_ca() -> None:
    raise refused(
        "unsupported_certificate",
        "this control plane has no CA for clients' certificates: create one with "
        "`redis-certauth ca create`",
    )


def no_ca_of_clients() -> Issued:
    raise refused("no_ca", "this control plane has no CA of clients")


def nobody(_uid: int, _question: object, _only: str = "", **_: object) -> dict[str, Any]:
    return {}


def create_app(
    store: Store,
    peer_cert: PeerCert,
    rotate: Callable[[], None] = no_ca,
    authority: Callable[[], Issued] = no_ca_of_clients,
    ask: preview.Ask = nobody,
    figures: Figures = MappingProxyType({}),
    pulse: Pulse | None = None,
    own: Own = dict,
    sink: SinkFigures | None = None,
    signers: Authorities = tuple,
) -> Flask:
    """The application over `store`. `peer_cert` reads the client's certificates out of a WSGI
    environ: control.http.bridge.peer_cert. `rotate` puts a new certificate of this server into the
    store, `authority` is the CA that issues clients' certificates; both may raise Refusal. `ask`
    puts questions to nodes: control.nodes.worker.Worker.ask. `figures` are what
    control.nodes.audit.Collector has read from them. `pulse` is that of this process, `own` names
    its certificates in files (PEM), `sink` is what it has told its auditor,
    `signers` are our CAs that answer for their certificates."""
    app = Flask("control.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY
    app.url_map.strict_slashes = False
    # It redirects, to a host that the client names.
    app.url_map.merge_slashes = False
    errors.install(app)
    app.register_error_handler(CertificateError, _bad_certificate)
    for kind in UNAVAILABLE_ERRORS:
        app.register_error_handler(kind, _away)
    app.register_error_handler(CrlError, lambda e: errors.answer(invalid(e.code, str(e))))
    app.extensions["away"], app.extensions["locked"] = UNAVAILABLE_ERRORS, is_locked
    app.extensions["rotate"] = rotate
    app.extensions["authority"] = authority
    app.extensions["signers"] = signers
    app.extensions["policies"] = OpenPolicies(store)
    app.extensions["keys"] = Keys(store)
    app.extensions["ask"] = ask
    app.extensions["trials"] = Trials()
    app.extensions["figures"] = figures
    app.extensions["pulse"] = pulse or Pulse()
    app.extensions["own"] = own
    app.extensions["sink"] = sink or SinkFigures()
    web.install(app, store, Guard(store, peer_cert))
    for module in MODULES:
        app.register_blueprint(module.blueprint)
    return app


def init_cluster(store: Store, name: str, admin_username: str, admin_password: str) -> None:
    """Makes the cluster and its first administrator, who logs in by password. Raises Refusal where
    that was done before, or where the user's name or password could not be one in the API."""
    given = {"name": admin_username, "password": admin_password}
    checked, _ = parse(NewUserBody, json.dumps(given).encode())
    now = int(time.time())
    administrator = User(
        uid=1,
        name=checked.name,
        auth_method="regular",
        role_uids=(1,),
        passwords=(new_password(checked.password),),
    )
    cluster = Cluster(name, secrets.token_hex(16), now, jwt_key=secrets.token_hex(32))
    store.settings.initialise(cluster, administrator)


def _away(error: Exception) -> Response:
    """Its database: a full disk, a lock, a server that is down. The store tells the log."""
    log.debug("not answered: %s", first_line(error))
    response = errors.answer(database_away(is_locked(error)))
    response.headers["Retry-After"] = "5"
    return response


def _bad_certificate(error: CertificateError) -> Response:
    expired = error.expired
    refusal = refused("certificate_expired", str(error)) if expired else None
    return errors.answer(refusal or invalid("invalid_certificate", str(error)))
