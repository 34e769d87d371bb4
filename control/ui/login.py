"""Logging in to the page, by password or by the certificate of the connection, and out again.

A session is a signed cookie of this browser (Flask's, `__Host-`, never shown to scripts or other
sites). It holds the API's token for a password, and for a certificate only which one it was: the
API decides about it at each call. It ends after IDLE seconds without a request, and LONGEST seconds
after the login. A token is good for no longer than IDLE, so it is renewed while the page is used; a
password that changed, or a user that is locked or gone, ends it at once.

A certificate comes with each request, also with those that another site has made the browser send.
So it counts only with the cookie, which such requests do not bring (SameSite=Strict); and what
changes something needs the token of a form of ours."""

import json
import re
import secrets
import time
from base64 import b64encode
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    g,
    redirect,
    render_template,
    request,
    session,
)

from control.domain.guard import Caller
from control.errors import Refusal, forbidden, unauthorized
from control.policy import core
from control.ui.ask import answer, ask, who

blueprint = Blueprint("login", __name__, url_prefix="/ui")
IDLE = 900  # seconds
LONGEST = 12 * 3600  # seconds
RENEW = 60  # seconds: tokens that are older are renewed
OPEN = {"login.show", "login.enter"}  # without a login


# ---- Before each request -------------------------------------------------------------------------


def admit() -> Any:
    """Lets a request through whose browser has logged in. Raises Refusal 401, or 403 for a form
    that is not ours."""
    if request.endpoint == "static":
        return None
    if request.method in ("GET", "HEAD"):
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            # Its cookie stayed behind. From our own page the browser sends it.
            # A path is decoded here, and a browser takes "/\host" and "/<tab>/host" for "//host".
            return Response(render_template("continue.html", url=inside(asked_for())))
    else:
        check_form()
    if request.endpoint not in OPEN:
        g.who, g.ends = known(), IDLE
    return None


def check_form() -> None:
    """Whether a page of ours has sent this. Raises Refusal 403."""
    headers = request.headers
    elsewhere = headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
    elsewhere |= headers.get("Origin", request.host_url.rstrip("/")) != request.host_url.rstrip("/")
    sent, ours = request.form.get("csrf", "").encode(), session.get("csrf", "").encode()
    if not elsewhere and "since" not in session and request.endpoint not in OPEN:
        return  # nobody has logged in, or that has ended meanwhile: the form waits, see `kept`
    if elsewhere or not ours or not secrets.compare_digest(sent, ours):
        raise forbidden(
            "not_our_form",
            "this form is not from this page, or is older than your login: nothing was changed. "
            "Open it again",
        )


def csrf() -> str:
    """The token that each form carries."""
    return str(session.setdefault("csrf", secrets.token_urlsafe(24)))


def known() -> Caller:
    """Who has logged in. Raises Refusal 401."""
    if "since" not in session:
        raise unauthorized("login_required", "log in to see this")
    try:
        found = checked()
    except Refusal as error:
        if error.status == HTTPStatus.UNAUTHORIZED:
            session.clear()
        raise
    return found


def checked() -> Caller:
    now = int(time.time())
    if now >= session["since"] + LONGEST:
        raise unauthorized("login_required", "your login has ended: log in again")
    if now >= session["renewed"] + RENEW:
        session["renewed"] = now
        if "token" in session:
            session["token"] = ask("POST /v1/users/refresh_jwt", {"ttl": IDLE})["access_token"]
    found = answer("GET /v1/users/role").caller
    if found is None or found.cert != session.get("cert", ""):
        raise unauthorized(
            "login_required", "the connection shows another certificate now: log in again"
        )
    return found


# ---- The place itself ----------------------------------------------------------------------------


@blueprint.get("/login")
def show() -> Any:
    return redirect("/ui/") if "since" in session else form()


@blueprint.post("/login")
def enter() -> Any:
    """By password where one is sent, else by the certificate; with a new password in place of
    one that has expired."""
    sent = request.form
    name, password, new = (sent.get(one, "") for one in ("username", "password", "new_password"))
    session.clear()
    try:
        if new:
            put_password(name, password, new)
        fresh = by_password(name, new or password) if "password" in sent else by_cert()
    except Refusal as error:
        expired = bool(new) or error.error_code == "password_expired"
        return form(error, name, expired), error.status
    now = int(time.time())
    session.update(fresh, since=now, renewed=now)
    if waiting := unpacked(sent.get("kept", "")):
        return render_template("resume.html", path=waiting[0], fields=waiting[1])
    return redirect(inside(sent.get("back", "")), HTTPStatus.SEE_OTHER)


# ---- Forms that outlive a login ----

DROPPED = {"csrf", "digest", "confirm", "password", "new_password", "force", "trust_grows"}
# What is done at once: nobody does that again without meaning to.
AT_ONCE = {
    "login.leave", "login.change_password", "sessions.end", "users.set_password",
    "databases.forget", "certificates.issue",
}  # fmt: skip


def kept() -> str:
    """The form that was sent when the login had ended, for after the next one: what it does is
    shown first, as always. "" where there is none."""
    if request.endpoint in OPEN:
        return request.form.get("kept", "")
    if request.method != "POST" or request.endpoint in AT_ONCE:
        return ""
    fields = [(name, one) for name, one in request.form.items(multi=True) if name not in DROPPED]
    return json.dumps([request.path, fields])


def unpacked(text: str) -> tuple[str, list[tuple[str, str]]] | None:
    """The address and the fields of such a form."""
    try:
        path, fields = json.loads(text)
        found = [(str(name), str(value)) for name, value in fields if name not in DROPPED]
        return inside(str(path)), found
    except (ValueError, TypeError, RecursionError):
        return None


@blueprint.get("/password")
def password() -> Any:
    """One's own."""
    return render_template("password.html", error=None)


@blueprint.post("/password")
def change_password() -> Any:
    """Ends all other logins of this user, by password."""
    name, sent = who().user.name, request.form
    try:
        put_password(name, sent.get("password", ""), sent.get("new_password", ""))
        session.update(by_password(name, sent.get("new_password", "")))
    except Refusal as error:
        return render_template("password.html", error=error), error.status
    flash("You have a new password.")
    return redirect("/ui/", HTTPStatus.SEE_OTHER)


def put_password(name: str, old: str, new: str) -> None:
    """Raises Refusal, also where the old one is wrong."""
    basic = b64encode(f"{name}:{old}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    answer("PUT /v1/users/password", {"new_password": new}, headers=headers)


def asked_for() -> str:
    """The address of this request."""
    return request.full_path.rstrip("?")


def inside(address: str) -> str:
    """An address of this page, whatever a link says."""
    path = re.fullmatch(r"/ui/[A-Za-z0-9_./?=&%+-]*", address)
    return address if path and "//" not in address else "/ui/"


@blueprint.post("/logout")
def leave() -> Any:
    """Everywhere: a copy of the cookie is worth nothing any more."""
    if "token" in session:
        with suppress(Refusal):  # it has ended by itself
            ask("DELETE /v1/certauth/token")
    session.clear()
    return redirect("/ui/login", HTTPStatus.SEE_OTHER)


def by_password(name: str, password: str) -> dict[str, str]:
    given = {"username": name, "password": password, "ttl": IDLE}
    return {"token": ask("POST /v1/users/authorize", given)["access_token"]}


def by_cert() -> dict[str, str]:
    found = answer("GET /v1/users/role").caller
    return {"cert": found.cert if found else ""}


def form(error: Refusal | None = None, username: str = "", expired: bool = False) -> str:
    """The page of the login; `error` is why somebody is here."""
    back = request.form.get("back", "")
    if request.method == "GET" and request.endpoint not in OPEN:
        back = asked_for()
    return render_template(
        "login.html", error=error, username=username, expired=expired, back=back, kept=kept(),
        certificate=presented(),
    )  # fmt: skip


def presented() -> dict[str, Any] | None:
    """The certificate of this connection, and whom the API takes it for, or why for nobody."""
    found = current_app.extensions["peer_cert"](request.environ)
    if found is None:
        return None
    subject = ""
    try:
        subject = core.identity(found.chain[0]).subject
        caller = answer("GET /v1/users/role").caller
        return {"subject": subject, "user": caller.user.name if caller else "", "why": ""}
    except core.CoreError as error:
        return {"subject": "", "user": "", "why": f"it does not parse: {error}"}
    except Refusal as error:
        return {"subject": subject, "user": "", "why": error.description}
