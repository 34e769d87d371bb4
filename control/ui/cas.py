"""The CAs that clients come from: who depends on each, and those of the cluster to add or remove.
What a database has of its own is edited there."""

from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from flask import Blueprint, render_template, request

from control.errors import Refusal, invalid, missing
from control.pki.pem import CertificateError, load_certificate, printable, split_pem
from control.pki.uploads import doubts, merge_bundles
from control.policy import core
from control.records import TRUSTED_CA, rendered_time
from control.ui import changes
from control.ui.ask import ask, may
from control.ui.changes import Change
from control.ui.fields import pasted

blueprint = Blueprint("cas", __name__, url_prefix="/ui/cas")
LABELS = {"certificate": "Certificates"}


@blueprint.get("/")
def show(error: Refusal | None = None) -> Any:
    found = ask("GET /v1/certauth/ca")
    names = {0: "this page and the API"}
    if may("view_all_bdbs_info"):
        names |= {one["uid"]: one["name"] for one in ask("GET /v1/bdbs", fields="uid,name")}
    page = render_template(
        "cas.html", cas=found["cas"], silent=found["silent"], names=names,
        removed=found["removed"], pins=found["pins"],
        own={core.identity(one.encode()).key for one in split_pem(trusted())},
        pem=request.form.get("pem", ""), errors=changes.problems(error, LABELS) if error else [],
    )  # fmt: skip
    return page, error.status if error else HTTPStatus.OK


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


def named(pem: str) -> str:
    """A CA by what people call it: its CN, else its whole subject, else its key id."""
    one = core.identity(pem.encode())
    return (*core.common_names(one.subject), one.subject, one.key)[0] or one.key


def facts_of(authorities: Sequence[str]) -> list[tuple[str, str]]:
    """What one compares, before one trusts it, with what its owner reads out."""
    found: list[tuple[str, str]] = []
    for pem in authorities:
        one, parsed = core.identity(pem.encode()), load_certificate(pem)
        above = "itself" if one.issuer == one.subject else one.issuer
        found += [
            ("Subject", one.subject or "(none)"), ("Issued by", above),
            ("Valid", f"{rendered_time(one.not_before)} to {rendered_time(one.not_after)}"),
            ("Key", keyed(parsed)), ("SHA-256 of the certificate", spaced(one.cert)),
            ("SHA-256 of the key", spaced(one.key)), *constraints(parsed),
        ]  # fmt: skip
        found += [("Look at this", doubt) for doubt in doubts(pem)]
    return found


def spaced(digest: str) -> str:
    """In groups that one can read out."""
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()


def keyed(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "of a kind that is not known here"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA, {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC, {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey")


def constraints(certificate: x509.Certificate) -> list[tuple[str, str]]:
    """How far it reaches, where it says so."""
    found = []
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if basic.path_length is not None:
            found.append(("CAs below it", f"at most {basic.path_length}"))
        limits = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        for label, names in (("Only for", limits.permitted_subtrees),
                             ("Not for", limits.excluded_subtrees)):  # fmt: skip
            if names:
                found.append((label, ", ".join(printable(str(one.value)) for one in names)))
    except (ValueError, x509.ExtensionNotFound):
        pass
    return found
