"""Whose a certificate is, on each database and here, step by step; and why a client was refused."""

from typing import Any

from flask import Blueprint, render_template, request

from control.errors import Refusal
from control.ui import changes, repair
from control.ui.ask import ask, may
from control.ui.fields import is_number, pasted

blueprint = Blueprint("explain", __name__, url_prefix="/ui/explain")
LABELS = {"certificate": "Certificate", "address": "Address"}
KNOWN = ("subject", "serial", "cert", "key", "ca")
HERE = "This page and the API"


@blueprint.get("/")
def show() -> Any:
    """The form; or why the client was refused that the query names, as the audit links to it."""
    sent = request.args
    if "cert" not in sent:
        return page({}, [])
    known: dict[str, Any] = {name: sent[name] for name in KNOWN if sent.get(name)}
    known = {"subject": "", **known, "sans": sent.getlist("sans")}
    if is_number(sent.get("not_after", "")):
        known["not_after"] = int(sent["not_after"])
    body: dict[str, Any] = {"known": known}
    if address := host_of(sent.get("address", "")):
        body["address"] = address
    return explained(body, sent.get("bdb_uid", ""))


@blueprint.post("/")
def explain() -> Any:
    body = {"certificate": pasted("pem"), "address": request.form.get("address", "").strip()}
    body = {name: value for name, value in body.items() if value}
    return explained(body, "")


def host_of(address: str) -> str:
    """Of a host and a port."""
    return address.rpartition(":")[0].strip("[]") if ":" in address else address


def explained(body: dict[str, Any], only: str) -> Any:
    """On each database, or on the `only` one of them by uid; of a certificate, here too."""
    databases = ask("GET /v1/bdbs", fields="uid,name") if may("view_all_bdbs_info") else []
    places: list[tuple[str, dict[str, Any]]]
    places = [(one["name"], {"bdb_uid": one["uid"]}) for one in databases
              if only in ("", str(one["uid"]))]  # fmt: skip
    if "known" not in body:
        places.append((HERE, {}))
    found = []
    try:
        for name, where in places:
            told = ask("POST /v1/certauth/explain", {**body, **where})
            cures = list(repair.cures(body, told, where.get("bdb_uid")))
            found.append((name, {**told, "steps": repair.steps(told), "cures": cures}))
    except Refusal as error:
        if error.status != 400:
            raise
        return page(body, [], error)
    return page(body, found)


def page(body: dict[str, Any], found: list[tuple[str, Any]], error: Refusal | None = None) -> Any:
    text = render_template(
        "explain.html", body=body, found=found,
        errors=changes.problems(error, LABELS) if error else [],
    )  # fmt: skip
    return text, error.status if error else 200
