"""The REST API as a WSGI application, put together from its parts."""

import json
import secrets
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from flask import Flask, Response

from control import errors, preview, web
from control.api import (
    actions,
    bdbs,
    certauth,
    certificates,
    cluster,
    issuing,
    login,
    logs,
    metrics,
    redis_acls,
    reference,
    revocation,
    roles,
    rotation,
    sessions,
    system,
    users,
)
from control.ca import CertificateError, Issued
from control.crl import CrlError
from control.errors import invalid, refused
from control.guard import Guard, PeerCert
from control.issuing import OpenPolicies
from control.metrics import Figures
from control.models import NewUserBody, parse
from control.passwords import new_password
from control.records import Cluster, User
from control.store import Store
from control.trials import Trials

BODY = 1 << 20  # bytes of a request's body, as in control/server.py
MODULES = (
    cluster, certificates, users, login, roles, redis_acls, bdbs, actions, logs, system, certauth,
    metrics, issuing, revocation, rotation, sessions, reference,
)  # fmt: skip


def no_ca() -> None:
    raise refused("unsupported_certificate", "this control plane has no CA to issue with")


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
) -> Flask:
    """The application over `store`. `peer_cert` reads the client's certificates out of a WSGI
    environ: control.server.peer_cert. `rotate` puts a new certificate of this server into the
    store, `authority` is the CA that issues clients' certificates; both may raise Refusal. `ask`
    puts questions to nodes: control.sync.Worker.ask. `figures` are what control.audit.Collector has
    read from them."""
    app = Flask("control", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY
    app.url_map.strict_slashes = False
    # It redirects, to a host that the client names.
    app.url_map.merge_slashes = False
    errors.install(app)
    app.register_error_handler(CertificateError, _bad_certificate)
    app.register_error_handler(CrlError, lambda e: errors.answer(invalid(e.code, str(e))))
    app.extensions["rotate"] = rotate
    app.extensions["authority"] = authority
    app.extensions["policies"] = OpenPolicies(store)
    app.extensions["ask"] = ask
    app.extensions["trials"] = Trials()
    app.extensions["figures"] = figures
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
    store.initialise(cluster, administrator)


def _bad_certificate(error: CertificateError) -> Response:
    expired = error.expired
    refusal = refused("certificate_expired", str(error)) if expired else None
    return errors.answer(refusal or invalid("invalid_certificate", str(error)))
