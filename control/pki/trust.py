"""What the CA certificates of a place are for: those that clients come from, and those that only
stand above them. A place is the REST API with the databases that have no CAs of their own, or a
database that has.

It is stored as it was said. Of the first certificates of a place, the position says it: who has
issued another of them is only above (`read_trust`). From then on, what else is sent changes
nothing about a certificate that is there: it stays what it is until `client_cas` says otherwise, or
until it goes. One that goes while its issuer stays is refused from then on, wherever it is brought
along: a CA that was stolen must not come back under the root that issued it.

A database may have clients' own certificates among them, each trusted by itself: those that are no
CAs, and those of which it is said (`pinned`). One that has signed itself and says CA:TRUE, as those
of `openssl req -x509` do, could be either, and is a CA unless it is said.

Pure: nothing is read or written here."""

from collections.abc import Collection, Sequence

from control.pki.guarded import CertificateError
from control.pki.pem import (
    identity_of,
    is_authority,
    is_issued_by,
    issuers_within,
    pem_to_ders,
)
from control.policy import core
from control.records import CaUses, Trust


def stored(pem: str, uses: CaUses) -> Trust:
    """What the certificates of a place admit. `pem` has passed `check_trust` or
    `check_clients`."""
    ders = pem_to_ders(pem)
    pins = tuple(der for der in ders if cert_of(der) in uses.pins)
    cas = [der for der in ders if der not in pins]
    above = [der for der in cas if key_of(der) in uses.anchors]
    return Trust(tuple(der for der in cas if der not in above), tuple(above), uses.removed, pins)


def settled(
    before: Trust,
    pem: str,
    clients: Collection[str] | None = None,
    pinned: Collection[str] | None = None,
) -> CaUses:
    """What the certificates in `pem`, which are to be all of a place, are for: `before` is what it
    trusts now, `clients` are the key ids of those that clients come from, and `pinned` the SHA-256
    of those that are clients' own, where that was said. Raises CertificateError where one of these
    is not there."""
    pins = _pins(before, pem, pinned)
    read = _read([one for one in pem_to_ders(pem) if cert_of(one) not in pins])
    here = {key_of(der): der for der in (*read.cas, *read.anchors)}
    if clients is None:
        was = _keys(before.anchors) | _keys(before.cas)
        new = _keys(read.anchors) - was
        anchors = (_keys(before.anchors) & here.keys()) | new
    else:
        said = {one.lower() for one in clients}
        if said - here.keys():
            missing = ", ".join(sorted(said - here.keys()))
            raise CertificateError(f"client_cas: no certificate here has the key {missing}")
        anchors = here.keys() - said
    gone = [der for der in (*before.cas, *before.anchors) if key_of(der) not in here]
    removed = set(before.removed) | _keys(cas_issued_by(gone, list(here.values())))
    return CaUses(tuple(sorted(anchors)), tuple(sorted(removed - here.keys())), tuple(sorted(pins)))


def _pins(before: Trust, pem: str, said: Collection[str] | None) -> set[str]:
    """By their SHA-256: those that can be nothing else, and those that were or are said to be."""
    certificates = {cert_of(one): one for one in pem_to_ders(pem)}
    own = set(leaves(pem))
    if said is None:
        return own | (set(map(cert_of, before.pins)) & certificates.keys())
    if missing := set(said) - certificates.keys():
        text = f"no certificate here has the SHA-256 {', '.join(sorted(missing))}"
        raise CertificateError(f"pinned_certificates: {text}")
    return own | set(said)


def leaves(pem: str) -> list[str]:
    """The SHA-256 of those that can be nothing but clients' own. Raises CertificateError."""
    return [cert_of(one) for one in pem_to_ders(pem) if not is_authority(one)]


def grown(before: Trust, after: Trust) -> list[str]:
    """The CAs that clients may come from after a change and could not before, and the certificates
    that are trusted by themselves, in words."""
    was, above = _keys(before.cas), _keys(before.anchors)
    own = [der for der in after.pins if der not in before.pins]
    return [
        *(f"{core.identity(der).subject} (this certificate alone)" for der in own),
    ] + [
        core.identity(der).subject
        + (" (so far only above others)" if key_of(der) in above else "")
        + (" (taken away before)" if key_of(der) in before.removed else "")
        for der in after.cas
        if key_of(der) not in was
    ]


def lessens(before: Trust, after: Trust) -> bool:
    """Whether anybody can get in no more after a change."""
    gone = _keys(before.cas) - _keys(after.cas) or set(before.pins) - set(after.pins)
    return bool(gone) or not set(after.removed) <= set(before.removed)


def admits(trust: Trust, path: Collection[str], cert: str = "") -> bool:
    """Whether a leaf with this SHA-256, below CAs with these key ids, may be somebody."""
    if cert in map(cert_of, trust.pins):
        return True
    return not _keys(trust.cas).isdisjoint(path) and not set(trust.removed).intersection(path)


def rootless(trust: Trust) -> list[bytes]:
    """The CAs that clients come from whose root is not among them."""
    certificates = [*trust.cas, *trust.anchors]
    rooted = [one for one in certificates if is_issued_by(one, one)]
    for above in rooted:
        rooted += [one for one in certificates if one not in rooted and is_issued_by(one, above)]
    return [der for der in trust.cas if der not in rooted]


def key_of(der: bytes) -> str:
    """The key id of a certificate: SHA-256 of its public key, in hex. Raises core.CoreError."""
    return identity_of(der).key


def cert_of(der: bytes) -> str:
    """SHA-256 of a certificate's DER, in hex. Raises core.CoreError."""
    return identity_of(der).cert


def _keys(ders: Collection[bytes]) -> set[str]:
    return {key_of(der) for der in ders}


def read_trust(pem: str) -> Trust:
    """What PEM that has passed `check_trust` admits where nobody has said what its certificates are
    for, whatever the date is now: one that has issued no other of them is a `ca`, those above it
    are anchors. So a root alone admits all that it issued, and an intermediate with its root admits
    only what the intermediate did.

    A root that has signed another root of them is not above it: that is the same root renewed with
    its key, or the next root, cross-signed so that both are good for a while."""
    return _read(pem_to_ders(pem))


def _read(certificates: Sequence[bytes]) -> Trust:
    roots = {key_of(one) for one in certificates if is_issued_by(one, one)}
    issuers = {
        issuer
        for certificate in certificates
        if key_of(certificate) not in roots
        for issuer in issuers_within(certificate, certificates)
    }
    return Trust(
        tuple(one for one in certificates if one not in issuers),
        tuple(one for one in certificates if one in issuers),
    )


def cas_issued_by(ders: Sequence[bytes], issuers: Sequence[bytes]) -> list[bytes]:
    """Those of some CA certificates that one of `issuers` has issued, or another of them that one
    of `issuers` stands above."""
    left, todo, found = list(ders), list(issuers), list[bytes]()
    while todo:
        above = todo.pop()
        below = [one for one in left if is_issued_by(one, above)]
        left = [one for one in left if one not in below]
        found += below
        todo += below
    return found
