"""Patterns: from records to `pattern` lines. Pure.

The core checks a line and spells it; what a template, a user or an ACL with placeholders may be is
known there alone (module/core/pattern.c).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from control.policy import bindings, core
from control.policy.lines import joined_rules
from control.policy.taking import PLACEHOLDER, RESERVED, TOKEN
from control.records import Pattern

ANY = "-@all"  # rules, while a line is only asked about


def line_of(pattern: Pattern, acls: Sequence[str]) -> str:
    """The line of a pattern whose roles are given `acls`, canonical. Raises core.CoreError."""
    words = ["pattern", pattern.kind, core.quote(pattern.template), core.quote(pattern.user)]
    words += bindings.options_of(pattern)
    words += ["on", joined_rules(acls)] if makes(pattern) else []
    return core.canonical(" ".join(words))


def of_line(line: str, found: Iterable[Pattern]) -> Pattern | None:
    """The pattern that wrote a line; None where that is not one of `found`."""
    words = tuple(bindings.unquoted(one[0]) for one in TOKEN.finditer(line))
    return next((o for o in found if ("pattern", o.kind, o.template, o.user) == words[:4]), None)


def lines(pattern: Pattern, acls: Sequence[str]) -> frozenset[str]:
    """Its lines on a database; none for what an older version has taken and the core refuses: the
    lines of all others must not wait for it."""
    try:
        return frozenset({line_of(pattern, acls)})
    except core.CoreError:
        return frozenset()


def spelled(pattern: Pattern) -> Pattern:
    """The same in its canonical spelling. Raises core.CoreError, in the words of a policy line."""
    if word_of(pattern.user).lower().startswith(RESERVED):
        raise core.CoreError(f"names that start with '{RESERVED}' are reserved for this product")
    tokens = [one[0] for one in TOKEN.finditer(line_of(pattern, [ANY]))]
    _, _, template, user, *rest = map(bindings.unquoted, tokens)
    return bindings.with_options(replace(pattern, template=template, user=user), rest)


def makes(pattern: Pattern) -> bool:
    """Whether each certificate is a user of its own; else all of them are the user that it
    names."""
    return bool(PLACEHOLDER.search(pattern.user))


def word_of(user: str) -> str:
    """The word before the first colon of a user's name, which is one pattern's; "" of none."""
    found = re.match(r"([A-Za-z0-9._~-]+):", user)
    return found[1] if found else ""


def placeholders(acl: str) -> tuple[str, ...]:
    """What a pattern would fill in in an ACL."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(acl)))


def check_acls(pattern: Pattern, acls: Iterable[tuple[str, str]]) -> None:
    """Raises core.CoreError where its users cannot have these ACLs, each with its name."""
    acls = tuple(acls)
    for name, acl in acls:
        try:
            line_of(pattern, [acl])
        except core.CoreError as error:
            raise core.CoreError(f"ACL '{name}': {error}") from None
    line_of(pattern, [acl for _, acl in acls])
