"""The web page as a WSGI application, put together from its parts."""

import hashlib
import hmac
import logging
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, g, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from control.api.web import store
from control.domain.guard import PeerCert
from control.errors import Refusal, database_away
from control.records import rendered_time
from control.ui import (
    audit,
    cas,
    certificates,
    chosen,
    databases,
    demands,
    explain,
    lists,
    locks,
    login,
    onboard,
    overview,
    patterns,
    policy,
    profiles,
    redis_acls,
    repair,
    responders,
    roles,
    search,
    sessions,
    settings,
    users,
)
from control.ui.ask import may

log = logging.getLogger(__name__)
MODULES = (
    login, overview, databases, users, patterns, roles, redis_acls, cas, demands, sessions,
    certificates, explain, audit, locks, repair, onboard, search, responders, policy, chosen,
    profiles, settings,
)  # fmt: skip
# Endpoint, what the menu calls it, the permission without which there is nothing to see, and the
# group that begins there.
MENU = (
    ("overview.show", "Overview", "any", "Now"),
    ("sessions.show", "Sessions", "view_logged_events", ""),
    ("explain.show", "Explain", "explain_certificates", ""),
    ("audit.show", "Audit", "view_logged_events", ""),
    ("onboard.show", "Onboard", "create_new_user", "Who and what"),
    ("databases.show", "Databases", "view_all_bdbs_info", ""),
    ("users.show", "Users", "view_all_users_info", ""),
    ("patterns.show", "Patterns", "view_all_users_info", ""),
    ("roles.show", "Roles", "view_all_roles_info", ""),
    ("acls.show", "ACLs", "view_all_redis_acls_info", ""),
    ("certificates.show", "Certificates", "any", "Trust"),
    ("cas.show", "CAs", "view_cluster_info", ""),
    ("responders.show", "OCSP", "view_cluster_info", ""),
    ("demands.show", "Demands", "view_cluster_info", ""),
    ("profiles.show", "Profiles", "view_cluster_info", ""),
    ("settings.show", "Settings", "view_cluster_info", "This service"),
)
BODY = 1 << 20  # bytes of a request's body, as in control/http/protocol.py
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with less, a browser's forms have no Origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def create_ui(api: Flask, peer_cert: PeerCert) -> Flask:
    """The page over `api`, which is what control.api.app.create_app makes: all that is seen and
    done here, its handlers do. `peer_cert` as there."""
    app = Flask("control.ui", static_url_path="/ui/static")
    with api.app_context():
        key = store().settings.cluster().jwt_key.encode()
    app.config.update(
        # Another key than that of the API's tokens, and the same on each control plane of ours.
        SECRET_KEY=hmac.digest(key, b"sessions of the web page", hashlib.sha256),
        MAX_CONTENT_LENGTH=BODY,
        MAX_FORM_MEMORY_SIZE=BODY,
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=login.IDLE),
        SESSION_COOKIE_NAME="__Host-certauth",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PATH="/",
    )
    app.extensions.update(api=api, peer_cert=peer_cert)
    app.url_map.strict_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(csrf=login.csrf, may=may, menu=MENU)
    app.jinja_env.filters.update(time=rendered_time, exact=lists.exact, ago=lists.ago)
    app.before_request(login.admit)
    app.after_request(secured)
    app.register_error_handler(Refusal, refused)
    app.register_error_handler(HTTPException, http_error)
    for kind in api.extensions["away"]:
        app.register_error_handler(kind, away)
    app.register_error_handler(Exception, bug)
    for module in MODULES:
        app.register_blueprint(module.blueprint)
    app.add_url_rule("/", view_func=lambda: redirect("/ui/"), endpoint="root")
    return app


def secured(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint == "static" and response.status_code < 400:
        response.headers["Cache-Control"] = "private, max-age=3600"
    else:
        response.headers["Cache-Control"] = "no-store"
    return response


# ---- Errors --------------------------------------------------------------------------------------


def refused(error: Refusal) -> Any:
    """What the API does not do, or not for this person, as a page."""
    if error.status == HTTPStatus.UNAUTHORIZED:
        # A scheme that no browser knows: it shows the page, and no window of its own.
        return login.form(error), error.status, {"WWW-Authenticate": "Form"}
    if error.error_code == "not_our_form" and request.endpoint == "login.enter":
        return login.form(error), error.status  # its cookie has ended while nobody was there
    title = HTTPStatus(error.status).phrase
    return render_template("error.html", title=title, error=error, who=g.get("who")), error.status


def http_error(error: HTTPException) -> Any:
    status = error.code or 500
    if status < 400:
        return error.get_response()
    return refused(Refusal(status, error.name.lower().replace(" ", "_"), error.description or ""))


def away(error: Exception) -> Any:
    locked = current_app.extensions["api"].extensions["locked"]
    return refused(database_away(locked(error)))


def bug(error: Exception) -> Any:
    # The text of an unexpected error may hold anything, so it goes to the log.
    log.error("a page failed", exc_info=error)
    return refused(Refusal(500, "internal_error", "the control plane failed; its log says why"))
