"""Revocation lists byte by byte where that is needed, from the CAs of tests.support."""

import base64
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.kit.support import Cert

Extension = tuple[x509.ExtensionType, bool]  # and whether it is critical


def entry(
    serial: int, reason: str = "", extensions: Sequence[Extension] = ()
) -> x509.RevokedCertificate:
    made = x509.RevokedCertificateBuilder().serial_number(serial)
    made = made.revocation_date(datetime(2026, 1, 1, tzinfo=UTC))
    if reason:
        made = made.add_extension(x509.CRLReason(x509.ReasonFlags(reason)), False)
    for one, critical in extensions:
        made = made.add_extension(one, critical)
    return made.build()


def crl(
    ca: Cert,
    *revoked: Cert | x509.RevokedCertificate,
    number: int | None = 1,
    start: datetime | None = None,
    end: datetime | None = None,
    extensions: Iterable[Extension] = (),
    signer: Cert | None = None,
) -> bytes:
    """DER of the list of `ca`, good from now on for a day unless told otherwise; `signer` signs in
    its place."""
    now = datetime.now(UTC).replace(microsecond=0)
    entries = [
        entry(one.certificate.serial_number) if isinstance(one, Cert) else one for one in revoked
    ]
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(ca.certificate.subject)
        .last_update(start or now)
        .next_update(end or now + timedelta(days=1))
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), False)
    for one, critical in extensions:
        builder = builder.add_extension(one, critical)
    key: Any = (signer or ca).key
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def text(der: bytes) -> str:
    """A list as a JSON body has it."""
    return base64.b64encode(der).decode()


def point(**fields: Any) -> Extension:
    """An issuing distribution point."""
    usual: dict[str, Any] = dict.fromkeys(
        (
            "only_contains_user_certs",
            "only_contains_ca_certs",
            "indirect_crl",
            "only_contains_attribute_certs",
        ),
        False,
    )
    usual |= {"full_name": None, "relative_name": None, "only_some_reasons": None}
    return x509.IssuingDistributionPoint(**{**usual, **fields}), True
