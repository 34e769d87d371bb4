"""Certificates of clients: one for oneself from a CSR, those that are known, and to revoke them."""

from http import HTTPStatus
from typing import Any, get_args

from flask import Blueprint, Response, render_template, request

from control.errors import Refusal
from control.records import Reason
from control.ui import changes
from control.ui.ask import ask, may, who
from control.ui.changes import Change
from control.ui.fields import pasted
from control.ui.objects import offset_of

blueprint = Blueprint("certificates", __name__, url_prefix="/ui/certificates")
PAGE = 50
LABELS = {"csr": "CSR", "user": "For the user", "profile": "Profile"}
REASONS = get_args(Reason)


@blueprint.get("/")
def show(error: Refusal | None = None, made: Any = None) -> Any:
    """The form to ask for one, and the list."""
    offset, user = offset_of(request.args), request.args.get("user", "")
    search = request.args.get("search", "").strip()
    expiring = "" if "expiring" in request.args else None
    found = []
    if may("view_all_users_info"):
        found = ask(
            "GET /v1/certauth/certificates", user=user or None, expiring=expiring,
            search=search or None, limit=PAGE + 1, offset=offset,
        )  # fmt: skip
    seen = may("view_cluster_info")
    page = render_template(
        "certificates.html", certificates=found[:PAGE], more=len(found) > PAGE, offset=offset,
        limit=PAGE, user=user, expiring=expiring is not None, made=made, sent=request.form,
        args=({"user": user} if user else {}) | ({} if expiring is None else {"expiring": "on"})
        | ({"search": search} if search else {}), search=search,
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
    return render_template("certificate.html", item=found, reasons=REASONS)


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
