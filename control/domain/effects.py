"""What a change does, in people's words: who loses or gets a database, which sessions end, which
CAs come and go. Made from the lines of a preview, so that what one reads is what would be done.

An effect `cuts` where somebody or something is cut off by it, and is `grave` where it concerns
many, or whom to trust at all: that takes more than a click to agree to."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from control.policy import core
from control.policy.taking import RESERVED

MANY = 10  # users or sessions that one may cut off without a second thought
NAMED = 5  # that a text names; it counts the rest
SETTINGS = {
    "enforce": "Enforcement", "gate": "The list of subjects", "unmatched": "Unknown certificates",
    "password-auth": "Passwords beside certificates", "tls-client-auth": "A client's certificate",
    "internal-trust": "Trust between nodes", "max-lifetime": "Longest life of a certificate",
    "require-eku": "Required key usages", "require-policy": "Required certificate policies",
    "min-key-bits": "Smallest key", "min-tls": "Oldest TLS version", "plain": "Without certificate",
}  # fmt: skip


@dataclass(frozen=True)
class Effect:
    text: str
    cuts: bool = False
    grave: bool = False


def effects(database: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of one database of a preview's answer (preview.told), the gravest first."""
    name, added, removed = (database[key] for key in ("bdb_name", "added", "removed"))
    is_there, was_there = ("enforce" in _settings(lines) for lines in (added, removed))
    if is_there and not was_there:
        own = list(_of_new(name, added))
    elif was_there and not is_there:
        own = [Effect(f"{name} is no longer looked after", cuts=True, grave=True)]
    else:
        own = [*_of_trust(name, added, removed), *_of_settings(name, added, removed)]
    found = [
        *own,
        *_of_users(name, _named(added), _named(removed)), *_of_identities(added, removed),
        *_of_revocations(added, removed, database), *_of_certificates(database),
        *_of_sessions(database),
    ]  # fmt: skip
    found.sort(key=lambda one: (not one.grave, not one.cuts))
    return [{"text": one.text, "cuts": one.cuts, "grave": one.grave} for one in found]


def bound(line: str) -> tuple[str, str]:
    """The first user of a `bind` line, and by what: "subject CN=alice"."""
    kind, _, rest = line.removeprefix("bind ").partition(" ")
    value, _, rest = _token(rest)
    return _token(rest)[0], f"{kind} {value}"


# ---- Users ----


def _named(lines: Sequence[str]) -> dict[str, str]:
    """The rules of the users that these lines have, by name."""
    rules = dict[str, str]()
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "user":
            name, _, rule = _token(rest)
            if not name.startswith(RESERVED):
                rules[name] = rule.removeprefix("on ")
    return rules


def _token(text: str) -> tuple[str, str, str]:
    """The first word of a canonical line, without its quotes, and the rest."""
    if not text.startswith('"'):
        word, blank, rest = text.partition(" ")
        return word, blank, rest
    end = 1
    while end < len(text) and text[end] != '"':
        end += 2 if text[end] == "\\" else 1
    return text[1:end], " ", text[end + 2 :]


def _of_users(name: str, come: dict[str, str], go: dict[str, str]) -> Iterator[Effect]:
    lose, get = sorted(go.keys() - come), sorted(come.keys() - go)
    other = sorted(one for one in come.keys() & go.keys() if come[one] != go[one])
    if lose:
        text = f"{_people(lose, 'loses', 'lose')} {name}"
        yield Effect(text, cuts=True, grave=len(lose) > MANY)
    if get:
        rules = {come[one] for one in get}
        how = f" with {_short(rules.pop())}" if len(rules) == 1 else ""
        yield Effect(f"{_people(get, 'gets', 'get')} {name}{how}")
    if other:
        both = {(go[one], come[one]) for one in other}
        was, will = both.pop() if len(both) == 1 else ("", "")
        how = f": {_short(was)} becomes {_short(will)}" if was else ""
        yield Effect(f"{_people(other, 'has', 'have')} other rights on {name}{how}")


def _people(names: Sequence[str], one: str, several: str) -> str:
    if len(names) == 1:
        return f"{names[0]} {one}"
    return (
        f"{len(names):,} users {several}" if len(names) > NAMED else f"{_listed(names)} {several}"
    )


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:NAMED])
    if len(names) > NAMED:
        return f"{', '.join(shown)} and {len(names) - NAMED:,} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def _short(text: str, length: int = 120) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _of_identities(added: Sequence[str], removed: Sequence[str]) -> Iterator[Effect]:
    """Of users and patterns: how they are known."""
    for lines, word in ((removed, "no longer"), (added, "now")):
        found = [bound(one) for one in lines if one.startswith("bind ")]
        found = [(who, by) for who, by in found if not who.startswith(RESERVED)]
        for who, by in found[:NAMED]:
            yield Effect(f"{who} is {word} known by {_short(by)}")
        if len(found) > NAMED:
            verb = "go" if word == "no longer" else "come"
            yield Effect(f"{len(found) - NAMED:,} more identities of users {verb}")
    for lines, verb in ((removed, "goes"), (added, "comes")):
        for one in [one for one in lines if one.startswith("pattern ")][:NAMED]:
            yield Effect(f"The pattern {verb}: {_short(one.removeprefix('pattern '))}",
                         cuts=verb == "goes")  # fmt: skip


# ---- Trust ----


def _of_new(name: str, added: Sequence[str]) -> Iterator[Effect]:
    """Of a database that comes: whom it trusts is the cluster's, or what its form says."""
    yield Effect(f"{name} is looked after: enforcement {_settings(added)['enforce']}")
    for der, kind in _authorities(added).items():
        if kind != "anchor":
            yield Effect(f"Clients from {described(der, kind)} count there")


def _of_trust(name: str, added: Sequence[str], removed: Sequence[str]) -> Iterator[Effect]:
    come, go = _authorities(added), _authorities(removed)
    for der, kind in go.items():
        if der not in come:
            what = "trusted for clients" if kind == "ca" else "known as an anchor"
            text = f"{described(der, kind)} is no longer {what} on {name}"
            yield Effect(text, cuts=kind != "anchor")
    for der, kind in come.items():
        was = go.get(der)
        if kind == "anchor":
            if was is None:
                yield Effect(f"{described(der, kind)} is known as an anchor on {name}")
            else:
                text = f"{described(der, kind)} only stands above others on {name} from now on"
                yield Effect(text, cuts=True)
        elif kind == "pin":
            yield Effect(f"{described(der, kind)} is trusted by itself on {name}", grave=True)
        else:
            text = f"Every certificate from {described(der, kind)} is trusted on {name}"
            yield Effect(text, grave=True)


def _authorities(lines: Sequence[str]) -> dict[str, str]:
    """Base64 of the DER → ca, anchor or pin."""
    found = (line.split(" ") for line in lines)
    return {words[1]: words[0] for words in found if words[0] in ("ca", "anchor", "pin")}


def described(der: str, kind: str = "ca") -> str:
    """A certificate of a policy line as one can compare it with what another person reads out."""
    noun = "the certificate" if kind == "pin" else "the CA"
    try:
        one = core.identity(base64.b64decode(der))
    except (core.CoreError, ValueError):
        return f"{noun} {der[:32]}…"
    issuer = "signed by itself" if one.issuer == one.subject else f"issued by '{one.issuer}'"
    until = datetime.fromtimestamp(min(one.not_after, 253_402_300_799), UTC).strftime("%Y-%m-%d")
    return f"{noun} '{one.subject or '(no subject)'}' ({issuer}, until {until}, SHA-256 {one.cert})"


# ---- Revocations ----


def _of_revocations(
    added: Sequence[str], removed: Sequence[str], database: Mapping[str, Any]
) -> Iterator[Effect]:
    for lines, verb in ((added, "revoked"), (removed, "no longer revoked")):
        found = [one for one in lines if one.startswith("revoke ")]
        for one in found[:NAMED]:
            yield Effect(f"{_revoked(one, database)} is {verb}", cuts=verb == "revoked")
        if len(found) > NAMED:
            text = f"{len(found) - NAMED:,} more certificates are {verb}"
            yield Effect(text, cuts=verb == "revoked", grave=verb == "revoked")


def _revoked(line: str, database: Mapping[str, Any]) -> str:
    """By the name of the certificate, where a known one is meant."""
    _, kind, *rest = line.split(" ")
    for one in database["certificates"]:
        if one.get(kind) == rest[-1]:
            users = one["before"]["users"] or one["after"]["users"]
            whose = f" of {_listed(users)}" if users else ""
            return f"The certificate '{one['subject'] or one['cert']}'{whose}"
    names = {"serial": "The certificate with the serial number", "cert": "The certificate",
             "key": "The key"}  # fmt: skip
    return f"{names[kind]} {rest[-1]}"


# ---- The rest ----


def _of_settings(name: str, added: Sequence[str], removed: Sequence[str]) -> Iterator[Effect]:
    come, go = _settings(added), _settings(removed)
    for key in sorted(come.keys() | go.keys()):
        was, will = go.get(key, "not set"), come.get(key, "not set")
        if was != will:
            # Certificates that count no more let everybody in whom a password does.
            opens = key == "enforce" and will in ("off", "not set") and was == "on"
            text = f"{SETTINGS.get(key, key)} on {name}: {was} becomes {will}"
            yield Effect(text, cuts=key == "enforce" and will == "on", grave=opens)


def _settings(lines: Sequence[str]) -> dict[str, str]:
    words = (line.split(" ", 2) for line in lines if line.startswith("set "))
    return {name: value for _, name, value in words}


def _of_certificates(database: Mapping[str, Any]) -> Iterator[Effect]:
    found = database["certificates"]
    lost = [one for one in found if one["before"]["users"] and not one["after"]["users"]]
    new = [one for one in found if not one["before"]["users"] and one["after"]["users"]]
    rest = database["certificates_changed"] - len(lost) - len(new)
    for some, one, several, cuts in (
        (len(lost), "logs nobody in any more", "log nobody in any more", True),
        (len(new), "logs somebody in from now on", "log somebody in from now on", False),
        (rest, "becomes somebody else", "become somebody else", False),
    ):
        if some:
            noun = f"1 known certificate {one}" if some == 1 else ""
            yield Effect(noun or f"{some:,} known certificates {several}", cuts)


def _of_sessions(database: Mapping[str, Any]) -> Iterator[Effect]:
    count = sum(node["ends"] for node in database["nodes"])
    if not count:
        return
    ending = [one for node in database["nodes"] for one in node["ending"]]
    shown = [f"{one['user'] or 'nobody'} from {one['address']}" for one in ending]
    noun = "1 session ends" if count == 1 else f"{count:,} sessions end"
    more = f" and {count - NAMED:,} more" if count > NAMED else ""
    text = f"{noun} on {database['bdb_name']}: {', '.join(shown[:NAMED])}{more}"
    yield Effect(text, cuts=True, grave=count > MANY)
