"""Many new users in one transaction: what costs a statement for each user by itself costs one for
all of them. Works within the transaction of its connection."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from control.errors import Refusal, conflict
from control.policy import bindings
from control.policy import lines as policy
from control.policy import patterns as pattern_policy
from control.policy.taking import RESERVED
from control.records import User
from control.store.checks import UNIQUE_USER_FIELDS, check_record
from control.store.events import note_all
from control.store.lines import refresh_new_users, refresh_user
from control.store.rows import insert_record, take_uid, values_of
from control.store.schema import bulks, identities, roles, user_roles, users
from control.store.statements import TAKE_UID, insert_into

KEPT_BULKS = 1_000
AMONG = 500  # values that a statement asks about at a time

Problems = dict[int, Refusal]  # by the index of the user


class BulkRefused(Exception):
    """Nothing is done: what is wrong with which of the users."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(f"{len(problems)} users")
        self.problems = problems


def insert_users(connection: sa.Connection, made: Sequence[User]) -> tuple[User, ...]:
    """Adds users, and renders their lines; where a uid is 0, one is chosen. Raises BulkRefused."""
    apart = _need_a_look(connection, made)
    plain = [one for index, one in enumerate(made) if index not in apart]
    first = _take_uids(connection, len(plain)) if plain else 0
    plain = [replace(one, uid=first + n) for n, one in enumerate(plain)]
    _insert(connection, plain)
    numbered, done, problems = iter(plain), list[User](), Problems()
    for index, one in enumerate(made):
        if index not in apart:
            done.append(next(numbered))
            continue
        try:
            asked = replace(one, uid=take_uid(connection, one))
            check_record(connection, asked, None)
            insert_record(connection, asked)
            done.append(asked)
        except Refusal as error:
            problems[index] = error
    if problems:
        raise BulkRefused(problems)
    if plain:
        refresh_new_users(connection, plain[0].uid, plain[-1].uid)
    for index in sorted(apart):
        refresh_user(connection, done[index])
    note_all(connection, "user_created", ({"user_uid": one.uid, "user_name": one.name}
                                          for one in done))  # fmt: skip
    return tuple(done)


def _need_a_look(connection: sa.Connection, made: Sequence[User]) -> set[int]:
    """The indexes of users that may collide with another, here or in the store, or are unusual:
    each of those is checked by itself, as if it were the only one."""
    found = {index for index, one in enumerate(made) if _is_unusual(one)}
    known = set(connection.scalars(sa.select(roles.c.uid)))
    found |= {index for index, one in enumerate(made) if not known.issuperset(one.role_uids)}
    for field in UNIQUE_USER_FIELDS:
        found |= _colliding(connection, users.c[field], [[getattr(one, field)] for one in made])
    digests = [[_digest(one) for one in user.identities] for user in made]
    return found | _colliding(connection, identities.c.digest, digests)


def _is_unusual(user: User) -> bool:
    name = user.name
    plain = policy.PLAIN_NAME.fullmatch(name) and not name.lower().startswith(RESERVED)
    shares = any(one.shared for one in user.identities)
    return bool(
        user.uid or shares or not plain or name == "default" or pattern_policy.word_of(name)
    )


def _digest(binding: Any) -> str:
    return bindings.digest(binding.kind, binding.value)


def _colliding(
    connection: sa.Connection, column: "sa.Column[Any]", values: Sequence[Iterable[str]]
) -> set[int]:
    """The indexes at which a value stands that is there more than once, or in this column."""
    count = Counter(value for some in values for value in set(some) if value)
    taken = {value for value, times in count.items() if times > 1}
    wanted = list(count)
    for start in range(0, len(wanted), AMONG):
        query = sa.select(column).where(column.in_(wanted[start : start + AMONG]))
        taken.update(connection.scalars(query))
    return {index for index, some in enumerate(values) if not taken.isdisjoint(some)}


def _take_uids(connection: sa.Connection, count: int) -> int:
    """The first of so many uids, one after the other."""
    first = int(connection.scalar(TAKE_UID, {"name": "user", "uid": 0}) or 0)
    connection.scalar(TAKE_UID, {"name": "user", "uid": first + count - 1})
    return first


def _insert(connection: sa.Connection, made: Sequence[User]) -> None:
    rows = [values_of(users, one) for one in made]
    held = [{"user_uid": one.uid, "role_uid": uid} for one in made for uid in one.role_uids]
    named = [
        {"user_uid": one.uid, "kind": each.kind, "digest": _digest(each)}
        for one in made
        for each in one.identities
    ]
    for table, values in ((users, rows), (user_roles, held), (identities, named)):
        if values:
            connection.execute(insert_into(table), values)


# ---- Once ----


def find_bulk(connection: sa.Connection, key: str, digest: str) -> tuple[int, ...] | None:
    """The uids that a bulk of this key has made; None where there was none. Raises Refusal 409
    where it was another one."""
    row = connection.execute(sa.select(bulks).where(bulks.c.key == key)).first()
    if row is None:
        return None
    if row.digest != digest:
        text = f"key: '{key}' was sent before with other users: take a new key for each bulk"
        raise conflict("key_reused", text)
    uids: tuple[int, ...] = row.uids
    return uids


def write_bulk(connection: sa.Connection, key: str, digest: str, uids: tuple[int, ...]) -> None:
    """Remembers a bulk; the oldest are forgotten."""
    values = {"key": key, "digest": digest, "uids": uids}
    made = connection.execute(insert_into(bulks), values).inserted_primary_key
    if made:
        connection.execute(sa.delete(bulks).where(bulks.c.id <= made[0] - KEPT_BULKS))
