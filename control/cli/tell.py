"""What the API says, told to a person at a terminal: one line each, plain text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Fields = Mapping[str, Any]


def explained(found: Fields) -> Iterator[str]:
    """An answer of /v1/certauth/explain."""
    yield from found["trace"]
    yield f"decision: {found['action']} {' '.join(found['users'])}".rstrip()


def previewed(databases: Sequence[Fields]) -> Iterator[str]:
    """An answer of /v1/certauth/preview."""
    if not databases:
        yield "no policy changes"
    for one in databases:
        yield f"{one['bdb_name']}:"
        yield from (f"  - {line}" for line in one["removed"])
        yield from (f"  + {line}" for line in one["added"])
        for node in one["nodes"]:
            yield from (f"  {line}" for line in _node(node))
        for certificate in one["certificates"]:
            was, will = (_outcome(certificate[when]) for when in ("before", "after"))
            yield f"  certificate {certificate['subject']}: {was} -> {will}"
        yield from _rest(one["certificates_changed"], one["certificates"], "certificates")


def refused_by(node: Fields) -> Iterator[str]:
    """What of a change a server refuses, which is a node of such an answer."""
    for one in node["refused"]:
        what = f"the user {one['user']}" if one["user"] else f"'{one['line']}'"
        yield f"server {node['address']} refuses {what}: {one['why']}"


def _node(node: Fields) -> Iterator[str]:
    if node["error"]:
        yield f"{node['address']}: not known: {node['error']}"
        return
    yield from refused_by(node)
    yield f"{node['address']}: {node['ends']} of {node['sessions']} sessions end"
    for one in node["ending"]:
        who = one["user"] or "nobody"
        certificate = f" ({one['subject']})" if one["subject"] else ""
        then = {**one["then"], "users": [one["then"]["user"]] if one["then"]["user"] else []}
        yield f"  {who} from {one['address'] or 'a unix socket'}{certificate} -> {_outcome(then)}"
    yield from _rest(node["ends"], node["ending"], "sessions")
    for user in node["users"]:
        what = "needs no password" if user["nopass"] else f"{user['passwords']} passwords"
        yield f"  user {user['name']} loses its password ({what})"


def _outcome(found: Fields) -> str:
    who = " or ".join(found["users"])
    return who or f"{found['action']} ({found['reason']})"


def _rest(count: int, shown: Sequence[Any], what: str) -> Iterator[str]:
    if count > len(shown):
        yield f"  and {count - len(shown)} more {what}"


HIDDEN = {
    "time", "type", "severity", "time_us", "seq", "client", "cert", "key", "ca", "bdb_uid",
    "not_after",
}  # fmt: skip


def logged(events: Sequence[Fields]) -> Iterator[str]:
    """Events of /v1/logs; hashes and numbers that only programs need are left out."""
    for event in events:
        told = " ".join(f"{name}={event[name]}" for name in event if name not in HIDDEN)
        yield f"{event['time']} {event['type']} {told}".rstrip()
