"""What one compares before one trusts a CA, with what its owner reads out."""

from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.pki.guarded import CertificateError, guarded
from control.pki.pem import load_certificate, parse_bundle, printable
from control.pki.uploads import doubts, key_by_libcrypto
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
        one = core.identity(pem.encode())
        above = "itself" if one.issuer == one.subject else one.issuer
        found += [
            ("Subject", one.subject or "(none)"), ("Issued by", above),
            ("Valid", f"{rendered_time(one.not_before)} to {rendered_time(one.not_after)}"),
            ("Key", _key_kind(parse_bundle(pem)[0])),
            ("SHA-256 of the certificate", spaced(one.cert)),
            ("SHA-256 of the key", spaced(one.key)), *constraints(pem),
        ]  # fmt: skip
        found += [("Look at this", doubt) for doubt in doubts(pem)]
    return found


def spaced(digest: str) -> str:
    """In groups that one can read out."""
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()


def _key_kind(certificate: bytes) -> str:
    """The kind and size of a certificate's key, for people, such as `RSA, 3072 bits`."""
    try:
        key = key_by_libcrypto(certificate)
    except CertificateError:
        return "of a kind that is not known here"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA, {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC, {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey")


def constraints(pem: str) -> list[tuple[str, str]]:
    """How far it reaches, where it says so. What cannot be read is told: it may be a limit."""
    try:
        with guarded("its extensions cannot be read"):
            return list(_limits(load_certificate(pem).extensions))
    except CertificateError as error:
        return [("Limits", f"not shown: {error}")]


def _limits(extensions: x509.Extensions) -> Iterator[tuple[str, str]]:
    for one in (extension.value for extension in extensions):
        if isinstance(one, x509.BasicConstraints) and one.path_length is not None:
            yield "CAs below it", f"at most {one.path_length}"
        if isinstance(one, x509.NameConstraints):
            for label, names in (("Only for", one.permitted_subtrees),
                                 ("Not for", one.excluded_subtrees)):  # fmt: skip
                if names:
                    yield label, ", ".join(printable(str(name.value)) for name in names)
