"""Certificates of clients: one for oneself from a CSR, those that are known, and to revoke them."""

import time
from http import HTTPStatus
from typing import Any, get_args

from flask import Blueprint, Response, render_template, request

from control.errors import Refusal
from control.records import Reason, rendered_time
from control.ui import changes, lists
from control.ui.ask import answer, ask, may, offset_of, who
from control.ui.audit import as_csv
from control.ui.changes import Change
from control.ui.fields import is_number, pasted
from control.ui.users import named

# States of certificates: what they are called, and how good that is.
STATES = {
    "valid": "good", "expiring": "warn", "superseded": "idle", "orphaned": "warn",
    "expired": "bad", "revoked": "bad",
}  # fmt: skip
DAY = 86400  # seconds
blueprint = Blueprint("certificates", __name__, url_prefix="/ui/certificates")
PAGE = 50
LABELS = {"csr": "CSR", "user": "For the user", "profile": "Profile"}
REASONS = get_args(Reason)
HEADS = (
    ("Subject", "subject"), ("State", ""), ("User", "user"), ("Ends", "not_after"),
    ("Last login", "last_login"), ("Issued here", ""),
)  # fmt: skip


@blueprint.get("/")
def show(error: Refusal | None = None, made: Any = None) -> Any:
    """The form to ask for one, and the list."""
    offset, user = offset_of(request.args), request.args.get("user", "")
    search = request.args.get("search", "").strip()
    expiring = "" if "expiring" in request.args else None
    state, ca, ends = (request.args.get(name, "").strip() for name in ("state", "ca", "days"))
    found, total = [], None
    if may("view_all_users_info"):
        before = rendered_time(int(time.time()) + int(ends) * DAY) if is_number(ends[:5]) else None
        answered = answer("GET /v1/certauth/certificates", query={
            "user": user or None, "expiring": expiring, "search": search or None,
            "state": state or None, "ca": ca or None, "expires_before": before,
            "sort": lists.sort_of(HEADS), "limit": PAGE + 1, "offset": offset,
        })  # fmt: skip
        found, total = answered.content, answered.total
    seen = may("view_cluster_info")
    args = {name: value for name, value in request.args.items()
            if value and name not in ("offset", "for")}  # fmt: skip
    page = render_template(
        "certificates.html", heads=lists.heads("certificates.show", HEADS, args), total=total,
        certificates=found[:PAGE], more=len(found) > PAGE, offset=offset,
        limit=PAGE, user=user, expiring=expiring is not None, made=made, sent=request.form,
        args=args, search=search, state=state, states=STATES, ca=ca, days=ends,
        authorities=ask("GET /v1/certauth/ca")["cas"] if seen else [],
        whom=request.args.get("for", ""),
        profiles=ask("GET /v1/certauth/profiles") if seen else [],
        revoked=ask("GET /v1/certauth/revocations", limit=PAGE) if seen else [],
        errors=changes.problems(error, LABELS) if error else [], own=who().user.name,
    )  # fmt: skip
    return page, error.status if error else HTTPStatus.OK


@blueprint.post("/")
def issue() -> Any:
    body = {name: request.form.get(name, "").strip() for name in LABELS} | {"csr": pasted("csr")}
    try:
        made = ask("POST /v1/certauth/certificates", {k: v for k, v in body.items() if v})
    except Refusal as error:
        if error.status == HTTPStatus.UNAUTHORIZED:
            raise
        return show(error)
    return show(made=made)


@blueprint.get("/<cert>")
def item(cert: str) -> Any:
    found = ask(f"GET /v1/certauth/certificates/{cert}")
    return render_template(
        "certificate.html", item=found, reasons=REASONS, states=STATES, who_revoked=revoker(found),
        owner=named(found["user"]), days=(found["not_after"] - int(time.time())) // DAY,
    )  # fmt: skip


def revoker(item: dict[str, Any]) -> str:
    """Who has revoked a certificate, as the log has it."""
    if not item["revocation"] or not may("view_logged_events"):
        return ""
    line = item["revocation"]["line"]
    found = ask("GET /v1/logs", type="revoked", search=line, order="desc", limit=1)
    return found[0].get("originating_username", "") if found else ""


@blueprint.get("/export.csv")
def export() -> Any:
    """All that fit, as a file."""
    query = {name: request.args.get(name) for name in ("user", "search", "state", "ca")}
    query["sort"] = lists.sort_of(HEADS)
    found = ask("GET /v1/certauth/certificates", **{k: v or None for k, v in query.items()})
    rows = [(one["subject"], " ".join(one["sans"]), one["user"], one["state"],
             rendered_time(one["not_after"]) if one["not_after"] else "",
             rendered_time(one["last_login"]) if one["last_login"] else "", one["issuer"],
             one["serial"], one["cert"]) for one in found]  # fmt: skip
    heads = ("subject", "sans", "user", "state", "ends", "last_login", "issuer", "serial", "sha256")
    return as_csv("certificates", heads, rows)


@blueprint.get("/<cert>/pem")
def pem(cert: str) -> Any:
    """As a file; of what was issued here."""
    found = ask(f"GET /v1/certauth/certificates/{cert}")
    name = f'attachment; filename="{cert[:16]}.crt"'
    headers = {"Content-Disposition": name}
    return Response(found["certificate"], mimetype="application/x-pem-file", headers=headers)


@blueprint.post("/<cert>/revoke")
def revoke(cert: str) -> Any:
    """By its number where its CA is known, as the API does."""
    found = ask(f"GET /v1/certauth/certificates/{cert}")
    names = ("ca", "serial") if found["ca"] else ("cert",)
    reason = request.form.get("reason", "unspecified")
    body = {**{name: found[name] for name in names}, "reason": reason}
    name = found["subject"] or f"the certificate {found['serial']}"
    change = Change(
        "POST", "/v1/certauth/revocations", body, f"Revoke {name}",
        f"{name} is revoked.", f"/ui/certificates/{cert}",
    )  # fmt: skip
    return changes.run(change, {"reason": reason}, lambda _: "/ui/certificates/")


@blueprint.post("/revocations/<int(max=2147483647):uid>/restore")
def restore(uid: int) -> Any:
    path = f"/v1/certauth/revocations/{uid}"
    change = Change(
        "DELETE", path, None, "Take the revocation back", "The revocation is taken back.",
        "/ui/certificates/",
    )  # fmt: skip
    return changes.run(change, {}, lambda _: "/ui/certificates/")


@blueprint.post("/of/<int(max=2147483647):uid>/revoke")
def revoke_all(uid: int) -> Any:
    """All that are known of a user."""
    name = ask(f"GET /v1/users/{uid}")["name"]
    reason = request.form.get("reason", "unspecified")
    change = Change(
        "POST", "/v1/certauth/revocations", {"user_uid": uid, "reason": reason},
        f"Revoke all certificates of {name}", f"All certificates of {name} are revoked.",
        f"/ui/users/{uid}",
    )  # fmt: skip
    return changes.run(change, {"reason": reason}, lambda _: f"/ui/users/{uid}")
