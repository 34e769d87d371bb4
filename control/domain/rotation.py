"""Which users, certificates and live sessions depend on which CA, so that one is taken away when
nobody needs it any more."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.nodes.audit import Command
from control.pki import trust
from control.records import Trust
from control.reports import ClientCertificate, Session

Paths = Mapping[str, frozenset[str]]  # key id of a CA → its own, and those of the CAs above it


@dataclass(frozen=True)
class Use:
    """A certificate of a user, or a live session of it, and the key ids of all CAs above it.
    `place` is the database where that is, 0 the REST API. Of a certificate, `key` is its key id,
    `first` when it came, and `last` when it last logged in."""

    user: str
    cert: str
    path: frozenset[str]
    place: int
    live: bool
    key: str = ""
    first: int = 0
    last: int = 0

    def succeeds(self, other: "Use") -> bool:
        """Whether it is there in place of another: for the same key, or since that was last
        used."""
        newer = not self.live and self.user == other.user and self.cert != other.cert
        return newer and (self.key == other.key or self.first > other.last)


def everybody(command: Command) -> list[dict[str, Any]]:
    """The clients of a node, as CERTAUTH.SESSIONS tells them."""
    found: list[dict[str, Any]] = []
    cursor = 0
    while True:
        reply = command("CERTAUTH.SESSIONS", "CURSOR", cursor)
        found += reply["sessions"]
        if not (cursor := reply["cursor"]):
            return found


def session(bdb_uid: int, address: str, told: Mapping[str, Any]) -> Session:
    """A session of CERTAUTH.SESSIONS' reply (`told`) on the node at `address`."""
    path = tuple(told.get("path", ()))  # a module of an older version does not tell
    return Session(bdb_uid, address, told["user"], told.get("cert") or "", path)


def uses(
    certificates: Iterable[ClientCertificate], sessions: Sequence[Session], known: Paths
) -> list[Use]:
    """`certificates` are those that have not ended. What is above a CA that is only ever presented
    is learned from the sessions."""
    paths = {key: set(path) for key, path in known.items()}
    for one in sessions:
        for index, key in enumerate(one.path):
            paths.setdefault(key, {key}).update(one.path[index:])
    found = [
        Use(
            one.user,
            one.cert,
            frozenset(paths.get(one.ca, {one.ca})),
            one.bdb_uid,
            False,
            one.key,
            one.first,
            one.last_login,
        )
        for one in certificates
    ]
    live = [Use(one.user, one.cert, frozenset(one.path), one.bdb_uid, True) for one in sessions]
    return found + live


def cut(found: Sequence[Use], before: Trust, after: Trust, places: Collection[int]) -> list[Use]:
    """What would get in no more at some places when their trust changes; not the certificates that
    have a successor which still would."""
    staying: dict[str, list[Use]] = {}
    for one in found:
        if trust.admits(after, one.path, one.cert):
            staying.setdefault(one.user, []).append(one)
    gone = [
        one
        for one in found
        if one.place in places
        and trust.admits(before, one.path, one.cert)
        and not trust.admits(after, one.path, one.cert)
    ]
    return [
        one
        for one in gone
        if one.live or not any(other.succeeds(one) for other in staying.get(one.user, ()))
    ]


@dataclass(frozen=True)
class Dependant:
    """A user of a CA or of a pinned certificate: how many of its certificates and live sessions
    come from it, and whether it has none from another."""

    user: str
    certificates: int
    sessions: int
    only: bool


def dependants(found: Sequence[Use], key: str) -> list[Dependant]:
    """Those of the CA with this key id, or of the pinned certificate with this SHA-256, by name."""
    mine = [one for one in found if _needs(one, key)]
    others = {one.user for one in found if not _needs(one, key)}
    return [
        Dependant(
            user,
            len({one.cert for one in mine if one.user == user and not one.live}),
            sum(one.live for one in mine if one.user == user),
            user not in others,
        )
        for user in sorted({one.user for one in mine})
    ]


def _needs(one: Use, key: str) -> bool:
    return key in one.path or key == one.cert


def told(found: Sequence[Use]) -> str:
    """Who is among these, for a message."""
    certificates = len({one.cert for one in found if not one.live})
    sessions = sum(one.live for one in found)
    names = sorted({one.user for one in found})
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(names[:10])}{more} ({certificates} certificates, {sessions} live sessions)"
