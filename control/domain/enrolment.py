"""Certificates for tokens: what a workload is called by its platform is its first secret, and the
platform keeps it.

A token is verified by the keys of an issuer that administrators have registered, and the first of
this issuer's rules that it fits says what the certificate is for. From there on it is as for every
certificate from here (control/domain/issuing.py): a CSR for another name is refused, and what would
be nobody, somebody else, or several users, is not issued. A token can be used once for each key.
"""

import hashlib
import json
import threading
import time
from datetime import timedelta
from urllib.parse import urlsplit

from control.domain import claims as rules
from control.domain import issuing, revocation
from control.domain.issuing import Decide, OpenPolicies
from control.errors import refused
from control.pki import jose
from control.pki.guarded import CertificateError, CrlError
from control.pki.issue import chain_to_present
from control.pki.jose import Token, TokenError, Wanted
from control.pki.pem import Issued
from control.pki.request import Leaf, issue_requested, read_request
from control.policy import core, patterns
from control.policy import lines as policy
from control.records import Database, EnrolmentRule, Issuer, Pattern, Profile, User
from control.reports import ClientCertificate, Enrolment, IssuerKeys
from control.store import Store

AGAIN = 60  # seconds until a fetch that brought no keys is tried again
EAGER = 10  # seconds between two fetches because a token names a key that is not known
STALE = 7 * 86400  # seconds that keys are good for when their issuer is not heard of
SKEW = 300  # seconds that the clocks of an issuer may be wrong, at most
PROBLEM = 1000  # characters of a problem that are kept: an issuer can name an address of any length
DISCOVERY = "/.well-known/openid-configuration"
JSON = "application/json"


# ---- Keys of issuers -----------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Raises ValueError where no keys would be fetched from there: they are not signed, so only
    https says whose they are."""
    revocation.check_url(url)
    if urlsplit(url).scheme != "https":
        raise ValueError(
            "url: must look like https://issuer.example: keys are fetched over https only"
        )


def fetch_keys(issuer: Issuer) -> str:
    """The keys that an issuer publishes at this moment, a JWKS. Raises CertificateError, which
    holds nothing of what was answered."""
    try:
        url = issuer.jwks_url or _discovered(issuer)
        check_url(url)
        return jose.read_keys(revocation.fetch(url, JSON, jose.SET_BYTES, issuer.ca))
    except CrlError as error:
        raise CertificateError(str(error)) from error


def _discovered(issuer: Issuer) -> str:
    """Where an issuer says that its keys are (OpenID Connect Discovery 1.0, section 4)."""
    url = issuer.url.rstrip("/") + DISCOVERY
    check_url(url)
    content = revocation.fetch(url, JSON, jose.SET_BYTES, issuer.ca)
    try:
        found = json.loads(content)
        named, keys = found["issuer"], found["jwks_uri"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CertificateError(f"{url}: no issuer and jwks_uri in its answer") from None
    if named != issuer.url or not isinstance(keys, str):
        raise CertificateError(f"{url}: it is of another issuer")
    return keys


def refresh(store: Store, issuer: Issuer, now: int) -> IssuerKeys:
    """Fetches keys and remembers them; where that brings none, why not."""
    try:
        found = IssuerKeys(issuer.uid, fetch_keys(issuer), now, now)
    except (CertificateError, ValueError) as error:
        found = IssuerKeys(issuer.uid, tried=now, problem=str(error)[:PROBLEM])
    store.issuers.record_keys(issuer, found)
    return store.issuers.keys(issuer.uid)


def is_due(issuer: Issuer, known: IssuerKeys, now: int) -> bool:
    """Whether the issuer's keys should be fetched at `now` (seconds since 1970): `interval` seconds
    after the last attempt, after a failed attempt at most AGAIN. Keys given as `jwks` are never
    fetched."""
    patience = min(issuer.interval, AGAIN) if known.problem else issuer.interval
    return not issuer.jwks and now >= known.tried + patience


class Keys:
    """The keys of issuers, for those who enrol. A token that names an unknown key makes its issuer
    be asked: one request at a time, and seldom, for strangers can send such tokens."""

    def __init__(self, store: Store) -> None:
        self._store, self._fetching = store, threading.Lock()
        self._asked: dict[int, int] = {}  # uid → when; a dry run leaves nothing in the store

    def verified(self, issuer: Issuer, token: Token, now: int) -> rules.Claims:
        """Raises TokenError."""
        known = IssuerKeys(issuer.uid, issuer.jwks, now, now)
        if not issuer.jwks:
            known = self._store.issuers.keys(issuer.uid)
        try:
            return jose.verify(token, _wanted(issuer, known, now))
        except TokenError as error:
            last = max(known.tried, self._asked.get(issuer.uid, 0))
            early = issuer.jwks or now < last + EAGER
            if error.code != "token_key_unknown" or early or not self._fetching.acquire(False):
                raise
        self._asked[issuer.uid] = now
        try:
            return jose.verify(token, _wanted(issuer, refresh(self._store, issuer, now), now))
        finally:
            self._fetching.release()


def _wanted(issuer: Issuer, known: IssuerKeys, now: int) -> Wanted:
    fresh = known.jwks if now < known.fetched + STALE else ""
    return Wanted(issuer.url, issuer.audiences, issuer.algorithms, fresh, issuer.clock_skew)


# ---- Enrolling -----------------------------------------------------------------------------------


def issuer_of(store: Store, token: Token) -> Issuer:
    """The issuer that a token names. Raises TokenError."""
    for one in store.objects.all(Issuer):
        if one.url == token.issuer:
            return one
    raise TokenError("token_issuer", "the issuer of this token is not registered here")


def enrol(
    policies: OpenPolicies, decide: Decide, authority: Issued, keys: Keys, token: Token, csr: str
) -> ClientCertificate:
    """A certificate for the key of a CSR (PEM), as the token is good for; remembered in the
    inventory. `decide` is what the REST API does with certificates. Raises TokenError, Refusal,
    CertificateError."""
    store, now = policies.store, int(time.time())
    issuer = issuer_of(store, token)
    claims = keys.verified(issuer, token, now)
    rule = rules.rule_for(issuer.rules, claims)
    kind, value = rules.identity_of(rule, claims)
    request = read_request(csr)
    used = hashlib.sha256(f"{token.signed} {request.key_id}".encode()).hexdigest()
    by = Enrolment(used, token.expires + SKEW + 1, issuer.name, _shown(str(claims["sub"])))
    store.inventory.check_unused(by)  # before the work; and again with the certificate
    profile = issuing.profile_named(store, rule.profile)
    life = timedelta(seconds=min(rule.lifetime, profile.lifetime))
    user = _user(store, value) if kind == "user" else None
    subject, sans = issuing.names_of(profile, user) if user else _names(kind, value)
    leaf = Leaf(subject, sans, profile.key_usage, life)
    pem = issue_requested(authority, request, leaf) + chain_to_present(authority)
    user = user or _holder(policies, decide, authority, pem)
    issuing.profile_for(store, user, rule.profile)  # its roles, which a pattern tells only now
    issuing.check_count(store, user)
    issuing.check_whose(policies, decide, authority, user, pem)
    made = issuing.remembered(pem, authority, user, profile)
    store.inventory.record_issued(made, unless=policy.revoke_lines(made), by=by)
    return made


def _shown(subject: str) -> str:
    """For the event log, which is text."""
    return "".join(one if one.isprintable() else "?" for one in subject[: jose.TEXT])


def _names(kind: str, value: str) -> tuple[str, tuple[str, ...]]:
    """The subject and the SANs of a certificate that says this, and nothing else."""
    if kind != "subject":
        return "", (f"{kind}:{value}",)
    try:
        return core.parse_name(value), ()
    except core.CoreError as error:
        raise TokenError(
            "token_claim_value", f"a certificate cannot contain that: {error}"
        ) from error


def _user(store: Store, name: str) -> User:
    """The certificate user of exactly this name."""
    found = store.objects.user_by_login(name)
    if found is None or found.name != name or found.auth_method != "certificate":
        raise refused(
            "certificate_of_nobody", "the token is valid, but its user is not a certificate "
            "user here",
        )  # fmt: skip
    return found


def _holder(policies: OpenPolicies, decide: Decide, authority: Issued, pem: str) -> User:
    """Whom the policies, the API's included, make of a certificate: one user, everywhere the same.
    One that a pattern makes has the roles of the pattern, and no record. Raises Refusal 406."""
    store, presented = policies.store, pem.encode()
    leaf, trust = core.identity(presented), issuing.trust_of(authority.certificate)
    found = {user.name for user in store.objects.users_like(leaf)}
    for database in store.objects.all(Database):
        if not database.deleting:
            found |= set(policies.decide(database.uid, trust, presented).named)
    if not found:
        named = leaf.subject or ", ".join(f"{kind} '{value}'" for kind, value in leaf.sans)
        raise refused(
            "certificate_of_nobody", f"the token is valid, but its identity ({named}) belongs to "
            "nobody: no user has it, and no pattern matches it",
        )  # fmt: skip
    if len(found) > 1:
        raise refused(
            "certificate_of_several", "the token is valid, but several users have its identity: "
            "a rule must name one user",
        )  # fmt: skip
    name = found.pop()
    known = store.objects.user_by_login(name)
    if known is not None and known.name == name:
        return known
    word = patterns.word_of(name)
    held = {
        uid
        for one in store.objects.all(Pattern)
        if patterns.makes(one) and patterns.word_of(one.user) == word
        for uid in one.role_uids
    }
    return User(0, name, "certificate", tuple(sorted(held)))


def check_rule(store: Store, rule: EnrolmentRule) -> None:
    """Raises ValueError (CoreError too) where no token could enrol by it."""
    rules.check_identity(rule.identity)
    if not any(one.name == rule.profile for one in store.objects.all(Profile)):
        raise ValueError(f"unknown certificate profile '{rule.profile}'")


def check_agreed(rule: EnrolmentRule) -> None:
    """Raises Refusal 406 where all tokens of an issuer become one user, unless that is said."""
    if rules.takes_every_token(rule) and not rule.every_token:
        raise refused(
            "trust_grows",
            f"rule '{rule.identity}' names no claim that tells tokens apart: every token of the "
            "issuer becomes this one user. Name claims that a token must have; or if it is meant, "
            "send every_token: true in the rule (redis-certauth: every-token)",
        )
