"""What one server does not take of a policy costs whom it is about, there, and nobody else. Pure.

A `user` line that a server refuses becomes one that is off; where the server refuses that as well,
as it has a user of its own by that name, the user's certificates are bound to nobody there. So are
those that fit a `pattern` line that a server refuses. A server that knows no `lock` line, having a
module of protocol 1, holds out by other lines whom the lock may concern: where these cannot tell
who that is, everybody but its peers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from control.policy import taking
from control.policy.lines import digest_of
from control.reports import Refused

LISTED = 32  # problems that a server names in one answer (module/core/policy.c)
PROBLEM = re.compile(
    r"; (?:(?:line (?P<number>\d+)|the policy's line '(?P<begin>.*?)(?P<cut>\.\.\.)?'): |"
    r"(?=the server has the user '(?P<own>.*?)' already, whose name))(?P<why>.*?)"
    r"(?=; line \d+: |; the policy's line '|; the server has the user '|$)"
)
LOCK = "lock "
Signs = dict[str, int]  # line → how much more often it is there than somewhere else: -1, 0 or 1


def signs(changes: Iterable[str]) -> Signs:
    """Of `+line`s and `-line`s."""
    return {line[1:]: 1 if line[0] == "+" else -1 for line in changes}


def plus(*parts: Mapping[str, int]) -> Signs:
    """One after the other."""
    found: Signs = {}
    for part in parts:
        for line, sign in part.items():
            found[line] = found.get(line, 0) + sign
    return {line: sign for line, sign in found.items() if sign}


def minus(part: Mapping[str, int]) -> Signs:
    """What takes these changes back."""
    return {line: -sign for line, sign in part.items()}


def changes(part: Mapping[str, int]) -> tuple[str, ...]:
    """As `+line`s and `-line`s."""
    return tuple(f"{'+' if sign > 0 else '-'}{line}" for line, sign in part.items())


def deviation(refused: Iterable[Refused]) -> Signs:
    """How what a server holds differs from the policy, for what it refuses. One line may stand for
    several."""
    refused = tuple(refused)
    come = {one.instead: 1 for one in refused if one.instead}
    return plus({one.line: -1 for one in refused}, come)


def still(refused: Iterable[Refused], change: Mapping[str, int]) -> tuple[Refused, ...]:
    """What goes on being refused after a change: a user whose line changes is tried again."""
    refused = tuple(refused)
    if any(one.line.startswith(LOCK) and change.get(one.line) == -1 for one in refused):
        return ()  # what went with it comes back, and the server says again what it refuses
    tried = {one.user for one in refused if one.why and change.get(one.line) == -1}
    return tuple(
        one for one in refused
        if not (one.user and one.user in tried) and change.get(one.line) != -1
    )  # fmt: skip


def unbound(refused: Iterable[Refused], lines: Iterable[str]) -> tuple[Refused, ...]:
    """With the bindings, among these lines, of users that the server has by itself, and with whom a
    lock concerns that it refuses."""
    refused = tuple(refused)
    taken = {one.user for one in refused if one.why and one.user and not one.instead}
    known = {one.line for one in refused}
    locks = [one.line for one in refused if one.line.startswith(LOCK)]
    if locks:
        lines = tuple(lines)
        refused += tuple(filter(None, (_out(one, locks) for one in lines if one not in known)))
        known = {one.line for one in refused}
    found = (line for line in lines if line.startswith(("bind ", "pattern ")) and line not in known)
    return refused + tuple(
        Refused(line, taking.unbound(line, taken), "", taking.user_of(line))
        for line in found if taken and not taken.isdisjoint(taking.users_of(line))
    )  # fmt: skip


def _out(line: str, locks: Iterable[str]) -> Refused | None:
    """What becomes of a line that lets in whom one of these locks may concern; None of others."""
    word, users = line.partition(" ")[0], taking.users_of(line)
    if word not in ("user", "bind", "pattern") or any(map(taking.is_peer, users)):
        return None
    by = [taking.subject_of(lock) for lock in locks]
    if (
        word == "bind" and taking.subject_of(line) in by
    ):  # in its place there is what stands for the lock
        return Refused(line, "", "", "")
    made = taking.word_made(line) if word == "pattern" else ""
    named = {name for way, name in by if way == "user"}
    concerned = named.intersection(users) or any(made and one.startswith(made) for one in named)
    unknown = word != "user" and any(way in ("ca", "network") for way, _ in by)
    user = users[0] if word == "user" else ""
    return Refused(line, instead(line), "", user) if concerned or unknown else None


def blamed(
    text: str, sent: Iterable[str], refused: Iterable[Refused], policy: Iterable[str]
) -> tuple[Refused, ...] | None:
    """What is refused from now on, after an error LINES with this text in answer to these lines,
    with a sign or without. `policy` is the whole one. None where that cannot be known, or is
    nothing new."""
    sent = tuple(sent)
    found = {one.line: one for one in refused}
    before = dict(found)
    for problem in PROBLEM.finditer(text):
        if problem["own"]:
            for one in _making(problem["own"], policy):
                _blame(found, one, problem["why"])
            continue
        line = _line(problem, sent, policy)
        if line is None:
            return None
        for one in (line, *(_alike(line, problem["why"], sent) if _is_cut(text) else ())):
            _blame(found, one, problem["why"])
    return None if found == before else unbound(found.values(), policy)


def _is_cut(text: str) -> bool:
    count = text.partition(" ")[0]
    return count.isdecimal() and int(count) > LISTED


def _line(problem: "re.Match[str]", sent: tuple[str, ...], policy: Iterable[str]) -> str | None:
    """Which line of ours a problem is about. A server that lacks one that should go is not where
    we think it is."""
    if problem["number"]:
        at = int(problem["number"]) - 1
        line = sent[at] if at < len(sent) else "-"
        return None if line.startswith("-") else line.removeprefix("+")
    begin, cut = problem["begin"], problem["cut"]
    held = [one for one in policy if (one.startswith(begin) if cut else one == begin)]
    return held[0] if len(held) == 1 else None


def _making(user: str, policy: Iterable[str]) -> list[str]:
    """The patterns that would make a user whom the server has by itself, or others of its word."""
    lines = (line for line in policy if line.startswith("pattern "))
    return [line for line in lines if user.startswith(taking.word_made(line) or "\0")]


def _alike(line: str, why: str, sent: Iterable[str]) -> list[str]:
    """Other users with the very rules, where it is about one of these: the server names a few."""
    user = taking.user_of(line)
    head = f"user {user} "
    rules = line.removeprefix(head)
    if not line.startswith(head) or not any(f"'{rule}'" in why for rule in rules.split(" ")):
        return []
    found = (one.removeprefix("+") for one in sent if one.endswith(f" {rules}"))
    return [one for one in found if one == f"user {taking.user_of(one)} {rules}"]


def _blame(found: dict[str, Refused], line: str, why: str) -> None:
    replaced = [one for one in found.values() if one.instead == line]
    if replaced:  # nor does it take that
        found[replaced[0].line] = replace(replaced[0], instead="", why=why)
    elif line.startswith("user "):
        off, user = taking.off(line), taking.user_of(line)
        found[line] = Refused(line, "" if off == line else off, why, user)
    elif line.startswith(("pattern ", LOCK)):
        found[line] = Refused(line, instead(line), why, "")
    else:
        found[line] = Refused(line, "", why, "")


def instead(line: str) -> str:
    """What may stand for a line that a server refuses; "" for most."""
    word = line.partition(" ")[0]
    if word == "user":
        return taking.off(line)
    if word == "lock":
        way, value = taking.subject_of(line)
        return "" if way in ("user", "ca", "network") else f"bind {way} {value} {taking.NOBODY}"
    return taking.unbound(line, taking.users_of(line)) if word in ("bind", "pattern") else ""


NAMED = 5  # in a sentence
WORD = "REFUSED"  # with which it begins


def said(refused: Iterable[Refused]) -> str:
    """For a person: whom it is about, and what the server says of the line; "" for nothing."""
    found = [_said(one) for one in refused if one.why]
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{WORD} {'; '.join(found[:NAMED])}{more}" if found else ""


def told(line: str) -> str:
    """As much of a line as a sentence takes."""
    return f"'{line[:80]}'"


def _said(one: Refused) -> str:
    if one.line.startswith(LOCK):
        return f"{told(one.line)} is kept by leaving out whom it may concern: {one.why}"
    what = f"user {one.user} is off here" if one.user else f"{told(one.line)} does not hold here"
    return f"{what}: {one.why}"


def digest(before: str, change: Mapping[str, int]) -> str:
    """The digest of a policy after a change, from the one before it."""
    added = [line for line, sign in change.items() if sign > 0]
    return digest_of(before, added, [line for line, sign in change.items() if sign < 0])
