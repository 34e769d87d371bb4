"""OCSP (RFC 6960): asking about one certificate and judging the answer; answering for a CA of ours.

An answer counts as a whole or not at all: it is signed by the CA itself, or by a certificate that
this CA has issued for just that; it is about the certificate that was asked about; and its time has
come and has not passed. All else is refused by name.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.pki.crl import Entry, hex_serial
from control.pki.guarded import CertificateError, CrlError, guarded
from control.pki.issue import CLOCK_SKEW
from control.pki.keys import hash_for, load_key, weakness_of
from control.pki.pem import Issued, identity_of, load_der, printable_name
from control.pki.reading import Element, element
from control.policy import core

Kind = TypeVar("Kind", bound=x509.ExtensionType)
LIFETIME = timedelta(hours=1)  # of our own answers
NONCE = 32  # bytes that are repeated (RFC 8954)
MOST = 10  # certificates in an answer that are looked at
UNDATED = timedelta(days=1)  # an answer that does not say until when it is good counts so long
HASHES: tuple[type[hashes.HashAlgorithm], ...] = (
    hashes.SHA1, hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512,
)  # fmt: skip
IsRevoked = Callable[[Sequence[str]], bool]  # whether any of these `revoke` lines is known


@dataclass(frozen=True)
class Asked:
    """Who is asked about: a certificate by its number (hex), and the CA that issued it, DER; with
    the random bytes that the answer has to repeat, if it repeats any."""

    issuer: bytes
    serial: str
    nonce: bytes


@dataclass(frozen=True)
class Answer:
    """What counts of an answer. Times are seconds since 1970."""

    revoked: bool
    this_update: int
    next_update: int


# ---- Asking --------------------------------------------------------------------------------------


def request(asked: Asked) -> bytes:
    """A question as it is sent. The CA is named by SHA-1, as RFC 5019 has it: many responders know
    no other, and nothing is trusted for it."""
    with guarded("the question cannot be made", "ocsp_ca"):
        name, key = _issuer_hashes(asked.issuer, "sha1")
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            name,
            key,
            int(asked.serial, 16),
            hashes.SHA1(),  # noqa: S303 (see above)
        )
        builder = builder.add_extension(x509.OCSPNonce(asked.nonce), critical=False)
        return builder.build().public_bytes(serialization.Encoding.DER)


def _issuer_hashes(issuer: bytes, algorithm: str) -> tuple[bytes, bytes]:
    """Of a CA's name and of its key, as its certificate has them (RFC 6960, 4.1.1)."""
    outer = element(issuer, 0, len(issuer))
    parts = _parts(_parts(outer)[0])
    name, key = parts[4:6] if parts[0].tag != 0xA0 else parts[5:7]  # without or with a version
    bits = _parts(key)[1].content[1:]
    return hashlib.new(algorithm, name.whole).digest(), hashlib.new(algorithm, bits).digest()


def _parts(one: Element | None) -> list[Element]:
    return one.elements() if one else []


# ---- Judging -------------------------------------------------------------------------------------


def read(
    content: bytes, asked: Asked, now: int, is_revoked: IsRevoked, need_nonce: bool = False
) -> Answer:
    """Judges an answer to a question, at `now` (seconds since 1970). `is_revoked` is asked about
    the certificate that signs for the CA; `need_nonce`: only an answer that repeats the nonce
    counts. Raises CrlError."""
    try:
        return _judged(content, asked, now, is_revoked, need_nonce)
    except CertificateError as error:  # of one within the answer
        raise CrlError("ocsp_malformed", f"the answer cannot be read: {error}") from error


def _judged(
    content: bytes, asked: Asked, now: int, is_revoked: IsRevoked, need_nonce: bool
) -> Answer:
    with guarded("the answer cannot be read", "ocsp_malformed"):
        found = ocsp.load_der_ocsp_response(content)
        if found.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
            status = found.response_status.name.lower()
            raise CrlError("ocsp_status", f"the responder has no answer: {status}")
        _check_signer(found, asked.issuer, datetime.fromtimestamp(now, UTC), is_revoked)
        _check_extensions(found, asked, need_nonce)
        one = _about(found, asked)
        times = _times(one, datetime.fromtimestamp(now, UTC))
        if one.certificate_status == ocsp.OCSPCertStatus.UNKNOWN:
            raise CrlError("ocsp_unknown", "the responder does not know the certificate")
        return Answer(one.certificate_status == ocsp.OCSPCertStatus.REVOKED, *times)


def _check_signer(
    found: ocsp.OCSPResponse, issuer: bytes, at: datetime, is_revoked: IsRevoked
) -> None:
    """RFC 6960, 4.2.2.2: the CA, or whom it has given that right in a certificate."""
    weak = weakness_of(found)
    if weak:
        raise CrlError("ocsp_algorithm", f"the answer is signed with {weak}, which is not taken")
    sent = [one.public_bytes(serialization.Encoding.DER) for one in found.certificates[:MOST]]
    named = [one for one in (issuer, *sent) if _is_named(found, one)]
    if not named:
        raise CrlError(
            "ocsp_signer", "the answer is signed by somebody else than the CA, and no certificate "
            "of its signer is in it"
        )  # fmt: skip
    signers = [one for one in named if _is_signed(found, one)]
    if not signers:
        raise CrlError("ocsp_signature", "the answer was not signed by the key that it names")
    if issuer not in signers:
        _check_delegate(signers[0], issuer, at, is_revoked)


def _is_named(found: ocsp.OCSPResponse, certificate: bytes) -> bool:
    """Whether the answer calls this certificate its responder."""
    if found.responder_name is not None:
        return load_der(certificate).subject == found.responder_name
    return _issuer_hashes(certificate, "sha1")[1] == found.responder_key_hash


def _is_signed(found: ocsp.OCSPResponse, certificate: bytes) -> bool:
    """Raises CrlError where that cannot be told."""
    said, signature = found.tbs_response_bytes, found.signature
    with guarded("the answer's signature cannot be checked here", "ocsp_algorithm"):
        key, used = load_der(certificate).public_key(), found.signature_hash_algorithm
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, said)
            elif isinstance(key, rsa.RSAPublicKey) and used:
                key.verify(signature, said, padding.PKCS1v15(), used)
            elif isinstance(key, ec.EllipticCurvePublicKey) and used:
                key.verify(signature, said, ec.ECDSA(used))
            else:
                raise CrlError("ocsp_algorithm", "the answer is signed with a key of another kind")
        except InvalidSignature:
            return False
    return True


def _check_delegate(delegate: bytes, issuer: bytes, at: datetime, is_revoked: IsRevoked) -> None:
    """Whether a CA has issued a certificate itself, for answering in its place, and it holds."""
    known, said = load_der(delegate), identity_of(delegate)
    name = printable_name(known.subject) or "an empty name"
    if core.issued(delegate, issuer) is not True or weakness_of(known):
        raise CrlError(
            "ocsp_signer", f"the answer is signed by '{name}', whose certificate is not of the CA"
        )
    uses, usage = _found(known, x509.ExtendedKeyUsage), _found(known, x509.KeyUsage)
    if uses is None or ExtendedKeyUsageOID.OCSP_SIGNING not in uses:
        raise CrlError("ocsp_delegate", f"'{name}' may not answer for the CA (OCSPSigning)")
    if usage is not None and not usage.digital_signature:
        raise CrlError("ocsp_delegate", f"'{name}' may not sign answers: its key usage says so")
    if not known.not_valid_before_utc <= at < known.not_valid_after_utc:
        raise CrlError("ocsp_delegate", f"the certificate of '{name}' is not valid at this time")
    key = identity_of(issuer).key
    lines = (f"revoke serial {key} {said.serial}", f"revoke cert {said.cert}",
             f"revoke key {said.key}")  # fmt: skip
    if is_revoked(lines):
        raise CrlError("ocsp_delegate", f"the certificate of '{name}' is revoked")


def _found(one: x509.Certificate, kind: type[Kind]) -> Kind | None:
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_extensions(found: ocsp.OCSPResponse, asked: Asked, need_nonce: bool) -> None:
    said = [one.value.nonce for one in found.extensions if isinstance(one.value, x509.OCSPNonce)]
    for one in found.extensions:
        if one.critical and not isinstance(one.value, x509.OCSPNonce):
            raise CrlError(
                "ocsp_extension",
                f"the answer has the critical extension {one.oid.dotted_string}, which is not "
                "known here",
            )
    if said and said != [asked.nonce]:
        raise CrlError("ocsp_nonce", "the answer is to another question: it has another nonce")
    if need_nonce and not said:
        raise CrlError("ocsp_nonce", "the answer does not repeat the nonce of the question")


def _about(found: ocsp.OCSPResponse, asked: Asked) -> ocsp.OCSPSingleResponse:
    """What it says of the certificate that was asked about."""
    one, *others = found.responses
    if others:
        raise CrlError("ocsp_other", "the answer is about several certificates")
    known = isinstance(one.hash_algorithm, HASHES)
    hashed = _issuer_hashes(asked.issuer, one.hash_algorithm.name) if known else None
    same = (one.issuer_name_hash, one.issuer_key_hash) == hashed
    if not same or one.serial_number != int(asked.serial, 16):
        raise CrlError("ocsp_other", "the answer is about another certificate")
    for extension in found.single_extensions:
        if extension.critical:
            oid = extension.oid.dotted_string
            raise CrlError(
                "ocsp_extension", f"the answer has the critical extension {oid}, not known here"
            )
    return one


def _times(one: ocsp.OCSPSingleResponse, at: datetime) -> tuple[int, int]:
    """thisUpdate and nextUpdate."""
    this, following = one.this_update_utc, one.next_update_utc
    following = following or this + UNDATED
    if this > at + CLOCK_SKEW:
        raise CrlError("ocsp_not_yet", f"the answer is of the future: {this:%F %T} (thisUpdate)")
    if following <= at - CLOCK_SKEW:
        raise CrlError("ocsp_expired", f"the answer was good until {following:%F %T} (nextUpdate)")
    return int(this.timestamp()), int(following.timestamp())


# ---- Answering -----------------------------------------------------------------------------------


class Question(NamedTuple):
    """What somebody asks a CA of ours: `serial` is hex, as in policy lines."""

    serial: str
    found: ocsp.OCSPRequest
    nonce: bytes


def question(content: bytes, issuer: bytes) -> Question | None:
    """What is asked about a certificate of this CA, DER; None of what is about another CA's. Raises
    CrlError where that cannot be read, or asks about several."""
    with guarded("the question cannot be read", "ocsp_malformed"):
        found = ocsp.load_der_ocsp_request(content)
        nonces = [
            one.value.nonce for one in found.extensions if isinstance(one.value, x509.OCSPNonce)
        ]
        nonce = nonces[0] if nonces else b""
        if len(nonce) > NONCE or not isinstance(found.hash_algorithm, HASHES):
            raise CrlError("ocsp_malformed", "a nonce that is too long, or an unknown hash")
        hashed = _issuer_hashes(issuer, found.hash_algorithm.name)
        if (found.issuer_name_hash, found.issuer_key_hash) != hashed:
            return None
        return Question(hex_serial(found.serial_number), found, nonce)


def answer(
    authority: Issued, asked: Question, revoked: Entry | None, known: bool, now: int
) -> bytes:
    """What a CA of ours says of a certificate, DER: that it is revoked, or good where it is `known`
    here. Raises CrlError."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    status = ocsp.OCSPCertStatus.GOOD if known else ocsp.OCSPCertStatus.UNKNOWN
    at, when, why = datetime.fromtimestamp(now, UTC), None, None
    if revoked:
        status, when = ocsp.OCSPCertStatus.REVOKED, datetime.fromtimestamp(revoked.time, UTC)
        why = None if revoked.reason == "unspecified" else x509.ReasonFlags(revoked.reason)
    with guarded("the answer cannot be signed", "ocsp_malformed"):
        key, of = load_key(authority.key), asked.found
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            of.issuer_name_hash, of.issuer_key_hash, of.serial_number, of.hash_algorithm, status,
            at, at + LIFETIME, when, why,
        )  # fmt: skip
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
        if asked.nonce:
            builder = builder.add_extension(x509.OCSPNonce(asked.nonce), critical=False)
        return builder.sign(key, hash_for(key)).public_bytes(serialization.Encoding.DER)


Unanswered = Literal["MALFORMED_REQUEST", "INTERNAL_ERROR", "UNAUTHORIZED"]


def no_answer(why: Unanswered) -> bytes:
    """An answer without one: nobody has signed it."""
    made = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus[why])
    return made.public_bytes(serialization.Encoding.DER)
