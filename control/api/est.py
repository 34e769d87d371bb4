"""/.well-known/est: enrolment over secure transport (RFC 7030, with the base64 of RFC 8951), for
devices that speak nothing else. The rules are those of /v1/certauth/enrol.

A client shows a token, or a certificate in TLS; `label` is the name of the issuer that is meant,
where the address has one. Errors are a sentence of plain text."""

import base64
import binascii
import json

from flask import Blueprint, Response, current_app, request

from control.api.issuers import Came, enrolling
from control.api.web import PUBLIC, guard, needs, store
from control.domain import devices, enrolment
from control.domain.guard import authorization_of
from control.errors import Refusal, invalid, unauthorized
from control.pki import jose
from control.pki.jose import TokenError
from control.pki.pem import Issued, certs_only, split_pem
from control.reports import ClientCertificate

BODY = 64 << 10  # bytes of a request: the base64 of a CSR with an RSA-16384 key has 6 KiB
REQUEST = "application/pkcs10"
CERTIFICATES = "application/pkcs7-mime"
BEARER = 'Bearer realm="redis-certauth"'
NOT_SERVED = ("serverkeygen", "fullcmc")
READ, SENT = ("cacerts", "csrattrs"), ("simpleenroll", "simplereenroll")

blueprint = Blueprint("est", __name__)


@blueprint.get("/.well-known/est/<operation>")
@needs(PUBLIC, answers=CERTIFICATES)
def read(operation: str) -> Response:
    """cacerts: the CAs of clients' certificates. csrattrs: that a CSR needs nothing (204)."""
    return reading(operation)


@blueprint.get("/.well-known/est/<label>/<operation>")
@needs(PUBLIC, answers=CERTIFICATES)
def read_labelled(label: str, operation: str) -> Response:
    """The same: they are those of all issuers."""
    return reading(operation)


@blueprint.post("/.well-known/est/<operation>")
@needs(PUBLIC, answers=CERTIFICATES)
def send(operation: str) -> Response:
    """simpleenroll, by a token or a birth certificate; simplereenroll, by a certificate from here.
    The body is the base64 of a CSR."""
    return sending(operation, "")


@blueprint.post("/.well-known/est/<label>/<operation>")
@needs(PUBLIC, answers=CERTIFICATES)
def send_labelled(label: str, operation: str) -> Response:
    """The same, of the issuer with this name alone."""
    return sending(operation, label)


def reading(operation: str) -> Response:
    if operation == "cacerts":
        return certificates(authority().certificate)
    if operation == "csrattrs":
        return Response(status=204)  # RFC 7030 4.5.2: there is nothing that a CSR has to have
    raise not_read(operation, SENT, "POST")


def sending(operation: str, label: str) -> Response:
    if operation == "simpleenroll":
        return enrol(label)
    if operation == "simplereenroll":
        return renew(label)
    raise not_read(operation, READ, "GET")


def not_read(operation: str, others: tuple[str, ...], method: str) -> Refusal:
    """Why this address does not answer to this method."""
    if operation in NOT_SERVED:
        return Refusal(501, "not_implemented", f"{operation} is not served here: keys are made "
                       "where they are used, and simpleenroll takes the CSR")  # fmt: skip
    if operation in others:
        return Refusal(405, "method_not_allowed", f"{operation} is asked with {method}")
    return Refusal(404, "not_found", f"EST has no such operation here: {', '.join(READ + SENT)}")


def authority() -> Issued:
    """The CA of clients. Raises Refusal 503 where there is none."""
    try:
        found: Issued = current_app.extensions["authority"]()
    except Refusal as error:
        raise Refusal(503, error.error_code, error.description) from error
    return found


def certificates(pem: str) -> Response:
    """The answer with these certificates alone. It is base64, whatever a header says of it
    (RFC 8951 3.1); older clients want the header."""
    response = Response(base64.encodebytes(certs_only(pem)), mimetype=CERTIFICATES)
    response.headers["Content-Type"] = f"{CERTIFICATES}; smime-type=certs-only"
    response.headers["Content-Transfer-Encoding"] = "base64"
    return response


# ---- Enrolling -----------------------------------------------------------------------------------


def shown() -> str | bytes:
    """What a client has shown: a token, or the certificate of its TLS session (PEM, with those
    above it). An Authorization header counts before a certificate, as at a login. A client that
    knows no Bearer sends the token as the password of Basic. Raises Refusal 401."""
    if "Authorization" not in request.headers:
        return presented()
    given = authorization_of(request)
    if given.kind:
        return given.secret
    text = "the Authorization header is not Bearer, or Basic with the token as its password"
    raise unauthorized("bad_authorization", text)


def presented() -> bytes:
    """The certificate of the TLS session, as the proxy names it where there is one. Raises
    Refusal 401."""
    found = guard().presented(request)
    if not found:
        raise unauthorized(
            "missing_credentials", "show a token (Authorization: Bearer), or connect with a "
            "client certificate",
        )  # fmt: skip
    return found


def enrol(label: str) -> Response:
    with enrolling() as came:
        csr, what = sent(), shown()
        if isinstance(what, str):
            made = by_token(what, label, csr, came)
        else:
            made = by_birth(what, label, csr, came)
    return certificates(leaf_of(made))


def by_token(text: str, label: str, csr: str, came: Came) -> ClientCertificate:
    token = jose.read_token(text)
    came.issuer = enrolment.issuer_of(store(), token, label).name
    policies, keys = current_app.extensions["policies"], current_app.extensions["keys"]
    return enrolment.enrol(policies, guard().decide, authority(), keys, token, csr)


def by_birth(certificate: bytes, label: str, csr: str, came: Came) -> ClientCertificate:
    issuer, leaf = devices.born(store(), certificate, label)
    came.issuer = issuer.name
    policies = current_app.extensions["policies"]
    try:
        return devices.enrol(policies, guard().decide, authority(), issuer, leaf, csr)
    except TokenError as error:
        raise TokenError(error.code, in_terms_of_birth(str(error))) from error
    except Refusal as error:
        text = in_terms_of_birth(error.description)
        raise Refusal(error.status, error.error_code, text) from error


def in_terms_of_birth(text: str) -> str:
    """What the rules say of a token, of the certificate that stands for it."""
    return text.replace("the token", "the birth certificate")


def renew(label: str) -> Response:
    """By the certificate alone: a header is for those who begin."""
    with enrolling() as came:
        csr, certificate = sent(), presented()
        known = devices.issued_here(store(), authority(), certificate)
        issuer = devices.issuer_of(store(), known, label)
        came.issuer = issuer.name if issuer else ""
        if issuer is None and guard().by_certificate(request).user.name != known.user:
            raise unauthorized("user_missing", "this certificate is another user's by now")
        policies = current_app.extensions["policies"]
        made = devices.renew(policies, guard().decide, authority(), known, issuer, csr)
    return certificates(leaf_of(made))


def leaf_of(made: ClientCertificate) -> str:
    """What was issued, and nothing else (RFC 7030 4.2.3): those above it are cacerts."""
    return split_pem(made.pem)[0]


def sent() -> str:
    """The CSR of the body, as text that read_request takes. Raises Refusal 400, 413, 415."""
    if request.mimetype != REQUEST:
        raise Refusal(415, "invalid_content_type", f"send the CSR as Content-Type: {REQUEST}")
    content = request.get_data()
    if len(content) > BODY:
        raise Refusal(413, "body_too_large", f"the body has more than {BODY} bytes")
    try:
        base64.b64decode(b"".join(content.split()), validate=True)
        return content.decode("ascii")
    except (binascii.Error, ValueError):
        raise invalid(
            "invalid_certificate", "the body is not the base64 of a CSR: openssl req -outform DER "
            "… | openssl base64",
        ) from None  # fmt: skip


@blueprint.after_request
def in_words(response: Response) -> Response:
    """A refusal as a sentence. 406 is about what a client wants to read, in EST; here it is that
    something may not be."""
    if response.status_code >= 400 and response.is_json:
        text = str(json.loads(response.get_data())["description"])
        response.set_data(f"{text}\n")
        response.mimetype = "text/plain"
    if response.status_code == 406:
        response.status_code = 403
    if response.status_code == 401:
        response.headers.add("WWW-Authenticate", BEARER)
    return response
