"""What must hold between patterns, users and ACLs. Each function works within the transaction of
its connection; each check raises Refusal."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from control.errors import conflict, invalid, refused
from control.policy import patterns as policy
from control.policy.core import CoreError
from control.policy.lines import with_channels
from control.policy.taking import PLACEHOLDER
from control.records import Database, Pattern, RedisAcl, User
from control.store.rows import read_records
from control.store.schema import AnyRecord, patterns, users
from control.store.statements import (
    ACLS_OF_PATTERNS,
    GRANTS_OF_PATTERN,
    PATTERNS_OF_USER,
    PATTERNS_ON_BDB,
    PATTERNS_WITH_ACL,
    USER_WITH_ACL,
    select_all,
    select_by,
)

# A pattern that makes users, and the ACLs that these get on a database, each with its name.
Grants = tuple[Pattern, list[tuple[str, str]]]


def group_pattern_grants(rows: Iterable[sa.Row[Any]]) -> dict[tuple[int, int], Grants]:
    """Rows of PATTERN_GRANTS, by the uids of database and pattern."""
    found: dict[tuple[int, int], Grants] = {}
    for row in rows:
        fields = dict(row._mapping)
        bdb_uid, acl, name = (fields.pop(one) for one in ("bdb_uid", "acl", "acl_name"))
        acl = with_channels(acl, fields.pop("channels"))
        pattern = Pattern(**fields)
        found.setdefault((bdb_uid, pattern.uid), (pattern, []))[1].append((name, acl))
    return found


def patterns_naming(connection: sa.Connection, user_uid: int) -> tuple[Pattern, ...]:
    """The patterns whose certificates are all this user."""
    rows = connection.execute(PATTERNS_OF_USER, {"of": user_uid})
    found = (Pattern(**row._mapping) for row in rows)
    return tuple(one for one in found if not policy.makes(one))


def check_pattern(connection: sa.Connection, pattern: Pattern) -> None:
    """Whether it fits in with the users and the other patterns."""
    key = sa.and_(*(patterns.c[name] == getattr(pattern, name) for name in UNIQUE))
    for other in _others(connection, pattern, key):
        raise conflict(
            "pattern_already_exists",
            f"pattern '{other.name}' has {pattern.kind} '{pattern.template}' under the same CAs",
        )
    if policy.makes(pattern):
        _check_word(connection, pattern)
        return
    found = read_records(connection, User, select_by(users, "name"), name=pattern.user)
    if not found or found[0].auth_method != "certificate":
        raise invalid(
            "invalid_param",
            f"user: there is no certificate user '{pattern.user}'; a user with a placeholder of "
            "the template, such as device:{id}, is made for each certificate",
        )


UNIQUE = ("kind", "template", "ca")


def _others(
    connection: sa.Connection, pattern: Pattern, where: sa.ColumnElement[bool]
) -> list[Pattern]:
    query = select_all(patterns).where(where, patterns.c.uid != pattern.uid)
    return list(read_records(connection, Pattern, query))


def _check_word(connection: sa.Connection, pattern: Pattern) -> None:
    word = policy.word_of(pattern.user)
    named = connection.scalar(
        sa.select(users.c.name)
        .where(_begins(users.c.name, word), users.c.auth_method == "certificate")
        .limit(1)
    )
    if named is not None:
        raise _belongs(pattern, word, named)
    for other in _others(connection, pattern, _begins(patterns.c.user, word)):
        same = (other.user, set(other.role_uids)) == (pattern.user, set(pattern.role_uids))
        if policy.makes(other) and not same:
            raise conflict(
                "pattern_users_collide",
                f"pattern '{other.name}' makes users '{other.user}' as well: patterns of one word "
                f"('{word}') have the same user and the same role_uids",
            )


def _begins(column: "sa.Column[Any]", word: str) -> sa.ColumnElement[bool]:
    return sa.func.substr(column, 1, len(word) + 1) == f"{word}:"


def _belongs(pattern: Pattern, word: str, user: str) -> Exception:
    return conflict(
        "name_of_pattern",
        f"names that begin with '{word}:' are those of pattern '{pattern.name}': it cannot be "
        f"beside user '{user}'",
    )


def check_user_and_patterns(connection: sa.Connection, user: User, before: User | None) -> None:
    """Whether a user fits in with the patterns."""
    word = policy.word_of(user.name) if user.auth_method == "certificate" else ""
    if word and (before is None or (before.name, before.auth_method) != (user.name, "certificate")):
        query = select_all(patterns).where(_begins(patterns.c.user, word))
        for pattern in read_records(connection, Pattern, query):
            if policy.makes(pattern):
                raise _belongs(pattern, word, user.name)
    stays = user.auth_method == "certificate" and not PLACEHOLDER.search(user.name)
    if before is not None and not stays:
        check_unnamed(connection, before)


def check_unnamed(connection: sa.Connection, user: User) -> None:
    """Its certificates would silently be nobody's, or those of the next user of that name."""
    if named := patterns_naming(connection, user.uid):
        raise refused(
            "user_in_use",
            f"patterns name this user: {', '.join(one.name for one in named[:5])}; delete them, or "
            "let them name another one, first",
        )


def check_acls(connection: sa.Connection, record: AnyRecord) -> None:
    """Whether all who get an ACL with placeholders are users of patterns that have these, after a
    change of this record."""
    for pattern, acls in _concerned(connection, record):
        try:
            policy.check_acls(pattern, acls)
        except CoreError as error:
            raise refused("pattern_acl_refused", f"pattern '{pattern.name}': {error}") from error
    for row in connection.execute(ACLS_OF_PATTERNS).all():
        found = policy.placeholders(row.acl)
        user = connection.scalar(USER_WITH_ACL, {"with": row.uid}) if found else None
        if user is not None:
            raise refused(
                "acl_has_placeholders",
                f"user '{user}' has ACL '{row.name}', in which pattern '{row.by}' fills in "
                f"{{{found[0]}}}: no user can have it; give one of the two another role or ACL",
            )


def _concerned(connection: sa.Connection, record: AnyRecord) -> list[Grants]:
    if isinstance(record, Database):
        rows = connection.execute(PATTERNS_ON_BDB, {"bdb": record.uid}).all()
        return list(group_pattern_grants(rows).values())
    uids = [record.uid] if isinstance(record, Pattern) else []
    if isinstance(record, RedisAcl):
        uids = [row.uid for row in connection.execute(PATTERNS_WITH_ACL, {"with": record.uid})]
    return [
        granted
        for uid in dict.fromkeys(uids)
        for granted in group_pattern_grants(
            connection.execute(GRANTS_OF_PATTERN, {"of": uid})
        ).values()
    ]
