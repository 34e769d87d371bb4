"""What one compares before one trusts a CA, with what its owner reads out."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.pki.pem import load_certificate, printable
from control.pki.uploads import doubts
from control.policy import core
from control.records import rendered_time


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
            ("Key", _key_kind(parsed)), ("SHA-256 of the certificate", spaced(one.cert)),
            ("SHA-256 of the key", spaced(one.key)), *constraints(parsed),
        ]  # fmt: skip
        found += [("Look at this", doubt) for doubt in doubts(pem)]
    return found


def spaced(digest: str) -> str:
    """In groups that one can read out."""
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()


def _key_kind(certificate: x509.Certificate) -> str:
    """The kind and size of a certificate's key, for people, such as `RSA, 3072 bits`."""
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
