"""control/pki/ocsp.py: an answer counts where the CA, or whom it has given that right, has signed
just this about just this certificate, for now. All else has its reason."""

import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509 import ocsp as rfc6960

from control.pki import ocsp
from control.pki.guarded import CrlError
from tests.kit.ocsp import SIGNING, delegate, said
from tests.kit.support import CLIENT, Cert, Pki, days, root

NONCE = bytes(range(16))
NAME = rfc6960.OCSPResponderEncoding.NAME
USAGE = dict.fromkeys(
    ("content_commitment", "data_encipherment", "key_agreement",
     "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
)  # fmt: skip


def asked(cert: Cert) -> ocsp.Asked:
    return ocsp.Asked(cert.above[0].der, cert.serial, NONCE)


def nobody(_: object) -> bool:
    return False


def read(der: bytes, cert: Cert, **options: Any) -> ocsp.Answer:
    options = {"is_revoked": nobody, "now": int(time.time()), **options}
    return ocsp.read(der, asked(cert), **options)


def usage(signs: bool) -> tuple[x509.ExtensionType, bool]:
    return x509.KeyUsage(digital_signature=signs, key_encipherment=True, **USAGE), True


def flipped(der: bytes) -> bytes:
    return der[:-1] + bytes([der[-1] ^ 1])


GOOD: dict[str, Callable[[Cert, Cert], bytes]] = {
    "the CA, by its key": said,
    "the CA, by its name": lambda cert, ca: said(cert, ca, named=NAME),
    "a delegate": lambda cert, ca: said(cert, ca, signer=(d := delegate(ca)), sent=[d]),
    "a delegate, by its name, behind others": lambda cert, ca: said(
        cert, ca, signer=(d := delegate(ca)), sent=[ca, d], named=NAME
    ),
    "a delegate with a key usage": lambda cert, ca: said(
        cert, ca, signer=(d := delegate(ca, extensions=[usage(True)])), sent=[d]
    ),
    "a delegate with RSA": lambda cert, ca: said(
        cert, ca, signer=(d := delegate(ca, key=rsa.generate_private_key(65537, 2048))), sent=[d]
    ),
    "SHA-256 names the certificate": lambda cert, ca: said(cert, ca, algorithm=hashes.SHA256()),
    "our nonce": lambda cert, ca: said(cert, ca, nonce=NONCE),
    "a clock that is ahead": lambda cert, ca: said(cert, ca, start=days(0) + timedelta(minutes=4)),
    "without an end": lambda cert, ca: said(cert, ca, undated=True),
}


@pytest.mark.parametrize("how", GOOD)
def test_what_the_ca_or_its_delegate_says_counts(pki: Pki, how: str) -> None:
    """Whichever of the two ways names the signer, and whichever hash the certificate."""
    found = read(GOOD[how](pki.alice, pki.ca), pki.alice)
    assert not found.revoked
    assert found.next_update - found.this_update == 86400
    assert abs(found.this_update - time.time()) < 300


def test_a_revoked_certificate_is_revoked(pki: Pki) -> None:
    assert read(said(pki.alice, pki.ca, "revoked"), pki.alice).revoked


def other(ca: Cert) -> Cert:
    """A CA of the same name with another key."""
    return root(ca.certificate.subject.rfc4514_string())


def delegated(ca: Cert, cert: Cert, signer: Cert, **options: Any) -> bytes:
    return said(cert, ca, signer=signer, sent=[signer], **options)


CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)
HOSTILE: dict[str, tuple[str, Callable[[Cert, Cert], bytes]]] = {
    "nothing": ("ocsp_malformed", lambda cert, ca: b""),
    "rubbish": ("ocsp_malformed", lambda cert, ca: b"<html>"),
    "cut off": ("ocsp_malformed", lambda cert, ca: said(cert, ca)[:-20]),
    "busy": ("ocsp_status", lambda cert, ca: status("TRY_LATER")),
    "not for us": ("ocsp_status", lambda cert, ca: status("UNAUTHORIZED")),
    "a stranger": ("ocsp_signer", lambda cert, ca: said(cert, ca, signer=root("CN=x"))),
    "a stranger who sends its certificate": (
        "ocsp_signer", lambda cert, ca: delegated(ca, cert, delegate(root("CN=x"))),
    ),
    "a namesake of the CA": (
        "ocsp_signature", lambda cert, ca: said(cert, ca, signer=other(ca), named=NAME),
    ),
    "a namesake of the CA who sends its certificate": (
        "ocsp_signer", lambda cert, ca: delegated(ca, cert, other(ca), named=NAME),
    ),
    "a delegate of the CA's namesake": (
        "ocsp_signer", lambda cert, ca: delegated(ca, cert, delegate(other(ca))),
    ),
    "below an intermediate": (
        "ocsp_signer", lambda cert, ca: delegated(ca, cert, delegate(ca.authority())),
    ),
    "another client of the CA": (
        "ocsp_delegate", lambda cert, ca: delegated(ca, cert, ca.issue("CN=bob")),
    ),
    "a delegate without the usage": (
        "ocsp_delegate", lambda cert, ca: delegated(ca, cert, delegate(ca, eku=None)),
    ),
    "anyExtendedKeyUsage": (
        "ocsp_delegate",
        lambda cert, ca: delegated(
            ca, cert, delegate(ca, eku=(x509.ObjectIdentifier("2.5.29.37.0"),))
        ),
    ),
    "a delegate that may not sign": (
        "ocsp_delegate",
        lambda cert, ca: delegated(ca, cert, delegate(ca, extensions=[usage(False)])),
    ),
    "a delegate that has ended": (
        "ocsp_delegate", lambda cert, ca: delegated(ca, cert, delegate(ca, not_after=days(-0.01))),
    ),
    "a delegate that has not begun": (
        "ocsp_delegate", lambda cert, ca: delegated(ca, cert, delegate(ca, not_before=days(1))),
    ),
    "a signature with a flipped bit": ("ocsp_signature", lambda cert, ca: flipped(said(cert, ca))),
    "no signature": ("ocsp_malformed", lambda cert, ca: unsigned(said(cert, ca))),
    "another certificate": ("ocsp_other", lambda cert, ca: said(ca.issue("CN=bob"), ca)),
    "another CA's certificate of this number": (
        "ocsp_other",
        lambda cert, ca: said(
            (o := other(ca)).issue("CN=x", serial=cert.certificate.serial_number), o,
            signer=ca,
        ),
    ),
    "of yesterday": (
        "ocsp_expired", lambda cert, ca: said(cert, ca, start=days(-2), end=days(-1)),
    ),
    "old, without an end": (
        "ocsp_expired", lambda cert, ca: said(cert, ca, start=days(-2), undated=True),
    ),
    "of tomorrow": ("ocsp_not_yet", lambda cert, ca: said(cert, ca, start=days(0.5))),
    "another nonce": ("ocsp_nonce", lambda cert, ca: said(cert, ca, nonce=b"x" * 16)),
    "a critical extension": (
        "ocsp_extension", lambda cert, ca: said(cert, ca, extensions=[CRITICAL]),
    ),
    "a certificate that it does not know": (
        "ocsp_unknown", lambda cert, ca: said(cert, ca, "unknown"),
    ),
}  # fmt: skip


def status(name: str) -> bytes:
    made = rfc6960.OCSPResponseBuilder.build_unsuccessful(rfc6960.OCSPResponseStatus[name])
    return made.public_bytes(serialization.Encoding.DER)


def unsigned(der: bytes) -> bytes:
    """The same length, and a signature of zeros, which are not DER of ECDSA."""
    signature = rfc6960.load_der_ocsp_response(der).signature
    return der.replace(signature, bytes(len(signature)))


@pytest.mark.parametrize("how", HOSTILE)
def test_everything_else_is_refused_by_name(pki: Pki, how: str) -> None:
    """A stolen, replayed, forged, stale or misdirected answer never says that a certificate is
    good."""
    reason, make = HOSTILE[how]
    with pytest.raises(CrlError) as caught:
        read(make(pki.alice, pki.ca), pki.alice)
    expected = {reason, "ocsp_signature"} if how == "no signature" else {reason}
    assert caught.value.code in expected, caught.value


def test_a_revoked_delegate_answers_for_nobody(pki: Pki) -> None:
    """By its number, its hash or its key; the three are asked about."""
    signer = delegate(pki.ca)
    lines: list[str] = []

    def is_revoked(found: Any) -> bool:
        lines.extend(found)
        return True

    with pytest.raises(CrlError) as caught:
        read(delegated(pki.ca, pki.alice, signer), pki.alice, is_revoked=is_revoked)
    assert (caught.value.code, "is revoked" in str(caught.value)) == ("ocsp_delegate", True)
    assert lines == [f"revoke serial {pki.ca.key_id} {signer.serial}",
                     f"revoke cert {signer.fingerprint}",
                     f"revoke key {signer.key_id}"]  # fmt: skip


def test_a_nonce_may_be_asked_for(pki: Pki) -> None:
    """Then an answer that was made before the question does not count."""
    with pytest.raises(CrlError) as caught:
        read(said(pki.alice, pki.ca), pki.alice, need_nonce=True)
    assert caught.value.code == "ocsp_nonce"
    assert not read(said(pki.alice, pki.ca, nonce=NONCE), pki.alice, need_nonce=True).revoked


def test_a_question_is_one_that_openssl_reads(pki: Pki, tmp_path: Path) -> None:
    """The hashes of the CA's name and key, the number and the nonce are those of openssl."""
    (tmp_path / "q").write_bytes(ocsp.request(asked(pki.alice)))
    (tmp_path / "ca").write_bytes(pki.ca.pem)
    (tmp_path / "crt").write_bytes(pki.alice.pem)
    told = run("openssl", "ocsp", "-reqin", tmp_path / "q", "-req_text")
    theirs = run("openssl", "ocsp", "-issuer", tmp_path / "ca", "-cert", tmp_path / "crt",
                 "-req_text", "-no_nonce")  # fmt: skip
    for name in ("Issuer Name Hash", "Issuer Key Hash", "Serial Number"):
        assert line(told, name) == line(theirs, name)
    assert "OCSP Nonce" in told


def run(*words: object) -> str:
    done = subprocess.run([str(one) for one in words], capture_output=True, text=True)
    return done.stdout + done.stderr


def line(text: str, name: str) -> str:
    return next(one for one in text.splitlines() if name in one)


def test_an_ed25519_responder_is_understood(pki: Pki) -> None:
    """A key of another kind than its CA's."""
    key: Any = ed25519.Ed25519PrivateKey.generate()
    signer = pki.ca.issue("CN=answers", eku=(SIGNING,), key=key)
    now = days(0)
    builder = (
        rfc6960.OCSPResponseBuilder()
        .add_response(pki.alice.certificate, pki.ca.certificate, hashes.SHA1(),
                      rfc6960.OCSPCertStatus.GOOD, now, days(1), None, None)
        .responder_id(rfc6960.OCSPResponderEncoding.HASH, signer.certificate)
        .certificates([signer.certificate])
    )  # fmt: skip
    der = builder.sign(key, None).public_bytes(serialization.Encoding.DER)
    assert not read(der, pki.alice).revoked
    with pytest.raises(CrlError):
        read(flipped(der), pki.alice)


def test_a_client_of_the_ca_that_holds_the_usage_too_may_answer(pki: Pki) -> None:
    """RFC 6960 asks for the usage, and for nothing that it must not have beside it."""
    signer = delegate(pki.ca, eku=(CLIENT, SIGNING))
    assert not read(delegated(pki.ca, pki.alice, signer), pki.alice).revoked
