"""What of a change goes first: what takes rights away, in a change of its own, so that nothing that
gives rights can hold it up. Pure.

Lines about the same thing stay together, whole in one of the two parts: between them nobody is cut
off who has the same rights after them as before.
"""

import base64
import re
from collections.abc import Container, Iterable
from difflib import SequenceMatcher
from functools import lru_cache

from control.policy import core

RESERVED = "certauth"  # users of the module, of bootstrap files and of the topologies
NOBODY = f"{RESERVED}-nobody"  # a user that no server has: a certificate bound to it is refused
# Settings by which more is let in than without them, or than by their other value.
LOOSE = frozenset(
    {
        "set enforce off", "set enforce shadow", "set unmatched leave", "set plain leave",
        "set password-auth allow", "set tls-client-auth optional", "set internal-trust allow",
        "set several-names same",
    }
)  # fmt: skip
# Settings that each demand something of certificates, see docs/policy.md.
DEMANDS = frozenset({"max-lifetime", "require-eku", "require-policy", "min-key-bits", "min-tls"})
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OPTIONS = ("ca=", "from=", "session=")  # of `bind` and `pattern` lines, behind the users
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\S+')
PLACEHOLDER = re.compile(r"\{([a-z0-9_]{1,32})\}")  # as in module/core/pattern.c
Lines = list[str]


def parts(changes: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A change, as `+line`s and `-line`s, in two: what takes rights away, and the rest, which is
    made after it. Either may be empty; each leads to a policy that a server can hold."""
    groups: dict[tuple[str, ...], tuple[Lines, Lines]] = {}
    for change in changes:
        added, removed = groups.setdefault(about(change[1:]), ([], []))
        (added if change[0] == "+" else removed).append(change[1:])
    first: Lines = []
    rest: Lines = []
    for (word, *_), (added, removed) in groups.items():
        for takes, lines in _divided(word, added, removed):
            (first if takes else rest).extend(lines)
    # A user stays as long as a certificate is bound to it.
    leaving = [line[1:] for line in rest if line.startswith(("-bind ", "-pattern "))]
    bound = {user for line in leaving for user in users_of(line)}
    bound -= {user_of(line[1:]) for line in first if line.startswith("+user ")}
    late = [line for line in first if line.startswith("-user ") and user_of(line[1:]) in bound]
    return tuple(line for line in first if line not in late), (*late, *rest)


def user_of(line: str) -> str:
    """The user that a line is for or names, the first of several, as the line spells it; "" of
    others. See `users_of`."""
    return next(iter(users_of(line)), "")


def users_of(line: str) -> tuple[str, ...]:
    """The users of a `user` or `bind` line, or of a `pattern` line that names one, as the line
    spells them; none of others."""
    word = line.partition(" ")[0]
    if word == "user":
        return (_tokens(line, 2)[1],)
    if word == "pattern":
        user = _tokens(line, 4)[3]
        return () if PLACEHOLDER.search(user) else (user,)
    return tuple(_bound(line)[0]) if word == "bind" else ()


def options_of(line: str) -> list[str]:
    """The options of a `bind` line, such as "from=10.0.0.0/8"."""
    return _bound(line)[1]


def _bound(line: str) -> tuple[list[str], list[str]]:
    """The users and the options of a `bind` line."""
    words = [one[0] for one in TOKEN.finditer(line)][3:]
    options = [word for word in words[1:] if word.startswith(OPTIONS)]
    return words[: len(words) - len(options)], options


def _pattern(line: str) -> tuple[list[str], list[str]]:
    """The options and the rules, from `on`, of a `pattern` line."""
    words = [one[0] for one in TOKEN.finditer(line)][4:]
    options = [word for word in words if word.startswith(OPTIONS)]
    return options, words[len(options) :]


def subject_of(line: str) -> tuple[str, str]:
    """The two words behind the first, such as kind and value of a `bind` line."""
    _, first, second = _tokens(line, 3)
    return first, second


def is_peer(user: str) -> bool:
    """Whether this is what nodes are to each other."""
    return user.startswith(f"{RESERVED}-peer-")


def word_made(line: str) -> str:
    """How the names of the users that a `pattern` line makes begin, with the colon; "" where it
    names a user."""
    user = _tokens(line, 4)[3]
    word, colon, _ = user.partition(":")
    return word + colon if PLACEHOLDER.search(user) else ""


def pattern_rules(line: str) -> list[str]:
    """The rules of a `pattern` line, from `on`; none where it names a user."""
    return _pattern(line)[1]


def made_rules(line: str, user: str) -> str:
    """The rules of a user that a `pattern` line makes, from `on`, filled in with what its name
    holds; "" where the line does not make it. A value holds no colon, so a name is read in one
    way."""
    template = _tokens(line, 4)[3]
    parts = PLACEHOLDER.split(template)  # literal, name, literal, …
    if len(parts) == 1:
        return ""
    names, literals = parts[1::2], map(re.escape, parts[::2])
    found = re.fullmatch("([^:]+)".join(literals), user)
    if not found:
        return ""
    values = dict(zip(names, found.groups(), strict=True))
    return PLACEHOLDER.sub(lambda one: values.get(one[1], one[0]), " ".join(pattern_rules(line)))


def off(line: str) -> str:
    """A `user` line for the same user, who has no rights and is switched off."""
    tokens = _tokens(line, 3)
    return " ".join([*tokens[:2], *[one for one in tokens[2:3] if one == "adopt"], "off"])


def unbound(line: str, names: Container[str]) -> str:
    """A `bind` line without these users; where none is left, and of a `pattern` line, one by which
    the same certificates are refused, whatever happens to strangers."""
    word, kind, what = _tokens(line, 3)
    if word == "pattern":
        return " ".join([word, kind, what, NOBODY, *_pattern(line)[0]])
    users, options = _bound(line)
    left = [user for user in users if user not in names] or [NOBODY]
    return " ".join(["bind", kind, what, *left, *options])


def _tokens(line: str, count: int) -> list[str]:
    """The first ones of a canonical line; a quoted one, with the blanks in it, is one."""
    if '"' not in line:
        return line.split(" ", count)[:count]
    found = TOKEN.finditer(line)
    return [one[0] for one, _ in zip(found, range(count), strict=False)]


def about(line: str) -> tuple[str, ...]:
    """What a line is about: its kind, and the thing that two lines cannot say something about."""
    word = line.partition(" ")[0]
    if word == "user":
        return word, user_of(line)
    if word == "bind":
        return word, *_tokens(line, 3)[1:]
    if word == "pattern":  # those that make users of one word have the same user, and its rules
        return word, _tokens(line, 4)[3]
    if word == "allow" or line.startswith("set gate "):
        return ("gate",)
    if word == "set" and (name := line.split(" ")[1]) in DEMANDS:
        return "demand", name
    if word == "set":  # all others: enforcement that comes with `unmatched leave` cuts nobody off
        return ("set",)
    if word in ("ca", "anchor"):
        return "ca", _key(line)
    return word, line


def _key(line: str) -> str:
    """Of a CA: a renewed one, with the same key, takes the place of the one before it."""
    text = line.partition(" ")[2]
    try:
        return core.identity(base64.b64decode(text)).key
    except core.CoreError:
        return text


def _divided(word: str, added: Lines, removed: Lines) -> list[tuple[bool, Lines]]:
    """The changes of lines about one thing, and whether they take: mostly all in one."""
    plus, minus = [f"+{line}" for line in added], [f"-{line}" for line in removed]
    if word == "pattern":
        return _divided_patterns(added, removed)
    if word == "bind" and added and removed:
        return _divided_bindings(added, removed)
    return [(_takes(word, added, removed), minus + plus)]


def _divided_bindings(added: Lines, removed: Lines) -> list[tuple[bool, Lines]]:
    """Of bindings of one value: users who go, go first; who comes waits for its `user` line; and
    anyone who stays is never away in between. Nodes' peers, whose names follow from what they are,
    stay peers."""
    plus, minus = [f"+{line}" for line in added], [f"-{line}" for line in removed]
    new = {user for line in added for user in users_of(line)}
    old = {user for line in removed for user in users_of(line)}
    if NOBODY in new:
        return [(True, minus + plus)]
    if all(user.startswith(RESERVED) for user in new | old):
        return [(False, minus + plus)]
    if not new & old:
        return [(True, minus), (False, plus)]
    if new <= old:
        return [(True, minus + plus)]
    if old - new and len(added) == len(removed) == 1:
        between = unbound(added[0], new - old)
        return [(True, [*minus, f"+{between}"]), (False, [f"-{between}", *plus])]
    return [(False, minus + plus)]


def _divided_patterns(added: Lines, removed: Lines) -> list[tuple[bool, Lines]]:
    """Of patterns of one user: those that go, and the others, which change or come, in one: what
    makes users of one name has one set of rules at each time."""
    if any(user_of(line) == NOBODY for line in (*added, *removed)):
        # Strangers may be let in: a certificate is nobody's before it is one.
        return [(True, [f"+{line}" for line in added]), (False, [f"-{line}" for line in removed])]
    new, old = _by_template(added), _by_template(removed)
    gone = [f"-{line}" for line in removed if _template(line) not in new]
    rest = [f"-{line}" for line in removed if _template(line) in new]
    takes = all(_pattern_narrows(old.get(what, []), lines) for what, lines in new.items())
    return [(True, gone), (takes, [*rest, *(f"+{line}" for line in added)])]


def _template(line: str) -> tuple[str, ...]:
    return tuple(_tokens(line, 3)[1:])


def _by_template(lines: Lines) -> dict[tuple[str, ...], Lines]:
    found: dict[tuple[str, ...], Lines] = {}
    for line in sorted(lines):
        found.setdefault(_template(line), []).append(line)
    return found


def _pattern_narrows(before: Lines, after: Lines) -> bool:
    """Whether `pattern` lines of one template only lose rights, or let in from elsewhere or for
    another time."""
    if len(before) != len(after):
        return False
    pairs = [(_pattern(old), _pattern(new)) for old, new in zip(before, after, strict=True)]
    return all(rules == new or _shrinks(rules, new) for (_, rules), (_, new) in pairs)


def _takes(word: str, added: Lines, removed: Lines) -> bool:
    if word in ("revoke", "lock"):
        return bool(added)
    if word == "set":
        return bool(set(added) - LOOSE or LOOSE.intersection(removed))
    if word == "demand":
        return bool(added) and not (removed and _demands_less(removed[0], added[0]))
    if word == "gate":  # no server has a reason to refuse these
        return bool(removed) and "set gate disabled" not in added
    if word == "user" and added and removed:
        head = f"user {user_of(added[0])} "
        return _user_shrinks(removed[0].removeprefix(head), added[0].removeprefix(head))
    if word == "user":
        return all(map(_is_off, added)) if added else not all(map(_is_off, removed))
    if word == "bind" and added:
        return user_of(added[0]) == NOBODY
    if word == "ca" and added:
        held = {line.partition(" ")[2] for line in removed}
        return all(line.startswith("anchor ") and line[7:] in held for line in added)
    return not added


def _demands_less(before: str, after: str) -> bool:
    """Whether all that meets one demand meets another one of the same name."""
    (_, name, old), (_, _, new) = before.split(" "), after.split(" ")
    if name == "max-lifetime":
        return _seconds(new) >= _seconds(old)
    if name in ("require-eku", "require-policy"):
        return set(new.split(",")) <= set(old.split(","))
    return float(new) <= float(old)


def _seconds(time: str) -> int:
    return int(time[:-1]) * UNITS[time[-1]]


def _is_off(line: str) -> bool:
    return line.endswith(" off")


@lru_cache(1_000)  # of many users, the same rules become the same
def _user_shrinks(before: str, after: str) -> bool:
    return _shrinks(before.split(" "), after.split(" "))


def _shrinks(before: Lines, after: Lines) -> bool:
    """Whether of a user's rules only some that give are gone, and only some that take have come.
    `(` begins a selector, of which any one that is left may still allow something."""
    for what, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, come = before[i:j], after[k:m]
        if what == "equal":
            continue
        if "on" in gone and come == ["off"]:
            continue
        if not all(one.startswith(("+", "~", "%", "&")) for one in gone):
            return False
        if not all(one.startswith("-") for one in come):
            return False
    return True
