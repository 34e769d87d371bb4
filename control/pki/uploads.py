"""Judging certificates that administrators upload: whether they can be what they are said to be.

The decision about a client is never made here; that is the core's."""

import base64
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import cryptography
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL, crypto

from control.pki.guarded import CertificateError, guarded
from control.pki.keys import (
    RSA_BITS,
    is_for_key,
    load_key,
    open_key,
    public_bytes,
    render_key,
    weakness_of,
)
from control.pki.pem import (
    Issued,
    identity_of,
    is_authority,
    is_issued_by,
    issuers_within,
    load_der,
    name_in_bundle,
    parse_bundle,
    printable,
    rendered,
)
from control.policy import core

NO_CHECK_TIME, PARTIAL_CHAIN = 0x200000, 0x80000  # X509_V_FLAG_… of libcrypto


def check_authority(pem: str, key_pem: str, passphrase: str) -> Issued:
    """Checks a CA from elsewhere that is to issue here: its certificate first, then those above it
    up to a root. Raises CertificateError."""
    chain, key_pem = "".join(check_trust(pem)), open_key(key_pem, passphrase)
    if not is_for_key(chain, key_pem):
        first = name_in_bundle(parse_bundle(chain), 0)
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
    found = []
    for index, der in enumerate(certificates := parse_bundle(pem)):
        if missing := _not_strict(der):
            found.append(
                f"{name_in_bundle(certificates, index)} has no {' and no '.join(missing)}: it is "
                "taken here, and strict clients, such as those of Python 3.13, refuse it"
            )
    return found


def _not_strict(der: bytes) -> list[str]:
    """What a CA certificate lacks; nothing where it cannot be read: then nothing is said of it."""
    with suppress(CertificateError), guarded("it cannot be read"):
        one = load_der(der)
        needed = STRICT[:2] if one.subject == one.issuer else STRICT
        there = {type(extension.value) for extension in one.extensions}
        return [name for name, kind in needed if kind not in there]
    return []


# The certificates of an upload, and for each those of them that have signed it.
Issuers = Mapping[bytes, Sequence[bytes]]


@dataclass(frozen=True)
class Bundle:
    """The certificates of an upload that count, DER; and those that are left out, with why."""

    certificates: tuple[bytes, ...]
    left_out: tuple[tuple[bytes, str], ...] = ()

    @property
    def pem(self) -> tuple[str, ...]:
        """Each as clean PEM."""
        return rendered(self.certificates)


def read_bundle(pem: str) -> Bundle:
    """The certificates of an upload without what can do nothing: one that is there twice, or a CA
    that has expired while others are good. Raises CertificateError."""
    found = parse_bundle(pem)
    now = datetime.now(UTC).timestamp()
    ended = [one for one in found if 0 != identity_of(one).not_after < now and is_authority(one)]
    kept, left_out = dict[bytes, None](), list[tuple[bytes, str]]()
    for index, one in enumerate(found):
        which = name_in_bundle(found, index)
        if one in kept:
            left_out.append((one, f"{which} is there twice: it counts once"))
        elif one in ended and len(ended) < len(found):
            when = _shown_time(identity_of(one).not_after)
            left_out.append((one, f"{which} expired at {when}: it is left out"))
        else:
            kept[one] = None
    return Bundle(tuple(kept), tuple(left_out))


def check_trust(pem: str) -> tuple[str, ...]:
    """Checks an upload of CA certificates for clients: roots, or intermediates with their roots.
    Returns each that counts (see read_bundle) as clean PEM; raises CertificateError."""
    found = read_bundle(pem)
    certificates = found.certificates
    for index, certificate in enumerate(certificates):
        which = name_in_bundle(certificates, index)
        _check_ca(certificate, which)
        _check_known(certificate, which)
        _check_dates(certificate, which)
    issuers = _all_issuers(certificates)
    for index, certificate in enumerate(certificates):
        _check_complete(certificate, issuers, name_in_bundle(certificates, index), found)
    _check_below(issuers, NO_CHECK_TIME)
    return found.pem


def weakness(certificate: bytes) -> str:
    """Why servers that ask for security level 2, as Debian's do, let in nobody below a CA; "" where
    they do, and where `cryptography` cannot tell."""
    key, weak = None, ""
    with suppress(CertificateError), guarded("the certificate"):
        loaded = load_der(certificate)
        key, weak = loaded.public_key(), weakness_of(loaded)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS[0]:
        return f"its key has {key.key_size} bits: servers at OpenSSL's security level 2 refuse it"
    if weak and not is_issued_by(certificate, certificate):
        return f"it is signed with {weak}: servers at OpenSSL's security level 2 refuse it"
    return ""


def check_clients(pem: str, pinned: Collection[str] = ()) -> tuple[str, ...]:
    """The same of what a database trusts: also intermediates without their roots; and clients' own
    certificates, which are those that are not CAs, and those whose SHA-256 is in `pinned`."""
    found = read_bundle(pem)
    authorities = []
    for index, certificate in enumerate(found.certificates):
        which = name_in_bundle(found.certificates, index)
        _check_known(certificate, which)
        _check_dates(certificate, which)
        if not is_authority(certificate) or identity_of(certificate).cert in pinned:
            _check_client(certificate, which)
        else:
            _check_line(certificate, which)
            authorities.append(certificate)
    _check_below(_all_issuers(authorities), NO_CHECK_TIME | PARTIAL_CHAIN)
    return found.pem


def _check_client(der: bytes, which: str) -> None:
    """A client's own certificate is judged by what decides about clients."""
    identity = core.identity(der)
    if identity.refusal == "malformed":  # whose `pin` line would be refused in other words
        raise CertificateError(f"{which} does not parse as it has to: {identity.detail}")
    lines = [
        "set enforce on", "user x on", f"bind cert {identity.cert} x",
        f"pin {base64.b64encode(der).decode()}",
    ]  # fmt: skip
    try:
        decided = core.Policy(lines).decide(der, own=True)
    except core.PolicyError as error:
        ((_, why), *_) = error.problems  # of the `pin` line, whose number nobody has seen
        raise CertificateError(f"{which} cannot be a client's own: {why}") from error
    if decided.user is None:
        steps = (step for step in decided.trace if step.startswith(f"{decided.reason}:"))
        raise CertificateError(
            f"{which} {_why_own(der)}, and as a client's own it would be refused: "
            f"{next(steps, decided.reason)}"
        )


def _why_own(der: bytes) -> str:
    """Why a certificate can be nothing but a client's own, or is said to be."""
    if is_authority(der):
        return "is among the pinned_certificates"
    return "may not sign certificates" if core.powers(der).ca else "is not a CA certificate"


def _check_below(issuers: Issuers, flags: int) -> None:
    """What the CAs of an upload may issue; `flags` are those of libcrypto."""
    certificates = list(issuers)
    for index, certificate in enumerate(certificates):
        _check_length(certificate, issuers, name_in_bundle(certificates, index))
    _check_paths(certificates, issuers, flags)


def merge_bundles(first: str, second: str) -> str:
    """The certificates of two PEM texts, each once."""
    found = [*(parse_bundle(first) if first else []), *parse_bundle(second)]
    return "".join(rendered(tuple(dict.fromkeys(found))))


def check_server(pem: str, key_pem: str) -> Issued:
    """Checks a certificate for a TLS server, leaf first, and its key. Returns both as clean PEM;
    raises CertificateError."""
    certificates = list(dict.fromkeys(parse_bundle(pem)))
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
    first = name_in_bundle(certificates, 0)
    with guarded(f"{first} has a key that cannot be read"):
        public = public_bytes(load_der(certificates[0], first).public_key())
    if public != public_bytes(key.public_key()):
        raise CertificateError(f"the key is not the key of {first}")
    return Issued("".join(rendered(certificates)), render_key(key))


def check_authorities(pem: str) -> str:
    """Checks CA certificates that servers are verified with. Returns clean PEM; raises
    CertificateError."""
    found = read_bundle(pem)
    for index, certificate in enumerate(found.certificates):
        _check_ca(certificate, name_in_bundle(found.certificates, index))
        _check_known(certificate, name_in_bundle(found.certificates, index))
        _check_dates(certificate, name_in_bundle(found.certificates, index))
    return "".join(found.pem)


def _check_ca(certificate: bytes, which: str) -> None:
    powers, identity = core.powers(certificate), identity_of(certificate)
    if not powers.certificates and identity.refusal == "malformed":  # then no usage is read at all
        raise CertificateError(f"{which} does not parse as it has to: {identity.detail}")
    if not powers.ca:
        raise CertificateError(
            f"{which} is not a CA certificate: its basic constraints do not say "
            "CA:TRUE. A leaf is never trusted; send the CA that issued it"
        )
    if not powers.certificates:
        raise CertificateError(f"{which} may not sign certificates: its key usage does not say so")
    _check_line(certificate, which)


def _check_line(certificate: bytes, which: str) -> None:
    """Servers get it as a `ca` line, which has to be one."""
    try:
        core.canonical(f"ca {base64.b64encode(certificate).decode()}")
    except core.CoreError as error:
        raise CertificateError(f"{which} cannot be trusted by a server: {error}") from error


def _check_known(certificate: bytes, which: str) -> None:
    try:
        with guarded(f"{which} has a key that cannot be read"):
            _has_known_key(certificate, which)
    except _UnknownKeyError as error:
        name = core.algorithm_of_key(certificate)
        library = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
        raise CertificateError(
            f"{which} cannot be checked here: this control plane does not know {name} (its "
            f"cryptography is {cryptography.__version__}, with {library})"
        ) from error


class _UnknownKeyError(CertificateError):
    """Its key is of an algorithm that `cryptography` does not know."""


def _has_known_key(certificate: bytes, which: str) -> None:
    with suppress(CertificateError):
        key_by_libcrypto(certificate)
        return
    try:
        load_der(certificate, which).public_key()
    except UnsupportedAlgorithm as error:
        raise _UnknownKeyError(which) from error


def _check_dates(certificate: bytes, which: str) -> None:
    now, identity = datetime.now(UTC).timestamp(), identity_of(certificate)
    if not identity.not_after and identity.detail:
        raise CertificateError(f"{which}: {identity.detail}")
    if now > identity.not_after:
        when = _shown_time(identity.not_after)
        raise CertificateError(f"{which} expired at {when}", expired=True)
    if now < identity.not_before:
        when = _shown_time(identity.not_before)
        raise CertificateError(f"{which} is not valid before {when}", expired=True)


def _shown_time(seconds: int) -> str:
    return datetime.fromtimestamp(max(seconds, FIRST), UTC).isoformat()


FIRST = -62_135_596_800  # seconds: the year 1, which is Python's first


def _check_complete(certificate: bytes, issuers: Issuers, which: str, of: Bundle) -> None:
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
    above = printable(identity_of(lacking[0] if lacking else certificate).issuer)
    gone = [why for one, why in of.left_out if identity_of(one).subject == above]
    raise CertificateError(
        f"{which} is an intermediate, and the upload does not lead up to its root: "
        f"the certificate of the CA '{above}' is missing, or has another key"
        f"{f' ({gone[0]})' if gone else ''}"
    )


def _check_length(certificate: bytes, issuers: Issuers, which: str) -> None:
    """RFC 5280, 4.2.1.9: how many CAs may stand below one, those that it has issued to itself not
    counted. libcrypto says so of a leaf only, and there is none here."""
    todo, seen, certificates = [(certificate, 0)], {certificate}, list(issuers)
    for current, below in todo:
        of = identity_of(current)
        count = below + (of.subject != of.issuer)
        for above in issuers[current]:
            most = core.powers(above).path_length
            if above != current and most is not None and count > most:
                by = name_in_bundle(certificates, certificates.index(above))
                raise CertificateError(
                    f"{which} issues what nobody verifies: {by} has a path length of {most}, and "
                    f"there are {count} CAs below it"
                )
            if above not in seen:
                seen.add(above)
                todo.append((above, count))


def _check_paths(certificates: Sequence[bytes], issuers: Issuers, flags: int) -> None:
    """Each certificate as a TLS server will verify it, up to a root, or to the end of the upload:
    name constraints and critical extensions are libcrypto's to judge, here as there. A root alone:
    another of its name beside it, such as itself renewed, stands in nobody's way."""
    partial = bool(flags & PARTIAL_CHAIN)
    roots = [one for one in certificates if one in issuers[one] or partial > bool(issuers[one])]
    loaded = {one: _loaded(certificates, at) for at, one in enumerate(certificates)}
    between = [loaded[one] for one in certificates if one not in roots]
    for index, one in enumerate(certificates):
        store = crypto.X509Store()
        store.set_flags(flags)  # dates have been looked at, by name
        for root in [one] if one in roots else roots:
            store.add_cert(loaded[root])
        try:
            crypto.X509StoreContext(store, loaded[one], between).verify_certificate()
        except crypto.X509StoreContextError as error:
            which = name_in_bundle(certificates, index)
            der = crypto.dump_certificate(crypto.FILETYPE_ASN1, error.certificate)
            at = certificates.index(der) if der in certificates else index
            where = "" if at == index else f", by {name_in_bundle(certificates, at)}"
            text = f"{which} would verify nowhere{where}: {error}"
            raise CertificateError(text) from error


def _loaded(certificates: Sequence[bytes], index: int) -> crypto.X509:
    with guarded(f"{name_in_bundle(certificates, index)} cannot be read"):
        return crypto.load_certificate(crypto.FILETYPE_ASN1, certificates[index])


def key_by_libcrypto(certificate: bytes) -> object:
    """The public key of a certificate (DER), as an object of `cryptography`, also where that does
    not read the rest of the certificate. Raises CertificateError."""
    with guarded("the key cannot be read"):
        return _loaded([certificate], 0).get_pubkey().to_cryptography_key()


def _all_issuers(certificates: Sequence[bytes]) -> Issuers:
    """Once for an upload: a hundred of one name are 10,000 signatures to check."""
    return {one: issuers_within(one, certificates) for one in certificates}
