"""/v1/cluster/certificates, and the older /v1/cluster/update_cert.

Two certificates have a use here: `mtls_trusted_ca`, which clients are judged by, and `api`, which
this server shows. Private keys never leave."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, current_app
from pydantic import BaseModel, ConfigDict, Field

from control import records
from control.api import rotation
from control.api.models import Answer, Body, Filled, Many, Pem, Sha256
from control.api.web import CHANGING, answer, needs, store, warn
from control.errors import forbidden, invalid, missing
from control.pki import trust
from control.pki.pem import identity_of
from control.pki.uploads import check_server, check_trust, read_bundle, weakness
from control.records import API, TRUSTED_CA, Certificate


class RotateBody(Body):
    name: Filled = "api"

    OPTIONAL = True


class CertificateBody(Body):
    name: Filled
    certificate: Pem
    key: Pem = ""
    client_cas: Many[Sha256] = []
    trust_grows: bool = False


class CertificatesBody(Body):
    certificates: Annotated[Many[CertificateBody], Field(min_length=1)]


class UploadedAnswer(BaseModel):
    """A certificate of an upload for `mtls_trusted_ca`, and what it became: `use` is `clients`
    (they come from it), `above` (only CAs below it are trusted) or `left_out`; `why` says why."""

    model_config = ConfigDict(strict=True, extra="forbid")
    cert: str
    ca: str
    subject: str
    use: Literal["clients", "above", "left_out"]
    why: str


class InstalledAnswer(Answer):
    certificates: list[UploadedAnswer] = []


class CertificatesAnswer(Answer):
    api_cert: str = ""
    mtls_trusted_ca_cert: str = ""


blueprint = Blueprint("certificates", __name__)
NAMES = (TRUSTED_CA, API)
# Of parts that Redis Enterprise has: a script that renews all of them renews ours.
THEIRS = frozenset(
    {"cm", "proxy", "metrics_exporter", "syncer", "ccs_internode_encryption"}
    | {"data_internode_encryption"}
)


@blueprint.get("/v1/cluster/certificates")
@needs("view_cluster_info", answers=CertificatesAnswer)
def read() -> Response:
    found = store().settings.certificates()
    return answer({f"{name}_cert": found[name].certificate for name in NAMES if name in found})


@blueprint.put("/v1/cluster/certificates")
@needs(
    "update_cluster", takes=CertificatesBody, answers=InstalledAnswer, query=(*CHANGING, "force")
)
def update_all(sent: CertificatesBody) -> Response:
    entries = sent.certificates
    if len({entry.name for entry in entries}) < len(entries):
        raise invalid("duplicated_certs", "certificates: a name appears twice")
    return put(entries)


@blueprint.put("/v1/cluster/update_cert")
@needs("update_cluster", takes=CertificateBody, answers=InstalledAnswer, query=(*CHANGING, "force"))
def update_one(sent: CertificateBody) -> Response:
    return put([sent])


def put(entries: list[CertificateBody]) -> Response:
    """Installs them, unless a CA would go that is still in use, or more would be trusted than was
    agreed to."""
    theirs = sorted(entry.name for entry in entries if entry.name in THEIRS)
    entries = [entry for entry in entries if entry.name not in THEIRS] or entries
    certificates = [checked(entry) for entry in entries]
    sent = {entry.name: entry for entry in entries}

    def settle(one: Certificate) -> Certificate:
        return trusting(one, sent[one.name]) if one.name == TRUSTED_CA else one

    after = [trust_of(settle(one)) for one in certificates if one.name == TRUSTED_CA]
    users = rotation.check_cluster(after[0]) if after else []
    store().settings.put_certificates(certificates, settle)
    rotation.note(users)
    for one in after:
        rotation.warn_of_serving(one)
    if theirs:
        warn(
            f"certificates: {', '.join(theirs)}: not installed, because this product does not "
            "use them"
        )
    shown = [one for entry in entries if entry.name == TRUSTED_CA for one in uploaded(entry, after)]
    return answer({"certificates": shown} if shown else {})


ONLY_ABOVE = (
    "this CA issued another CA of the upload, so clients that it issued directly are refused. "
    "If they should log in too, send its `ca` in client_cas together with the other CAs of "
    "clients"
)


def uploaded(entry: CertificateBody, after: Sequence[records.Trust]) -> list[dict[str, Any]]:
    """What each certificate of an upload became."""
    found = read_bundle(entry.certificate)
    above = {der for one in after for der in one.anchors}
    weak = {der: weakness(der) for der in found.certificates}
    why = {der: weak[der] or ONLY_ABOVE * (der in above) for der in found.certificates}
    uses = {der: "above" if der in above else "clients" for der in found.certificates}
    made = [(der, uses[der], why[der]) for der in found.certificates]
    made += [(der, "left_out", text) for der, text in found.left_out]
    return [
        {"cert": leaf.cert, "ca": leaf.key, "subject": leaf.subject, "use": use, "why": text}
        for der, use, text in made
        for leaf in [identity_of(der)]
    ]


def trusting(certificate: Certificate, sent: CertificateBody) -> Certificate:
    """With what each of its CAs is for, as the request and what is stored say. Raises
    CertificateError, Refusal 409."""
    before = trust_of(store().settings.certificates().get(TRUSTED_CA))
    clients = sent.client_cas if "client_cas" in sent.sent() else None
    uses = trust.settled(before, certificate.certificate, clients)
    made = replace(certificate, uses=uses)
    if before != records.Trust():
        rotation.check_growth(before, trust_of(made), sent.trust_grows)
    return made


def trust_of(found: Certificate | None) -> records.Trust:
    return trust.stored(found.certificate, found.uses) if found else records.Trust()


@blueprint.post("/v1/cluster/certificates/rotate")
@needs("update_cluster", takes=RotateBody, query=CHANGING)
def rotate(sent: RotateBody) -> Response:
    """A new certificate and key for this server, from the control plane's own CA."""
    if sent.name != API:
        raise forbidden(
            "unsupported_certificate",
            f"'{sent.name}' was not issued by this control plane: only '{API}' can be rotated",
        )
    current_app.extensions["rotate"]()
    return answer({})


@blueprint.delete("/v1/cluster/certificates/<name>")
@needs("update_cluster", query=(*CHANGING, "force"))
def delete(name: str) -> Response:
    if name == API:
        raise forbidden(
            "certificate_required",
            f"'{API}' is the certificate of this server: it can be replaced, not deleted",
        )
    if name not in NAMES:
        raise missing(f"certificate '{name}'")
    users = rotation.check_cluster(records.Trust())
    store().settings.delete_certificate(name)
    rotation.note(users)
    return answer({})


def checked(sent: CertificateBody) -> Certificate:
    """The certificate as it is kept. Raises CertificateError, Refusal."""
    if sent.name not in NAMES:
        raise forbidden(
            "unknown_certificate",
            f"'{sent.name}' is not a certificate of this product: the certificates of this "
            "control plane are {' and '.join(NAMES)}",
        )
    if sent.name == API:
        kept = store().settings.certificates().get(API)
        issued = check_server(sent.certificate, sent.key or (kept.key if kept else ""))
        return Certificate(API, issued.certificate, issued.key)
    if sent.key:
        raise invalid(
            "invalid_certificate",
            f"{TRUSTED_CA} takes no key: a CA's private key must stay with the CA. If anything "
            "logged this request, the key is compromised",
        )
    return Certificate(TRUSTED_CA, "".join(check_trust(sent.certificate)))
