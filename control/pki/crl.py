"""Certificate revocation lists (RFC 5280, section 5): judging those of other CAs, signing our own.

A list is taken as a whole or not at all. What says less than everything about what its CA revoked,
or about other CAs too (delta, indirect, by reason, attribute certificates), is refused by name.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from control.pki.guarded import CertificateError, guarded
from control.pki.guarded import CrlError as CrlError
from control.pki.issue import CLOCK_SKEW
from control.pki.keys import hash_for, load_key, weakness_of
from control.pki.pem import Issued, identity_of, is_issued_by, load_der, printable, printable_name
from control.pki.reading import lists_in, render
from control.policy import core

Kind = TypeVar("Kind", bound=x509.ExtensionType)
SERIAL = 8 * 32  # bits: a certificate with a longer serial number, or a negative one, is nobody
# What a list may say in a critical extension: all of these are looked at.
KNOWN = (
    x509.AuthorityKeyIdentifier,
    x509.CRLNumber,
    x509.DeltaCRLIndicator,
    x509.IssuingDistributionPoint,
    x509.CRLReason,
    x509.InvalidityDate,
    x509.CertificateIssuer,
)


@dataclass(frozen=True)
class Crl:
    """A list that its CA has signed. Times are seconds since 1970."""

    issuer: str  # RFC 4514
    keys: tuple[str, ...]  # key ids of the CA, as in `revoke serial`, first the key that signed
    path: tuple[str, ...]  # the same, and key ids of the CAs above, as far as they are known
    scope: str  # "": all that the CA has issued; else what tells this part from the others
    number: int
    this_update: int
    next_update: int
    serials: frozenset[str]  # hex, as policy lines have them


class Entry(NamedTuple):
    """A certificate on our own list: its serial number in hex, when, and an RFC 5280 reason."""

    serial: str
    time: int
    reason: str


def _key_ids(certificates: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(identity_of(der).key for der in certificates))


# ---- Judging -------------------------------------------------------------------------------------


def lists_of(content: bytes) -> tuple[bytes, ...]:
    """Each list of a file or upload, DER. Raises CrlError."""
    try:
        return lists_in(content)
    except CertificateError as error:
        raise CrlError("crl_malformed", str(error)) from error


def read(content: bytes, authorities: Sequence[bytes], now: int) -> Crl:
    """Judges the one list of a file or upload. `authorities` are the certificates of the CAs that
    are known, DER; `now` is in seconds since 1970. Raises CrlError."""
    der, *others = lists_of(content)
    if others:
        raise CrlError("crl_several", f"{len(others) + 1} lists, where one is wanted")
    with guarded("the list cannot be read", "crl_malformed"):
        return _judged(x509.load_der_x509_crl(der), authorities, now)


def _judged(crl: x509.CertificateRevocationList, authorities: Sequence[bytes], now: int) -> Crl:
    same = _same(_issuer(crl, authorities), authorities)
    _check_extensions(crl.extensions, "the list")
    _check_kind(crl)
    _check_times(crl, now)
    return Crl(
        issuer=crl.issuer.rfc4514_string(),
        keys=_key_ids(same),
        path=_key_ids(_above(same, authorities)),
        scope=_scope(crl),
        number=_number(crl),
        this_update=int(crl.last_update_utc.timestamp()),
        next_update=int(crl.next_update_utc.timestamp()) if crl.next_update_utc else 0,
        serials=frozenset(_serials(crl)),
    )


def _issuer(crl: x509.CertificateRevocationList, known: Sequence[bytes]) -> bytes:
    """The CA that has signed the list. The name alone proves nothing: CAs may share one."""
    name = printable_name(crl.issuer) or "an empty name"
    named = [one for one in known if _subject(one) == crl.issuer]
    if not named:
        raise CrlError(
            "crl_unknown_issuer",
            f"the list is from '{name}', and no CA of that name is known here: send its "
            "certificate along, up to a CA that is trusted",
        )
    weak = weakness_of(crl)
    if weak:
        raise CrlError(
            "crl_algorithm",
            f"the list of '{name}' is signed with {weak}, which is not taken here: let the CA "
            "sign with SHA-256 (AD CS: certutil -setreg ca\\csp\\CNGHashAlgorithm SHA256)",
        )
    signers = [one for one in named if _signed(crl, one)]
    if not signers:
        raise CrlError(
            "crl_signature", f"the list was not signed by the key of '{name}' that is known here"
        )
    able = [one for one in signers if core.powers(one).lists]
    if not able:
        raise CrlError(
            "crl_signer", f"'{name}' may not sign revocation lists: its key usage does not say so"
        )
    return able[0]


def _subject(authority: bytes) -> x509.Name | None:
    """None of a name that `cryptography` does not read: it reads none such of a list either."""
    try:
        with guarded("the name"):
            return load_der(authority).subject
    except CertificateError:
        return None


def _signed(crl: x509.CertificateRevocationList, issuer: bytes) -> bool:
    """Raises CrlError where that cannot be told."""
    with guarded("the list's signature cannot be checked here", "crl_algorithm"):
        key = load_der(issuer).public_key()
        try:
            return crl.is_signature_valid(key)  # type: ignore[arg-type]
        except ValueError as error:  # a namesake with a key of another kind has not signed it
            if "does not match" in str(error):
                return False
            raise


def _same(signer: bytes, known: Sequence[bytes]) -> list[bytes]:
    """A CA's certificates with other keys, behind the one with this key: of the same name, and
    issued by it, or to it, or both by one CA. That a name is the same is not enough."""
    name = identity_of(signer).subject
    named = [one for one in known if identity_of(one).subject == name]
    found = [signer]
    for one in found:
        parents = [above for above in known if above not in named and is_issued_by(one, above)]
        for other in named:
            linked = is_issued_by(one, other) or is_issued_by(other, one)
            linked = linked or any(is_issued_by(other, above) for above in parents)
            if linked and other not in found:
                found.append(other)
    return found


def _above(certificates: Sequence[bytes], known: Sequence[bytes]) -> list[bytes]:
    """CAs, and all of those that they come from."""
    found = list(certificates)
    for current in found:
        found += [one for one in known if one not in found and is_issued_by(current, one)]
    return found


def _check_extensions(extensions: x509.Extensions, what: str) -> None:
    for one in extensions:
        if one.critical and not isinstance(one.value, KNOWN):
            raise CrlError(
                "crl_extension",
                f"{what} has the critical extension {one.oid.dotted_string}, which is not known "
                "here: what it means for the entries cannot be told",
            )


def _check_kind(crl: x509.CertificateRevocationList) -> None:
    """RFC 5280, 5.2.4 and 5.2.5."""
    if _find(crl, x509.DeltaCRLIndicator):
        raise CrlError("crl_delta", "a delta CRL: send the complete one")
    point = _find(crl, x509.IssuingDistributionPoint)
    if point is None:
        return
    if point.indirect_crl:
        raise CrlError("crl_indirect", "an indirect CRL: send the CA's own")
    if point.only_contains_attribute_certs:
        raise CrlError("crl_attributes", "a CRL of attribute certificates, which are nobody here")
    if point.only_some_reasons is not None:
        raise CrlError("crl_reasons", "a CRL for some reasons only: send the one for all reasons")


def _check_times(crl: x509.CertificateRevocationList, now: int) -> None:
    at = datetime.fromtimestamp(now, UTC)
    if crl.next_update_utc is None:
        raise CrlError(
            "crl_next_update", "the list does not say when the next one comes (nextUpdate)"
        )
    if crl.next_update_utc <= at:
        when = crl.next_update_utc.isoformat()
        raise CrlError("crl_expired", f"the list was to be replaced by {when} (nextUpdate)")
    if crl.last_update_utc > at + CLOCK_SKEW:
        when = crl.last_update_utc.isoformat()
        raise CrlError("crl_not_yet", f"the list is of the future: {when} (thisUpdate)")


def _scope(crl: x509.CertificateRevocationList) -> str:
    """RFC 5280, 5.2.5: a CA may spread what it revoked over several lists."""
    point = _find(crl, x509.IssuingDistributionPoint)
    return hashlib.sha256(point.public_bytes()).hexdigest()[:16] if point else ""


def _number(crl: x509.CertificateRevocationList) -> int:
    found = _find(crl, x509.CRLNumber)
    return found.crl_number if found else 0


def _find(crl: x509.CertificateRevocationList, kind: type[Kind]) -> Kind | None:
    try:
        return crl.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _serials(crl: x509.CertificateRevocationList) -> Iterable[str]:
    """What is on hold is revoked as long as it is on the list; so is what has expired."""
    for entry in crl:
        serial = entry.serial_number
        with guarded(f"entry {serial:x} cannot be read", "crl_malformed"):
            extensions = entry.extensions
        for one in extensions:
            if isinstance(one.value, x509.CertificateIssuer):
                raise CrlError("crl_indirect", f"entry {serial:x} is of another CA: indirect CRL")
            if isinstance(one.value, x509.CRLReason) and one.value.reason == REMOVED:
                raise CrlError("crl_delta", f"entry {serial:x} says removeFromCRL, as in a delta")
        _check_extensions(extensions, f"entry {serial:x}")
        if serial >= 0 and serial.bit_length() <= SERIAL:
            yield hex_serial(serial)


REMOVED = x509.ReasonFlags.remove_from_crl


def hex_serial(serial: int) -> str:
    """As policy lines have it: whole bytes, no leading zeros."""
    digits = f"{serial:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def issuer_of(certificate: bytes, authorities: Sequence[bytes]) -> str | None:
    """The key id of the one of these CAs that has issued a certificate; all are DER."""
    return next((identity_of(one).key for one in authorities if is_issued_by(certificate, one)),
                None)  # fmt: skip


def vouched(given: Sequence[bytes], trusted: Sequence[bytes]) -> list[bytes]:
    """Those of the `given` CAs that come from a trusted one, by way of others of them; all DER."""
    good, left, found = list(trusted), list(given), list[bytes]()
    while more := [one for one in left if any(is_issued_by(one, above) for above in good)]:
        found += more
        good += more
        left = [one for one in left if one not in more]
    return found


def paths(authorities: Iterable[bytes]) -> dict[str, frozenset[str]]:
    """The key id of each of these CAs, DER, and those of it and of the CAs above it."""
    known = list(authorities)
    found: dict[str, frozenset[str]] = {}
    for one in known:
        key = identity_of(one).key
        found[key] = found.get(key, frozenset()) | frozenset(_key_ids(_above([one], known)))
    return found


def check_authorities(given: Sequence[bytes], trusted: Sequence[bytes]) -> None:
    """Raises CrlError for the first CA that `vouched` leaves out."""
    found = vouched(given, trusted)
    for der in given:
        if der not in found:
            name = printable(identity_of(der).subject) or "an empty name"
            raise CrlError("crl_authority", f"'{name}' does not come from a CA that is trusted")


def pem(der: bytes) -> bytes:
    """A list as PEM."""
    return render(der, "X509 CRL").encode()


# ---- Signing our own -----------------------------------------------------------------------------


def sign(
    authority: Issued, entries: Iterable[Entry], number: int, now: datetime, lifetime: timedelta
) -> bytes:
    """The list of a CA of ours, DER, numbered, good from `now` on for `lifetime`."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    key = load_key(authority.key)
    public = issuer.public_key()
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)  # type: ignore[arg-type]
    builder = (
        # One by one they would be copied each time.
        x509.CertificateRevocationListBuilder(revoked_certificates=[*map(_revoked, entries)])
        .issuer_name(issuer.subject)
        .last_update(now - CLOCK_SKEW)
        .next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(above, critical=False)
    )
    with guarded("the list cannot be signed"):
        return builder.sign(key, hash_for(key)).public_bytes(serialization.Encoding.DER)


def _revoked(entry: Entry) -> x509.RevokedCertificate:
    made = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(entry.serial, 16))
        .revocation_date(datetime.fromtimestamp(entry.time, UTC))
    )
    if entry.reason != "unspecified":  # RFC 5280, 5.3.1: then the extension should be absent
        reason = x509.CRLReason(x509.ReasonFlags(entry.reason))
        made = made.add_extension(reason, critical=False)
    return made.build()
