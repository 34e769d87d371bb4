"""Judging certificates that administrators upload: whether they can be what they are said to be.

The decision about a client is never made here; that is the core's."""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

import cryptography
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import SSL, crypto

from control.pki.keys import is_for_key, load_key, open_key, public_bytes, render_key
from control.pki.pem import (
    CertificateError,
    Issued,
    is_authority,
    is_issued_by,
    issuers_within,
    name_in_bundle,
    parse_bundle,
    to_der,
    to_pem,
)
from control.policy import core

NO_CHECK_TIME, PARTIAL_CHAIN = 0x200000, 0x80000  # X509_V_FLAG_… of libcrypto


def check_authority(pem: str, key_pem: str, passphrase: str) -> Issued:
    """Checks a CA from elsewhere that is to issue here: its certificate first, then those above it
    up to a root. Raises CertificateError."""
    chain, key_pem = "".join(check_trust(pem)), open_key(key_pem, passphrase)
    certificates = parse_bundle(chain)
    if not is_for_key(chain, key_pem):
        first = name_in_bundle(certificates, 0)
        raise CertificateError(
            f"the key is not the key of {first}: the CA that is to issue comes first, then those "
            "above it"
        )
    return Issued(chain, key_pem)


STRICT = (
    ("key usage", x509.KeyUsage),
    ("subject key identifier", x509.SubjectKeyIdentifier),
    ("authority key identifier", x509.AuthorityKeyIdentifier),
)


def doubts(pem: str) -> list[str]:
    """What strict clients, those of Python 3.13 and newer among them, refuse of CA certificates
    that we and the servers take: a sentence for each. Raises CertificateError."""
    certificates = parse_bundle(pem)
    found = []
    for index, one in enumerate(certificates):
        needed = STRICT[:2] if one.subject == one.issuer else STRICT
        there = {type(extension.value) for extension in one.extensions}
        missing = [name for name, kind in needed if kind not in there]
        if missing:
            found.append(
                f"{name_in_bundle(certificates, index)} has no {' and no '.join(missing)}: it is "
                "taken here, and strict clients, such as those of Python 3.13, refuse it"
            )
    return found


# The certificates of an upload, and for each those of them that have signed it.
Issuers = Mapping[x509.Certificate, Sequence[x509.Certificate]]


def check_trust(pem: str) -> tuple[str, ...]:
    """Checks an upload of CA certificates for clients: roots, or intermediates with their roots.
    Returns each certificate as clean PEM; raises CertificateError."""
    certificates = parse_bundle(pem)
    for index, certificate in enumerate(certificates):
        which = name_in_bundle(certificates, index)
        _check_ca(certificate, which)
        _check_known(certificate, which)
        _check_dates(certificate, which)
    issuers = _all_issuers(certificates)
    for index, certificate in enumerate(certificates):
        _check_complete(certificate, issuers, name_in_bundle(certificates, index))
    _check_below(issuers, NO_CHECK_TIME)
    return tuple(to_pem(certificate) for certificate in certificates)


def check_clients(pem: str, pinned: Collection[str] = ()) -> tuple[str, ...]:
    """The same of what a database trusts: also intermediates without their roots; and clients' own
    certificates, which are those that are no CAs, and those whose SHA-256 is in `pinned`."""
    certificates = parse_bundle(pem)
    authorities = []
    for index, certificate in enumerate(certificates):
        which = name_in_bundle(certificates, index)
        _check_known(certificate, which)
        _check_dates(certificate, which)
        if not is_authority(certificate) or core.identity(to_der(certificate)).cert in pinned:
            _check_client(certificate, which)
        else:
            authorities.append(certificate)
    _check_below(_all_issuers(authorities), NO_CHECK_TIME | PARTIAL_CHAIN)
    return tuple(to_pem(certificate) for certificate in certificates)


def _check_client(certificate: x509.Certificate, which: str) -> None:
    """A client's own certificate is judged by what decides about clients."""
    der = to_der(certificate)
    lines = [
        "set enforce on", "user x on", f"bind cert {core.identity(der).cert} x",
        f"pin {base64.b64encode(der).decode()}",
    ]  # fmt: skip
    decided = core.Policy(lines).decide(der, own=True)
    if decided.user is None:
        steps = (step for step in decided.trace if step.startswith(f"{decided.reason}:"))
        raise CertificateError(
            f"{which} is not a CA certificate, and as a client's own it would be refused: "
            f"{next(steps, decided.reason)}"
        )


def _check_below(issuers: Issuers, flags: int) -> None:
    """What the CAs of an upload may issue; `flags` are those of libcrypto."""
    certificates = list(issuers)
    for index, certificate in enumerate(certificates):
        _check_length(certificate, issuers, name_in_bundle(certificates, index))
    _check_paths(certificates, issuers, flags)


def merge_bundles(first: str, second: str) -> str:
    """The certificates of two PEM texts, each once."""
    found = [*(parse_bundle(first) if first else []), *parse_bundle(second)]
    return "".join(map(to_pem, dict.fromkeys(found)))


def check_server(pem: str, key_pem: str) -> Issued:
    """Checks a certificate for a TLS server, leaf first, and its key. Returns both as clean PEM;
    raises CertificateError."""
    certificates = parse_bundle(pem)
    for index, certificate in enumerate(certificates):
        _check_known(certificate, name_in_bundle(certificates, index))
        _check_dates(certificate, name_in_bundle(certificates, index))
    for index, certificate in enumerate(certificates[1:], start=1):
        if not is_issued_by(certificates[index - 1], certificate):
            below = name_in_bundle(certificates, index - 1)
            raise CertificateError(
                f"{name_in_bundle(certificates, index)} has not issued {below}: the leaf "
                "comes first, then each certificate's issuer"
            )
    key = load_key(key_pem)
    if public_bytes(certificates[0].public_key()) != public_bytes(key.public_key()):
        raise CertificateError(f"the key is not the key of {name_in_bundle(certificates, 0)}")
    return Issued("".join(to_pem(certificate) for certificate in certificates), render_key(key))


def check_authorities(pem: str) -> str:
    """Checks CA certificates that servers are verified with. Returns clean PEM; raises
    CertificateError."""
    certificates = parse_bundle(pem)
    for index, certificate in enumerate(certificates):
        _check_ca(certificate, name_in_bundle(certificates, index))
        _check_known(certificate, name_in_bundle(certificates, index))
        _check_dates(certificate, name_in_bundle(certificates, index))
    return "".join(to_pem(certificate) for certificate in certificates)


def _check_ca(certificate: x509.Certificate, which: str) -> None:
    constraints = _extension(
        certificate, lambda all_: all_.get_extension_for_class(x509.BasicConstraints).value.ca
    )
    if not constraints:
        raise CertificateError(
            f"{which} is not a CA certificate: its basic constraints do not say "
            "CA:TRUE. A leaf is never trusted; send the CA that issued it"
        )
    signs = _extension(
        certificate, lambda all_: all_.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    )
    if signs is False:
        raise CertificateError(f"{which} may not sign certificates: its key usage does not say so")


def _extension(
    certificate: x509.Certificate, read: Callable[[x509.Extensions], bool]
) -> bool | None:
    try:
        return read(certificate.extensions)
    except x509.ExtensionNotFound:
        return None


def _check_known(certificate: x509.Certificate, which: str) -> None:
    try:
        certificate.public_key()
    except UnsupportedAlgorithm as error:
        name = core.algorithm_of_key(to_der(certificate))
        library = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
        raise CertificateError(
            f"{which} cannot be checked here: this control plane does not know {name} (its "
            f"cryptography is {cryptography.__version__}, with {library})"
        ) from error


def _check_dates(certificate: x509.Certificate, which: str) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        when = certificate.not_valid_after_utc.isoformat()
        raise CertificateError(f"{which} expired at {when}", expired=True)
    if now < certificate.not_valid_before_utc:
        when = certificate.not_valid_before_utc.isoformat()
        raise CertificateError(f"{which} is not valid before {when}", expired=True)


def _check_complete(certificate: x509.Certificate, issuers: Issuers, which: str) -> None:
    """Each path up from `certificate` must reach a root within the upload."""
    reached, todo = {certificate}, [certificate]
    while todo:
        current = todo.pop()
        if current in issuers[current]:
            return
        fresh = [issuer for issuer in issuers[current] if issuer not in reached]
        reached.update(fresh)
        todo.extend(fresh)
    lacking = [found for found in reached if not issuers[found]]
    above = lacking[0].issuer.rfc4514_string() if lacking else certificate.issuer.rfc4514_string()
    raise CertificateError(
        f"{which} is an intermediate, and the upload does not lead up to its root: "
        f"the certificate of the CA '{above}' is missing, or has another key"
    )


def _check_length(certificate: x509.Certificate, issuers: Issuers, which: str) -> None:
    """RFC 5280, 4.2.1.9: how many CAs may stand below one, those that it has issued to itself not
    counted. libcrypto says so of a leaf only, and there is none here."""
    todo, seen, certificates = [(certificate, 0)], {certificate}, list(issuers)
    for current, below in todo:
        count = below + (current.subject != current.issuer)
        for above in issuers[current]:
            most = above.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
            if above != current and most is not None and count > most:
                by = name_in_bundle(certificates, certificates.index(above))
                raise CertificateError(
                    f"{which} issues what nobody verifies: {by} has a path length of {most}, and "
                    f"there are {count} CAs below it"
                )
            if above not in seen:
                seen.add(above)
                todo.append((above, count))


def _check_paths(certificates: Sequence[x509.Certificate], issuers: Issuers, flags: int) -> None:
    """Each certificate as a TLS server will verify it, up to a root, or to the end of the upload:
    name constraints and critical extensions are libcrypto's to judge, here as there."""
    partial = bool(flags & PARTIAL_CHAIN)
    roots = [one for one in certificates if one in issuers[one] or partial > bool(issuers[one])]
    between = [crypto.X509.from_cryptography(one) for one in certificates if one not in roots]
    store = crypto.X509Store()
    store.set_flags(flags)  # dates have been looked at, by name
    for one in roots:
        store.add_cert(crypto.X509.from_cryptography(one))
    for index, one in enumerate(certificates):
        try:
            given = crypto.X509.from_cryptography(one)
            crypto.X509StoreContext(store, given, between).verify_certificate()
        except crypto.X509StoreContextError as error:
            which = name_in_bundle(certificates, index)
            at = certificates.index(error.certificate.to_cryptography())
            where = "" if at == index else f", by {name_in_bundle(certificates, at)}"
            text = f"{which} would verify nowhere{where}: {error}"
            raise CertificateError(text) from error


def _all_issuers(certificates: Sequence[x509.Certificate]) -> Issuers:
    """Once for an upload: a hundred of one name are 10,000 signatures to check."""
    return {one: issuers_within(one, certificates) for one in certificates}
