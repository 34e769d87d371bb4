"""Certificates for devices (EST, RFC 7030), which show another certificate instead of a token: the
birth certificate that their manufacturer has put into them, or their certificate from here.

Each is judged by the core, as a client's at a login is: its path, its times, what it is for, what
is revoked and what is locked. The CA of a manufacturer counts here and nowhere else: it makes
nobody a user of a database. TLS has the client prove that it holds the key, so that, unlike
a token, nothing is there to be sent again by somebody else.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from control import records
from control.domain import claims as rules
from control.domain import enrolment, issuing
from control.domain.guard import malformed, why
from control.domain.issuing import Decide, OpenPolicies
from control.errors import Refusal, forbidden, refused, unauthorized
from control.pki.issue import CLOCK_SKEW, chain_to_present
from control.pki.pem import Issued, pem_to_ders
from control.pki.request import Leaf, check_same_names, issue_requested, read_request
from control.policy import bindings, core, locks
from control.policy import lines as policy
from control.records import Issuer
from control.reports import ClientCertificate, Enrolment
from control.store import Store

RENEW = "; a certificate from here is renewed by simplereenroll"


def _read(presented: bytes) -> core.Identity:
    try:
        return core.identity(presented)
    except core.CoreError as error:
        raise malformed(error) from error


def _judged(store: Store, presented: bytes, trust: records.Trust) -> core.Decision:
    """What the core says of a certificate (PEM, with those above it) that is to be of these CAs."""
    trusted = [(der, core.identity(der)) for der in (*trust.cas, *trust.anchors)]
    lines = [
        "set enforce on",
        f"bind cert {core.identity(presented).cert} {bindings.SOMEBODY}",
        *policy.trust_lines(trust),
        *store.revocations.among(policy.revocations_of(presented, trusted)),
        *_locks(store),
    ]
    return core.Policy(lines).decide(presented, own=True)


def _locks(store: Store) -> tuple[str, ...]:
    return locks.of_certificates(one.line for one in store.locks.all())


# ---- Birth certificates --------------------------------------------------------------------------


def born(store: Store, presented: bytes, name: str = "") -> tuple[Issuer, core.Identity]:
    """Whose device has presented this (PEM, the leaf first): the one issuer, or the one of this
    name, whose manufacturer's CA it comes from. Raises Refusal 401."""
    leaf = _read(presented)
    found, refusals = list[Issuer](), list[core.Decision]()
    for one in store.objects.all(Issuer):
        if one.manufacturer_ca and name in ("", one.name):
            decided = _judged(store, presented, issuing.trust_of(one.manufacturer_ca))
            if decided.user:
                found.append(one)
            else:
                refusals.append(decided)
    if len(found) > 1:
        names = ", ".join(f"'{one.name}'" for one in found)
        raise unauthorized(
            "several_issuers", f"several issuers ({names}) have the CA of this birth certificate: "
            "name one in the address, as /.well-known/est/NAME/simpleenroll",
        )  # fmt: skip
    if not found:
        raise _stranger(refusals)
    return found[0], leaf


def _stranger(refusals: Sequence[core.Decision]) -> Refusal:
    """That of the issuer whose CA it comes from counts, where there is one."""
    known = [one for one in refusals if one.reason != "untrusted_issuer"]
    for one in known:
        return unauthorized(one.reason, f"the birth certificate: {why(one)}")
    text = "no issuer is registered here with the CA of this birth certificate"
    return unauthorized("untrusted_issuer", text + RENEW)


def enrol(
    policies: OpenPolicies,
    decide: Decide,
    authority: Issued,
    issuer: Issuer,
    leaf: core.Identity,
    csr: str,
) -> ClientCertificate:
    """A certificate for the key of a CSR, as the issuer's rules say of a birth certificate that
    `born` has found good. Raises as enrolment.enrol."""
    shown = Enrolment(issuer.name, cert=leaf.cert)
    claims = rules.of_certificate(leaf)
    return enrolment.issue_by_rule(
        policies, decide, authority, issuer, claims, csr, lambda _: shown
    )


# ---- Renewal -------------------------------------------------------------------------------------


def issued_here(store: Store, authority: Issued, presented: bytes) -> ClientCertificate:
    """The certificate from here that a client has presented, where it is good at this moment.
    Raises Refusal 401, 403."""
    try:
        known = store.inventory.get(_read(presented).cert)
    except Refusal:
        known = None
    if known is None or not known.pem:
        raise forbidden(
            "not_issued_here", "this control plane has not issued the certificate that the client "
            "shows: a birth certificate is for simpleenroll",
        )  # fmt: skip
    # That very certificate is from here, whichever CA is here by now.
    leaf, *_ = pem_to_ders(known.pem)
    trust = replace(issuing.trust_of(authority.certificate), pins=(leaf,))
    decided = _judged(store, known.pem.encode(), trust)
    if decided.user is None:
        raise unauthorized(decided.reason, f"the certificate that is to be renewed: {why(decided)}")
    _check_authority(store, known)
    return known


def _check_authority(store: Store, known: ClientCertificate) -> None:
    """The CA that has issued it counts, also where it is here no more."""
    if store.revocations.among([f"revoke key {known.ca}"]):
        raise unauthorized(
            "ca_revoked", "the CA of the certificate that is to be renewed is revoked"
        )
    if f"lock ca {known.ca}" in _locks(store):
        raise unauthorized("locked", "the CA of the certificate that is to be renewed is locked")


def issuer_of(store: Store, known: ClientCertificate, name: str = "") -> Issuer | None:
    """The issuer that a certificate came by, which has to be the one of this name, where one is
    given; None for one that came by no issuer. Raises Refusal 403 where it may not renew itself."""
    if not known.enrolled_by:
        return None
    for one in store.objects.all(Issuer):
        if one.uid == known.enrolled_by and one.renewable and name in ("", one.name):
            return one
    raise forbidden(
        "not_renewable", "the issuer by which this certificate came does not let certificates "
        "renew themselves (renewable), or is registered here no more: enrol again",
    )  # fmt: skip


def renew(
    policies: OpenPolicies,
    decide: Decide,
    authority: Issued,
    known: ClientCertificate,
    issuer: Issuer | None,
    csr: str,
) -> ClientCertificate:
    """A certificate that says what `known` says, for the key of a CSR that asks for that, and lives
    no longer. Raises Refusal, CertificateError."""
    store, was = policies.store, core.identity(known.pem.encode())
    request = read_request(csr)
    check_same_names(request, known.pem)
    profile = issuing.profile_named(store, known.profile)
    seconds = known.not_after - known.not_before - int(CLOCK_SKEW.total_seconds())
    life = timedelta(seconds=min(seconds, profile.lifetime))
    sans = tuple(f"{kind}:{value}" for kind, value in was.sans)
    leaf = Leaf(was.subject, sans, profile.key_usage, life)
    pem = issue_requested(authority, request, leaf) + chain_to_present(authority)
    user = enrolment.holder(policies, decide, authority, pem)
    if user.name != known.user:
        raise refused(
            "certificate_of_another", "what this certificate says belongs to another user by now: "
            "enrol again",
        )  # fmt: skip
    issuing.profile_for(store, user, profile.name)
    issuing.check_count(store, user)
    issuing.check_whose(policies, decide, authority, user, pem)
    made = issuing.remembered(pem, authority, user, profile)
    made = replace(made, enrolled_by=known.enrolled_by)
    unless = [*policy.revoke_lines(made), *policy.revoke_lines(known)]
    by = Enrolment(issuer.name if issuer else "", cert=known.cert)
    store.inventory.record_issued(made, unless=unless, by=by)
    return made
