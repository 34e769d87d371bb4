"""The CAs that clients come from: who depends on each, and those of the cluster to add or remove.
What a database has of its own is edited there."""

from dataclasses import replace
from http import HTTPStatus
from typing import Any

from flask import Blueprint, render_template, request

from control.errors import Refusal, invalid, missing
from control.pki.facts import facts_of, named
from control.pki.pem import CertificateError, split_pem
from control.pki.uploads import merge_bundles
from control.policy import core
from control.records import TRUSTED_CA
from control.ui import changes
from control.ui.ask import ask, may
from control.ui.changes import Change
from control.ui.fields import pasted

blueprint = Blueprint("cas", __name__, url_prefix="/ui/cas")
LABELS = {"certificate": "Certificates"}


@blueprint.get("/")
def show(error: Refusal | None = None) -> Any:
    found = ask("GET /v1/certauth/ca")
    page = render_template(
        "cas.html", cas=found["cas"], silent=found["silent"], names=places(),
        removed=found["removed"], pins=found["pins"],
        own={core.identity(one.encode()).key for one in split_pem(trusted())},
        pem=request.form.get("pem", ""), errors=changes.problems(error, LABELS) if error else [],
    )  # fmt: skip
    return page, error.status if error else HTTPStatus.OK


@blueprint.get("/<string(length=64):key>")
def item(key: str) -> Any:
    """One of them: what it is, where it counts, and its certificate to take along."""
    found = ask("GET /v1/certauth/ca")
    one = next((one for one in found["cas"] if one["ca"] == key), None)
    pem = next((one for one in known() if core.identity(one.encode()).key == key), "")
    if one is None:
        raise missing("such CA")
    return render_template("ca.html", one=one, pem=pem, facts=facts_of([pem]) if pem else [],
                           names=places())  # fmt: skip


def known() -> list[str]:
    """The certificates of CAs that the person may see: of the cluster, and of databases."""
    found = split_pem(trusted())
    if may("view_all_bdbs_info"):
        for one in ask("GET /v1/bdbs", fields="uid,authentication_ssl_client_certs"):
            for cert in one["authentication_ssl_client_certs"]:
                found += split_pem(cert["client_cert"])
    return found


def places() -> dict[int, str]:
    """What the places are called where CAs count."""
    names = {0: "this page and the API"}
    if may("view_all_bdbs_info"):
        names |= {one["uid"]: one["name"] for one in ask("GET /v1/bdbs", fields="uid,name")}
    return names


def trusted() -> str:
    """PEM of the CAs of the cluster, with those above them."""
    found: str = ask("GET /v1/cluster/certificates").get(f"{TRUSTED_CA}_cert", "")
    return found


@blueprint.post("/add")
def add() -> Any:
    pem = pasted("pem")
    try:
        before = split_pem(trusted())
        together = merge_bundles("".join(before), pem)
        new = [one for one in split_pem(together) if one not in before]
        names = [named(one) for one in new]
        title = f"Trust {', '.join(names[:3])}" if names else "Trust these CAs too"
        change = replaced(together, title, "More CAs are trusted.")
        change = replace(change, name=names[0] if names else "yes", facts=facts_of(new))
        return changes.run(change, {"pem": pem}, lambda _: "/ui/cas/")
    except CertificateError as error:
        return show(invalid("invalid_certificate", f"certificate: {error}"))
    except Refusal as error:
        if error.status != HTTPStatus.BAD_REQUEST:
            raise
        return show(error)


@blueprint.post("/<key>/remove")
def remove(key: str) -> Any:
    kept, gone = [], ""
    for block in split_pem(trusted()):
        identity = core.identity(block.encode())
        if identity.key == key:
            gone = named(block)
        else:
            kept.append(block)
    if not gone:
        raise missing("such CA of the cluster")
    title, done = f"Trust {gone} no more", f"{gone} is trusted no more."
    change = replace(replaced("".join(kept), title, done), name=gone)
    return changes.run(change, {}, lambda _: "/ui/cas/")


def replaced(pem: str, title: str, done: str) -> Change:
    """The cluster's CAs become these."""
    if not pem:
        path = f"/v1/cluster/certificates/{TRUSTED_CA}"
        return Change("DELETE", path, None, title, done, "/ui/cas/")
    body = {"name": TRUSTED_CA, "certificate": pem}
    return Change("PUT", "/v1/cluster/update_cert", body, title, done, "/ui/cas/")
