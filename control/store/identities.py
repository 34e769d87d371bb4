"""Which users have which identities. Each function works within the transaction of its
connection."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import sqlalchemy as sa

from control.errors import conflict
from control.policy import bindings
from control.records import Binding, User
from control.store.rows import read_records
from control.store.schema import users
from control.store.statements import GRANTS_OF_USER, USERS_WITH_IDENTITY, select_among


def users_with(
    connection: sa.Connection, digests: Sequence[str], kinds: Sequence[str] = ()
) -> tuple[User, ...]:
    """The users who have an identity with one of these digests, or of one of these kinds."""
    wanted = {"digests": list(digests), "kinds": list(kinds)}
    uids = list(connection.scalars(USERS_WITH_IDENTITY, wanted))
    return read_records(connection, User, select_among(users, "uid"), uid=uids) if uids else ()


def users_alike(connection: sa.Connection, user: User) -> tuple[User, ...]:
    """Other users who have an identity of this user."""
    digests = [bindings.digest(one.kind, one.value) for one in user.identities]
    found = users_with(connection, digests) if digests else ()
    return tuple(other for other in found if other.uid != user.uid)


def sharing_on(connection: sa.Connection, bdb_uid: int, user: User) -> tuple[User, ...]:
    """Who shares an identity with a user, of those with rights on a database."""
    if not any(one.shared for one in user.identities):
        return ()
    return tuple(
        other for other in users_alike(connection, user) if _has_rights(connection, bdb_uid, other)
    )


def _has_rights(connection: sa.Connection, bdb_uid: int, user: User) -> bool:
    rows = connection.execute(GRANTS_OF_USER, {"of": user.uid})
    return any(row.bdb_uid == bdb_uid for row in rows)


def check_identities(connection: sa.Connection, user: User) -> None:
    """One certificate is one user, unless each of its users says otherwise. Raises Refusal 409."""
    for other in users_alike(connection, user):
        for mine, theirs in product(user.identities, other.identities):
            if bindings.overlap(mine, theirs):
                _check_shared(mine, theirs, other)


def _check_shared(mine: Binding, theirs: Binding, other: User) -> None:
    what = f"{mine.kind} '{mine.value}'"
    if not (mine.shared and theirs.shared):
        raise conflict(
            "certificate_identity_already_exists",
            f"certificate_identities: user '{other.name}' has the identity {what}: "
            "one certificate is one user, unless "
            'each of its users has "shared": true with it',
        )
    if replace(mine, comment="") != replace(theirs, comment=""):
        raise conflict(
            "certificate_identity_differs",
            f"certificate_identities: user '{other.name}' shares the identity {what} "
            "with another ca, from or session: a "
            "client has these before it chooses, so they have to be the same",
        )
