"""What a change does, in people's words: who loses or gets a database, which sessions end, which
CAs come and go. Made from the lines of a preview, so that what one reads is what would be done.

An effect `cuts` where somebody or something is cut off by it, and is `grave` where it concerns
many, or whom to trust at all: that takes more than a click to agree to."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from control.policy import core, taking
from control.policy.taking import RESERVED

MANY = 10  # users or sessions that one may cut off without a second thought
NAMED = 5  # that a text names; it counts the rest
OFF = "off"  # the rule of a user who is switched off
TOLD = ("user ", "bind ", "pattern ", "ca ", "anchor ", "pin ", "revoke ", "set ")
GONE = {"ca": "trusted for clients", "anchor": "known as an anchor", "pin": "trusted by itself"}
SETTINGS = {
    "enforce": "Enforcement", "gate": "The list of subjects", "unmatched": "Unknown certificates",
    "password-auth": "Passwords beside certificates", "tls-client-auth": "A client's certificate",
    "internal-trust": "Trust between nodes", "max-lifetime": "Longest life of a certificate",
    "require-eku": "Required key usages", "require-policy": "Required certificate policies",
    "min-key-bits": "Smallest key", "min-tls": "Oldest TLS version", "plain": "Without certificate",
    "several-names": "Several names of a kind",
}  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One consequence of a change, for a person. See above for `cuts` and `grave`."""

    text: str
    cuts: bool = False
    grave: bool = False


def effects(database: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of one database of a preview's answer (preview.told), the gravest first. All its lines and
    certificates have to be there, not only those that an answer shows."""
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
        *_of_patterns(added, removed), *_of_others(name, added, removed),
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
                rules[name] = _rule(rule)
    return rules


def _rule(text: str) -> str:
    """What a user may do, and whether one that the server has by itself is meant as well."""
    rule = text.removeprefix("adopt ")
    known = rule not in (text, OFF)
    return rule.removeprefix("on ") + (" (also where the server has this user)" if known else "")


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
    """A user who is off has nothing that could be lost."""
    now = {one: rule for one, rule in come.items() if rule != OFF}
    then = {one: rule for one, rule in go.items() if rule != OFF}
    lose, get = sorted(then.keys() - now), sorted(now.keys() - then)
    other = sorted(one for one in now.keys() & then.keys() if now[one] != then[one])
    if lose:
        text = f"{_people(lose, 'loses', 'lose')} {name}"
        yield Effect(text, cuts=True, grave=len(lose) > MANY)
    if get:
        rules = {now[one] for one in get}
        how = f" with {_short(rules.pop())}" if len(rules) == 1 else ""
        yield Effect(f"{_people(get, 'gets', 'get')} {name}{how}")
    if other:
        both = {(then[one], now[one]) for one in other}
        was, will = both.pop() if len(both) == 1 else ("", "")
        how = f": {_short(was)} becomes {_short(will)}" if was else ""
        yield Effect(f"{_people(other, 'has', 'have')} other rights on {name}{how}")
    if off := sorted(come.keys() - now.keys() - go.keys()):
        yield Effect(f"{_people(off, 'is', 'are')} off on {name} from now on")
    if back := sorted(go.keys() - then.keys() - come.keys()):
        text = f"{_people(back, 'is', 'are')} no longer off on {name}: what the server says counts"
        yield Effect(text)


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
    """Of users: how they are known, each of those who share an identity."""
    come, go = _identities(added), _identities(removed)
    for pairs, word in ((go - come, "no longer"), (come - go, "now")):
        found, cuts = sorted(pairs), word == "no longer"
        for who, by in found[:NAMED]:
            yield Effect(f"{who} is {word} known by {_short(by)}", cuts)
        if len(found) > NAMED:
            verb = "go" if cuts else "come"
            yield Effect(f"{len(found) - NAMED:,} more identities of users {verb}", cuts)


def _identities(lines: Sequence[str]) -> set[tuple[str, str]]:
    """Each user and an identity of its own, with what it demands: ("alice", "subject CN=alice")."""
    found = set[tuple[str, str]]()
    for line in lines:
        if line.startswith("bind "):
            options = taking.options_of(line)
            by = bound(line)[1] + (f" ({' '.join(options)})" if options else "")
            names = (_token(one)[0] for one in taking.users_of(line))
            found |= {(name, by) for name in names if not name.startswith(RESERVED)}
    return found


def _of_patterns(added: Sequence[str], removed: Sequence[str]) -> Iterator[Effect]:
    for lines, verb in ((removed, "goes"), (added, "comes")):
        found, cuts = [one for one in lines if one.startswith("pattern ")], verb == "goes"
        for one in found[:NAMED]:
            yield Effect(f"The pattern {verb}: {_short(one.removeprefix('pattern '))}", cuts)
        if len(found) > NAMED:
            yield Effect(f"{len(found) - NAMED:,} more patterns {verb.removesuffix('es')}", cuts)


def _of_others(name: str, added: Sequence[str], removed: Sequence[str]) -> Iterator[Effect]:
    """Of lines that have no sentence of their own, such as those of the list of subjects."""
    for lines, verb in ((removed, "goes"), (added, "comes")):
        found = [one for one in lines if not one.startswith(TOLD)]
        cuts = any(one.startswith("allow ") == (verb == "goes") for one in found)
        for one in found[:NAMED]:
            yield Effect(f"On {name} {verb}: {_short(one)}", cuts)
        if len(found) > NAMED:
            text = f"On {name} {verb.removesuffix('es')} {len(found) - NAMED:,} more such lines"
            yield Effect(text, cuts, grave=cuts and len(found) > MANY)


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
            what = GONE[kind]
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
