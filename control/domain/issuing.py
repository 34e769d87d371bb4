"""The CA of clients: where it is kept, and who gets which certificate of it.

HOME/clients.pem       the CA that issues: its key, its certificate, then those above it
HOME/clients-root.pem  the root above it, where it was made here: for the next issuing CA only
HOME/clients-*.pem     those that issued before

It is not the control plane's own CA: that one is trusted by every node, whatever its database says.

Nobody gets a certificate for somebody else. Whose it is, the control plane decides and the CSR does
not: the subject is that of the user, or made from the profile's template, in which a user's own
values are escaped. What was made is then put to the core, under each policy there is, as if it
trusted this CA and let everybody in that it has a line for: one that would be another user
anywhere, or an ambiguous one, is thrown away.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from control import records
from control.errors import Refusal, forbidden, invalid, refused
from control.nodes.plan import merged
from control.pki.files import write_private
from control.pki.issue import chain_to_present, new_ca, open_authority, seal_authority
from control.pki.keys import KeyType
from control.pki.pem import Issued, split_pem
from control.pki.request import Leaf, issue_requested, read_request
from control.pki.request import check_sans as check_san_values
from control.pki.trust import read_trust
from control.pki.uploads import check_authority
from control.policy import bindings, core
from control.policy import lines as policy
from control.records import Database, Profile, Target, User
from control.reports import ClientCertificate
from control.store import Store

CLIENTS, ROOT = "clients.pem", "clients-root.pem"
FILES = re.compile(r"clients(?:-[a-z0-9]+)?\.pem")
ROOT_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=1825)  # of the CA that issues
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
CERTIFICATES = 1_000  # good ones of one user: anyone who has one could fill the disk with others
# What a decision may say of a certificate that is nobody else's: it is this user, or nobody yet.
HARMLESS = {
    "matched", "off", "no_binding", "gate", "untrusted_issuer", "address", "user_missing",
    "user_off",
}  # fmt: skip
Decide = Callable[[bytes], core.Decision]


# ---- The CA in its files -------------------------------------------------------------------------


class Authority:
    """The CA of clients, as its file says at the moment; `passphrase` is asked when it is read.
    Where there is a `url`, its certificates say that the control plane is reached there."""

    def __init__(self, home: Path, passphrase: Callable[[], str], url: str = "") -> None:
        self._file, self._passphrase, self._url = home / CLIENTS, passphrase, url
        self._known: tuple[tuple[int, int], Issued] | None = None

    def __call__(self) -> Issued:
        """Raises Refusal 406 where there is none, or none that can be used."""
        try:
            state = self._file.stat()
            stamp = (state.st_ino, state.st_mtime_ns)
            known = self._known
            if known is None or known[0] != stamp:
                opened = open_authority(self._file.read_text(), self._passphrase())
                known = (stamp, opened._replace(url=self._url))
                self._known = known
        except FileNotFoundError:
            raise refused(
                "no_ca",
                "this control plane has no CA of clients: create one with `redis-certauth ca "
                "create`",
            ) from None
        except (OSError, ValueError) as error:
            raise refused(
                "no_ca", f"the control plane cannot use its CA of clients: {error}"
            ) from error
        return known[1]


def create(
    home: Path, name: str, passphrase: str, key_type: KeyType, trust: Callable[[str], None]
) -> None:
    """Makes a CA that issues, and the root above it unless that is there from before; `name` is
    their organisation. `trust` gets the PEM of both before the CA is there: it may raise. Raises
    CertificateError, OSError."""
    root_file = home / ROOT
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime())  # no two CAs have the same name
    if root_file.exists():
        root = open_authority(root_file.read_text(), passphrase)
    else:
        root = new_ca([("O", name), ("CN", f"clients root {now}")], ROOT_LIFETIME, key_type)
        write_private(root_file, seal_authority(root, passphrase))
    made = new_ca([("O", name), ("CN", f"clients {now}")], LIFETIME, key_type, root)
    chain = made.certificate + root.certificate
    _put(home, Issued(chain, made.key), passphrase, trust)


def adopt(home: Path, pem: str, key: str, passphrase: str, trust: Callable[[str], None]) -> None:
    """Takes a CA from elsewhere: its certificate and those above it, and its key, which may be
    encrypted with the passphrase. `trust` as for `create`. Raises CertificateError, OSError."""
    _put(home, check_authority(pem, key, passphrase), passphrase, trust)


def _put(home: Path, authority: Issued, passphrase: str, trust: Callable[[str], None]) -> None:
    """In one step: who reads meanwhile gets the one before, which is kept under a name of its
    own."""
    file = home / CLIENTS
    trust(authority.certificate)
    if file.exists():
        certificate = certificate_of(file.read_text())
        kept = home / f"clients-{core.identity(certificate.encode()).key[:16]}.pem"
        if not kept.exists():
            os.link(file, kept)
    write_private(file, seal_authority(authority, passphrase))


def files(home: Path) -> list[Path]:
    """Every CA of clients that is or was here."""
    return sorted(file for file in home.glob("clients*.pem") if FILES.fullmatch(file.name))


def certificate_of(sealed: str) -> str:
    """What stands behind the key of a CA's file."""
    return "".join(split_pem(sealed))


# ---- Profiles ------------------------------------------------------------------------------------


def values_of(user: User) -> dict[str, str]:
    """What templates may have in braces."""
    return {"name": user.name, "email": user.email, "uid": str(user.uid)}


SAMPLE = User(1, "name", "certificate", (1,), "name@example.com", "CN=name")


def check_subject(profile: Profile) -> None:
    """Raises ValueError (CoreError too) where no user could get a certificate with this subject."""
    subject_of(profile, SAMPLE)


def check_sans(profile: Profile) -> None:
    """The same, of the SANs. Raises ValueError."""
    check_san_values(sans_of(profile, SAMPLE))


def subject_of(profile: Profile, user: User) -> str:
    """Canonical RFC 4514. A user's own values are written in hex pairs, so that none of them ends
    an attribute."""
    if not profile.subject:
        if not user.certificate_subject_line:
            raise ValueError(f"give the profile a subject: user '{user.name}' has no subject line")
        return user.certificate_subject_line
    return core.parse_name(_filled(profile.subject, user, _in_a_name))


def _in_a_name(value: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in value.encode())


def sans_of(profile: Profile, user: User) -> tuple[str, ...]:
    """The subject alternative names, such as `email:a@b`, with the user's values in the profile's
    placeholders. Raises ValueError where a value does not fit its place."""
    return tuple(_san(template, user) for template in profile.sans)


def _san(template: str, user: User) -> str:
    """A user's own values stay within their part: one label of a DNS name, one segment of a URI."""
    kind = template.partition(":")[0]
    if kind == "uri":
        return _filled(template, user, lambda value: quote(value, safe=""))
    if template == "email:{email}":
        return _filled(template, user, str)
    return _filled(template, user, _label)


def _label(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", value):
        raise ValueError(f"'{value}' cannot be part of a name: use letters, digits, '-' and '_'")
    return value


def _filled(template: str, user: User, written: Callable[[str], str]) -> str:
    values = values_of(user)

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ValueError(f"{found[0]} is none of {', '.join(f'{{{name}}}' for name in values)}")
        if not values[found[1]]:
            raise ValueError(f"user '{user.name}' has no {found[1]}")
        return written(values[found[1]])

    return PLACEHOLDER.sub(value, template)


# ---- Every policy, opened ------------------------------------------------------------------------


@dataclass
class _Open:
    trust: records.Trust
    target: Target
    policy: core.Policy


class OpenPolicies:
    """The policy of each database, if it trusted this CA, enforced itself, and had no gate. Kept,
    and brought up to date change by change: one of many users takes a second to make."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: dict[int, _Open] = {}
        self._lock = threading.Lock()

    def decide(self, uid: int, trust: records.Trust, presented: bytes) -> core.Decision:
        """What a client's certificates, PEM, would be on the database `uid`. Raises Refusal 404."""
        with self._lock:
            kept = self._kept.get(uid)
            if kept is None or kept.trust != trust or not self._follows(uid, kept):
                target, lines = self.store.policies.whole(uid)
                kept = _Open(trust, target, core.Policy(_opened(lines, trust)))
                self._kept[uid] = kept
            return kept.policy.decide(presented)

    def _follows(self, uid: int, kept: _Open) -> bool:
        """Makes the changes since it was made; false where they are not known any more."""
        changes = self.store.policies.changes(uid, kept.target.generation, kept.target.digest)
        if changes:
            kept.policy.patch(line for line in merged(changes) if not line[1:].startswith(CLOSED))
            kept.target = Target(changes[-1].generation, changes[-1].digest)
        return changes is not None


# What keeps clients out of a policy, no matter who they are.
CLOSED = ("set enforce ", "set gate ", "allow ", "ca ", "anchor ")


def _opened(lines: Iterable[str], trust: records.Trust) -> list[str]:
    kept = [line for line in lines if not line.startswith(CLOSED)]
    return [*kept, "set enforce on", *policy.trust_lines(trust)]


# ---- Issuing -------------------------------------------------------------------------------------


def issue(
    policies: OpenPolicies,
    decide: Decide,
    authority: Issued,
    user: User,
    profile_name: str,
    csr: str,
    by: ClientCertificate | None = None,
) -> ClientCertificate:
    """A certificate for the key of a CSR (PEM) and this user, by a profile; remembered in the
    inventory. `decide` is what the REST API does with certificates, `by` the certificate that the
    caller logged in with. Raises Refusal, CertificateError."""
    store = policies.store
    profile = profile_for(store, user, profile_name)
    check_count(store, user)
    request = read_request(csr)
    subject, sans = names_of(profile, user)
    leaf = Leaf(subject, sans, profile.key_usage, timedelta(seconds=profile.lifetime))
    pem = issue_requested(authority, request, leaf) + chain_to_present(authority)
    check_whose(policies, decide, authority, user, pem)
    made = remembered(pem, authority, user, profile)
    good = [line for one in (made, by) if one for line in policy.revoke_lines(one)]
    store.inventory.record_issued(made, unless=good)
    return made


def check_count(store: Store, user: User) -> None:
    """Raises Refusal 406 where a user has too many certificates already."""
    if store.inventory.count_issued(user.name, int(time.time())) >= CERTIFICATES:
        raise refused(
            "too_many_certificates",
            f"user '{user.name}' has {CERTIFICATES} valid certificates, which is the limit: wait "
            "until some of them end",
        )


def names_of(profile: Profile, user: User) -> tuple[str, tuple[str, ...]]:
    """The subject and the SANs that a profile gives a user. Raises Refusal 400."""
    try:
        return subject_of(profile, user), sans_of(profile, user)
    except ValueError as error:
        raise invalid("invalid_param", f"profile '{profile.name}': {error}") from error


def profile_for(store: Store, user: User, name: str) -> Profile:
    """The profile of this name. Raises Refusal 404, 403 where the user holds none of its roles, 406
    for users without certificates."""
    if user.auth_method != "certificate":
        raise refused(
            "no_certificate_user",
            f"'{user.name}' logs in by password, and only users whose auth_method is "
            "certificate get certificates. Name the user that the certificate is for",
        )
    found = profile_named(store, name)
    if found.role_uids and not set(found.role_uids) & set(user.role_uids):
        raise forbidden(
            "unauthorized_action",
            f"user '{user.name}' has none of the roles that profile '{name}' is for",
        )
    return found


def profile_named(store: Store, name: str) -> Profile:
    """Raises Refusal 404."""
    for one in store.objects.all(Profile):
        if one.name == name:
            return one
    raise Refusal(404, "not_found", f"unknown certificate profile '{name}'")


def remembered(pem: str, authority: Issued, user: User, profile: Profile) -> ClientCertificate:
    """What the inventory is to hold of a certificate that was issued here."""
    leaf, above = core.identity(pem.encode()), core.identity(authority.certificate.encode())
    return ClientCertificate(
        cert=leaf.cert, key=leaf.key, ca=above.key, issuer=leaf.issuer, serial=leaf.serial,
        subject=leaf.subject, user=user.name, not_before=leaf.not_before, not_after=leaf.not_after,
        first=int(time.time()), issued=True, profile=profile.name, pem=pem,
        sans=bindings.named(leaf), ocsp=leaf.ocsp,
    )  # fmt: skip


# ---- Whose it would be ---------------------------------------------------------------------------


def check_whose(
    policies: OpenPolicies, decide: Decide, authority: Issued, user: User, pem: str
) -> None:
    """Raises Refusal 406 unless a certificate (PEM, with those above it) is this user's, wherever
    it is anybody's."""
    store = policies.store
    trust = trust_of(authority.certificate)
    presented = pem.encode()
    leaf = core.identity(presented)
    here = {user.name} if _rest_user(store, trust, leaf, presented) == user.uid else set()
    _check(decide(presented), str(user.uid), "this API")
    for database in store.objects.all(Database):
        if not database.deleting:
            decided = policies.decide(database.uid, trust, presented)
            _check(decided, user.name, f"database '{database.name}'")
            here |= set(decided.users)
    if not here:
        named = ", ".join(f"{one.kind} '{one.value}'" for one in user.identities)
        raise refused(
            "certificate_of_nobody",
            f"a certificate with the subject '{leaf.subject}' would not log anybody in: the "
            f"identities of user '{user.name}' are {named}. Change the profile or the user",
        )


@lru_cache(maxsize=8)
def trust_of(certificate: str) -> records.Trust:
    """What a CA of ours (PEM, with those above it) admits: it verifies signatures, so each once."""
    return read_trust(certificate)


def _check(decided: core.Decision, name: str, where: str) -> None:
    if set(decided.named) - {name}:
        raise refused(
            "certificate_of_another", f"this certificate would log in as another user on {where}"
        )
    if decided.reason not in HARMLESS:
        steps = (step for step in decided.trace if step.startswith(f"{decided.reason}:"))
        raise refused(
            "certificate_not_accepted",
            f"this certificate would be refused on {where}: {next(steps, decided.reason)}",
        )


def _rest_user(
    store: Store, trust: records.Trust, leaf: core.Identity, presented: bytes
) -> int | None:
    """The uid of whom it would be in the REST API, if that trusted this CA and had no gate."""
    cluster = replace(store.settings.cluster(), mtls_client_cert_subject_validation_type="disabled")
    lines = policy.rest_lines(cluster, trust, store.objects.users_like(leaf))
    found = core.Policy(lines).decide(presented).user
    return int(found) if found else None
