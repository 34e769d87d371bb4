"""Who will lose access, and when, as far as it is known today: by the known certificates and what
ends until a later day. Pure: nothing is asked and nothing is changed.

It knows certificates that were issued here or have logged in, each CA that is trusted, and what the
servers show. A certificate that has a successor (for the same key, or first seen since the last
login of the other one) is not lost; a list that is fetched is on time as long as its fetches are.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from control.domain.preview import clients
from control.http.verify import public_cas
from control.policy import core
from control.records import Database
from control.reports import ClientCertificate, Node, RevocationList

Paths = Mapping[str, frozenset[str]]  # key id of a CA → its own, and those of the CAs above it


@dataclass(frozen=True)
class End:
    """What ends a certificate's access, and when, in seconds since 1970."""

    time: int
    reason: str  # with which a server then refuses it
    by: str = ""  # of a CA that ends, or whose list is overdue: its key id


@dataclass(frozen=True)
class Loss:
    """A certificate that gets into a database today, and from a later day on not any more."""

    database: Database
    user: str
    certificate: ClientCertificate
    end: End
    last: bool  # the user has no other one there that lives longer


@dataclass(frozen=True)
class Known:
    """What there is today. `ends`: of CAs, by key id, the last second of the newest certificate;
    `public`: the key ids of CAs that everybody trusts."""

    now: int
    until: int
    ends: Mapping[str, int]
    paths: Paths
    lists: Sequence[RevocationList]
    public: frozenset[str] = frozenset()

    def path(self, key: str) -> frozenset[str]:
        """The key ids of the CAs above certificates of this CA, with its own; nothing where it is
        not known which CA that is."""
        return self.paths.get(key, frozenset({key} if key else ()))

    def overdue(self) -> list[RevocationList]:
        """The lists that nobody will have renewed by then."""
        return [
            one
            for one in self.lists
            if one.next_update <= self.until and not one.overdue and (not one.url or one.problem)
        ]

    def end_of(self, one: ClientCertificate, pinned: bool) -> End | None:
        """What ends its access first; None where nothing does by then. A pinned certificate needs
        no CA, but is revoked like any other."""
        path = self.path(one.ca)
        found = [End(one.not_after, "expired")] if one.not_after else []
        if not pinned:
            found += [End(self.ends[key], "ca_expired", key) for key in path if key in self.ends]
        found += [
            End(late.next_update, "ca_revoked", late.ca)
            for late in self.overdue()
            if late.stale == "refuse" and not path.isdisjoint((late.ca, *late.keys))
        ]
        first = min(found, key=lambda end: (end.time, end.reason, end.by), default=None)
        return first if first and first.time <= self.until else None


def losses(
    database: Database, policy: core.Policy, certificates: Iterable[ClientCertificate], known: Known
) -> list[Loss]:
    """Of one database, those that end first before the others."""
    inside: list[tuple[ClientCertificate, str, End | None]] = []
    lines = (line.split(" ") for line in policy.lines if line.startswith("pin "))
    pins = {core.identity(base64.b64decode(text)).cert for _, text in lines}
    for one in clients(certificates):
        decided = policy.decide_known(one, known.now)
        # From where it comes, the inventory does not know.
        if decided.action in ("login", "choose") or decided.reason == "address":
            inside.append((one, decided.named[0], known.end_of(one, one.cert in pins)))
    found = []
    for one, user, end in inside:
        others = [(other, when) for other, name, when in inside if name == user and other != one]
        longer = [other for other, when in others if end and (when is None or when.time > end.time)]
        if end and not any(_succeeds(other, one) for other in longer):
            found.append(Loss(database, user, one, end, not longer))
    return sorted(found, key=lambda loss: (loss.end.time, loss.user, loss.certificate.cert))


def _succeeds(other: ClientCertificate, one: ClientCertificate) -> bool:
    return other.key == one.key or other.first > one.last_login


def without_client_auth(
    certificates: Iterable[ClientCertificate], known: Known
) -> list[ClientCertificate]:
    """Those that end by then and whose renewal will be for servers alone: public CAs do not issue
    for clients any more, so that a certificate that passes for a server's becomes one."""
    return [
        one
        for one in clients(certificates)
        if one.serves
        and known.now < one.not_after <= known.until
        and known.path(one.ca) & known.public
    ]


def authority_ends(authorities: Iterable[bytes]) -> dict[str, int]:
    """By key id: a CA that was renewed with its key ends with its newest certificate."""
    ends: dict[str, int] = {}
    for der in authorities:
        one = core.identity(der)
        ends[one.key] = max(ends.get(one.key, 0), one.not_after)
    return ends


def node_ends(nodes: Iterable[Node], until: int) -> list[tuple[Node, int]]:
    """The servers whose certificate ends by then, and when."""
    shown = [(one, core.identity(one.certificate.encode())) for one in nodes if one.certificate]
    return [(node, one.not_after) for node, one in shown if one.not_after <= until]


@cache
def public_authorities() -> frozenset[str]:
    """The key ids of the CAs that this machine trusts for the web; none where it has no such
    list."""
    found = set()
    for der in public_cas():
        try:
            found.add(core.identity(der).key)
        except core.CoreError:  # of an algorithm that this libcrypto does not know
            continue
    return frozenset(found)
