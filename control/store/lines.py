"""From rows to policy lines: what the lines of a database are to be, and its next generation."""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from control.errors import missing
from control.policy import lines as policy
from control.policy import patterns as pattern_policy
from control.policy import taking
from control.records import Database, Pattern, Target, User
from control.store.engine import allow_long_idle
from control.store.identities import sharing_on, users_alike
from control.store.patterns import group_pattern_grants, patterns_naming
from control.store.rows import (
    database_trust,
    find_record,
    read_cluster,
    read_nodes,
    read_records,
)
from control.store.schema import bdbs, locks, policy_lines, policy_log, renderings, users
from control.store.statements import (
    GRANTS_IN_RANGE,
    GRANTS_OF_PATTERN,
    GRANTS_OF_USER,
    GRANTS_ON_BDB,
    LINES_IN_RANGE,
    LINES_OF,
    ONE_OF_EACH_ROLES,
    OWN_LINES,
    PATTERNS_IN_RANGE,
    PATTERNS_ON_BDB,
    POLICY_LINES,
    READ_TARGET,
    UID_AHEAD,
    WRITE_TARGET,
    insert_into,
    select_by,
)
from control.store.transaction import state_of
from control.store.trials import note_rules

# Generations of a policy that are kept: a node further behind gets the whole policy.
POLICY_LOG_GENERATIONS = 10_000
PATTERN_OWNERS = 1 << 32  # with its uid, the owner of a pattern's lines: no user has such a uid
LAST_USER, LAST_OWNER = PATTERN_OWNERS - 1, (1 << 62)
# What the pieces of a database do: first what takes rights away (LEFT: and there is more to do),
# and then the rest: what one piece gives must not hold up what another one takes away.
TAKES, LEFT, GIVES = 0, 1, 2
PIECE_USERS = 1_000  # whose lines a change of all renders itself; of more, the others follow

Lines = dict[tuple[int, str], int]  # (owner, line) → id
# A user, its ACLs on a database, and whether that database adopts existing users of this name.
Granted = tuple[User, list[str], bool]


def read_target(connection: sa.Connection, bdb_uid: int) -> Target:
    """What the nodes of a database are to hold. Raises Refusal 404."""
    row = connection.execute(READ_TARGET, {"bdb": bdb_uid}).first()
    if row is None:
        raise missing(f"bdb {bdb_uid}")
    return Target(row.generation, row.digest)


def all_databases(connection: sa.Connection) -> list[int]:
    """The uids of all databases."""
    return list(connection.scalars(sa.select(bdbs.c.uid).order_by(bdbs.c.uid)))


def refresh_databases(
    connection: sa.Connection, uids: Iterable[int], own: bool = False, alike: bool = False
) -> None:
    """Renders the policy lines of these databases again: all, or (`own`) only those that do not
    depend on users. Where there are many users, their lines follow after the transaction, see
    control/store/pieces.py. `alike`: the change takes from all whom it concerns, or gives to all
    of them."""
    if not own:
        allow_long_idle(connection)
    in_pieces = not own and _ahead(connection, 0, PIECE_USERS) is not None
    for uid in uids:
        if in_pieces and not find_record(connection, Database, uid).deleting:
            _begin_pieces(connection, uid, alike)
            continue
        rows = connection.execute(OWN_LINES if own else POLICY_LINES, {"bdb": uid})
        before = {(row.owner, row.line): row.id for row in rows}
        move_lines(connection, uid, before, render_lines(connection, uid, own))


def _ahead(connection: sa.Connection, after: int, count: int) -> int | None:
    """The uid of the user who is so many behind this uid; None where there are fewer."""
    found = connection.scalar(UID_AHEAD, {"after": after, "skipped": count - 1})
    return None if found is None else int(found)


def _begin_pieces(connection: sa.Connection, uid: int, alike: bool) -> None:
    """Notes that the lines of all users are to be rendered on a database. What the database's own
    take away comes first, and what they give last, lest somebody has rights of before under what is
    trusted only after it."""
    _note_new_rules(connection, uid)
    generation = read_target(connection, uid).generation
    where = renderings.c.bdb_uid == uid
    before = connection.scalar(sa.select(renderings.c.turn).where(where))
    turn = GIVES if not generation or (alike and before in (None, GIVES)) else TAKES
    if generation:
        _move_own(connection, uid, takes=turn != GIVES)
    connection.execute(sa.delete(renderings).where(where))
    connection.execute(insert_into(renderings), {"bdb_uid": uid, "after": 0, "turn": turn})
    await_pieces(connection, [uid])


def await_pieces(connection: sa.Connection, uids: Iterable[int]) -> None:
    """This change is not done before all lines of these databases are rendered, which it may have
    found so: sent again, it is no more in force than the first time."""
    state = state_of(connection)
    for uid in connection.scalars(sa.select(renderings.c.bdb_uid)).all():
        if uid in uids:
            generation = read_target(connection, uid).generation
            state.moved.setdefault(uid, range(generation + 1, generation + 1))
            state.unfinished.add(uid)


def await_policies(connection: sa.Connection) -> None:
    """What this change says may have been said before: it is in force where the servers hold what
    is to be held now, and no earlier because it is sent again. Not those that are given back."""
    moved = state_of(connection).moved
    for uid in connection.scalars(sa.select(bdbs.c.uid).where(sa.not_(bdbs.c.deleting))).all():
        generation = read_target(connection, uid).generation
        moved.setdefault(uid, range(generation + 1, generation + 1))


def _note_new_rules(connection: sa.Connection, uid: int) -> None:
    """Those that users get on a database: one user of each set of roles stands for all."""
    if state_of(connection).rules is None:
        return
    for one in connection.scalars(ONE_OF_EACH_ROLES).all():
        rows = connection.execute(LINES_OF, {"owners": [one]})
        before = [(row.owner, row.line) for row in rows if row.bdb_uid == uid]
        note_rules(connection, uid, before, _lines_of(connection, uid, one, ()))


def _lines_of(
    connection: sa.Connection, uid: int, user_uid: int, named: Iterable[Pattern]
) -> set[tuple[int, str]]:
    """The lines of one user on one database."""
    rows = connection.execute(GRANTS_OF_USER, {"of": user_uid})
    for (bdb_uid, _), granted in group_grants(rows):
        if bdb_uid == uid:
            sharing = sharing_on(connection, uid, granted[0])
            return _render_user_lines(*granted, sharing, named)
    return set()


def _move_own(connection: sa.Connection, uid: int, takes: bool = False) -> None:
    """Renders the lines of a database that are not those of users it knows, nor of patterns that
    name such a user; with `takes`, only what takes rights away."""
    naming = {PATTERN_OWNERS + one.uid for one in _naming(connection)}
    rows = [
        *connection.execute(OWN_LINES, {"bdb": uid}),
        *connection.execute(LINES_IN_RANGE, {"bdb": uid, "after": LAST_USER, "upto": LAST_OWNER}),
    ]
    before = {(row.owner, row.line): row.id for row in rows if row.owner not in naming}
    after = render_lines(connection, uid, own=True) | _render_patterns(connection, uid)
    move_lines(connection, uid, before, after, takes)


def _naming(connection: sa.Connection) -> list[Pattern]:
    """The patterns that name a user."""
    return [one for one in read_records(connection, Pattern) if not pattern_policy.makes(one)]


def render_piece(connection: sa.Connection, users: int) -> set[int]:
    """Renders the lines of the next so many users on a database where that is still to be done.
    Returns the databases where something is left to do."""
    rows = connection.execute(sa.select(renderings).order_by(renderings.c.bdb_uid)).all()
    if not rows:
        return set()
    (uid, after, turn), left = rows[0], {row.bdb_uid for row in rows}
    upto, where = _ahead(connection, after, users), renderings.c.bdb_uid == uid
    deleting = find_record(connection, Database, uid).deleting
    if not deleting:
        last = LAST_USER if upto is None else upto
        gives = _move_piece(connection, uid, after, last, takes=turn != GIVES)
        turn = LEFT if gives else turn
    if upto is None and turn == LEFT:  # from the first user again
        upto, turn = 0, GIVES
    if upto is not None:
        connection.execute(sa.update(renderings).where(where).values(after=upto, turn=turn))
        return left
    if not deleting:
        _move_own(connection, uid)
    connection.execute(sa.delete(renderings).where(where))
    return left - {uid}


def _move_piece(
    connection: sa.Connection, uid: int, after: int, upto: int, takes: bool = False
) -> bool:
    """Those who share an identity with one of these users are rendered with it: a line of both must
    not name somebody without a line. See move_lines."""
    limits = {"bdb": uid, "after": after, "upto": upto}
    found = (Pattern(**row._mapping) for row in connection.execute(PATTERNS_IN_RANGE, limits))
    naming = [one for one in found if not pattern_policy.makes(one)]
    named: dict[str, list[Pattern]] = {}
    for pattern in naming:
        named.setdefault(pattern.user, []).append(pattern)
    rows = list(connection.execute(LINES_IN_RANGE, limits))
    known = {row.line for row in rows}
    lines: set[tuple[int, str]] = set()
    sharing: set[int] = set()
    for (_, user_uid), granted in group_grants(connection.execute(GRANTS_IN_RANGE, limits)):
        others = sharing_on(connection, uid, granted[0])
        sharing |= {user_uid} if others else set()
        lines |= _render_user_lines(*granted, others, named.get(granted[0].name, ()), known)
    owners = [PATTERN_OWNERS + one.uid for one in naming]
    gone = (row for row in rows if (row.owner, row.line) not in lines)
    for other in sorted(_all_alike(connection, gone, sharing)):
        if not after < other <= upto:
            patterns = patterns_naming(connection, other)
            owners += [other, *(PATTERN_OWNERS + one.uid for one in patterns)]
            lines |= _lines_of(connection, uid, other, patterns)
    rows += connection.execute(LINES_OF, {"owners": owners}) if owners else []
    before = {(row.owner, row.line): row.id for row in rows if row.bdb_uid == uid}
    return move_lines(connection, uid, before, lines, takes)


def _all_alike(
    connection: sa.Connection, gone: Iterable[sa.Row[Any]], sharing: set[int]
) -> set[int]:
    """The users who share an identity with one of these, or did by lines that are gone, and so
    on."""
    bound = (row for row in gone if row.line.startswith("bind "))
    new = sharing | {row.owner for row in bound if len(taking.users_of(row.line)) > 1}
    found: set[int] = set()
    while new:
        found |= new
        users_ = [find_record(connection, User, one) for one in new]
        alike = (users_alike(connection, one) for one in users_ if _shares(one))
        new = {other.uid for others in alike for other in others if _shares(other)} - found
    return found


def _shares(user: User) -> bool:
    return any(one.shared for one in user.identities)


def refresh_new_users(connection: sa.Connection, first: int, last: int) -> None:
    """Renders the lines of users who have just been made, with uids from `first` to `last`."""
    for uid in all_databases(connection):
        if not find_record(connection, Database, uid).deleting:
            _move_piece(connection, uid, first - 1, last)


def refresh_user(connection: sa.Connection, *states: User) -> None:
    """Renders the policy lines of one user again, on every database, and those of all who share an
    identity with it; `states` are what the user was and is."""
    uids = {user.uid for user in states}
    if any(one.shared for user in states for one in user.identities):
        uids |= {other.uid for user in states for other in users_alike(connection, user)}
    for uid in sorted(uids):
        _refresh_one(connection, uid)


def _refresh_one(connection: sa.Connection, uid: int) -> None:
    named = patterns_naming(connection, uid)
    owners = [uid, *(PATTERN_OWNERS + one.uid for one in named)]
    after = {
        bdb_uid: _render_user_lines(*granted, sharing_on(connection, bdb_uid, granted[0]), named)
        for (bdb_uid, _), granted in group_grants(connection.execute(GRANTS_OF_USER, {"of": uid}))
    }
    _move_lines_of(connection, owners, after)


def refresh_pattern(connection: sa.Connection, pattern: Pattern) -> None:
    """Renders the lines of one pattern again, on every database; none of one that is deleted."""
    owner = PATTERN_OWNERS + pattern.uid
    rows = connection.execute(GRANTS_OF_PATTERN, {"of": pattern.uid})
    after = {
        bdb_uid: _render_pattern_lines(found, [acl for _, acl in acls])
        for (bdb_uid, _), (found, acls) in group_pattern_grants(rows).items()
    }
    for user in read_records(connection, User, select_by(users, "name"), name=pattern.user):
        named = [one for one in patterns_naming(connection, user.uid) if one.uid == pattern.uid]
        grants = connection.execute(GRANTS_OF_USER, {"of": user.uid})
        for (bdb_uid, _), granted in group_grants(grants) if named else ():
            found = _render_user_lines(*granted, (), named)
            after[bdb_uid] = {one for one in found if one[0] == owner}
    _move_lines_of(connection, [owner], after)


def _move_lines_of(
    connection: sa.Connection, owners: list[int], after: dict[int, set[tuple[int, str]]]
) -> None:
    """`after` is what the lines of these owners are to be, by uid of the database."""
    before: dict[int, Lines] = {}
    for row in connection.execute(LINES_OF, {"owners": owners}):
        before.setdefault(row.bdb_uid, {})[row.owner, row.line] = row.id
    for bdb_uid in sorted(before.keys() | after.keys()):
        move_lines(connection, bdb_uid, before.get(bdb_uid, {}), after.get(bdb_uid, set()))


def move_lines(
    connection: sa.Connection,
    uid: int,
    before: Lines,
    after: set[tuple[int, str]],
    takes: bool = False,
) -> bool:
    """Replaces lines of a database, as its next generation where they differ; as two generations
    where the change both takes and gives, so that a server can apply one before the other. With
    `takes`, only the first of the two. Returns whether it has left the other."""
    added = sorted(after - before.keys())
    removed = sorted(before.keys() - after)
    if not added and not removed:
        return False
    note_rules(connection, uid, before, added)
    changes = [f"-{line}" for _, line in removed] + [f"+{line}" for _, line in added]
    is_first = read_target(connection, uid).generation == 0
    first, rest = ((), tuple(changes)) if is_first else taking.parts(changes)
    if takes:
        added = _owned(first, "+", added)
        removed = _owned(first, "-", removed)
    _replace_lines(connection, uid, added, [{"gone": before[line]} for line in removed])
    for part in (first,) if takes else (first, rest):
        _log_generation(connection, uid, part)
    return takes and bool(rest)


def _owned(
    changes: Iterable[str], sign: str, whole: Sequence[tuple[int, str]]
) -> list[tuple[int, str]]:
    """The lines of one sign in a part of a change, with their owners. A line that stands only
    between two parts is that of the line that it stands for."""
    by_line, by_subject = dict[str, int](), dict[tuple[str, ...], int]()
    for owner, line in whole:
        by_line[line] = by_subject[taking.about(line)] = owner
    found = (one[1:] for one in changes if one[0] == sign)
    return [
        (by_line[one] if one in by_line else by_subject[taking.about(one)], one) for one in found
    ]


def render_lines(connection: sa.Connection, uid: int, own: bool) -> set[tuple[int, str]]:
    """(owner, line) of what the policy of a database is to be, but for its `revoke` lines; with
    `own`, only those for the database itself. Nothing for a database that is being removed."""
    found = find_record(connection, Database, uid)
    if found.deleting:
        return set()
    trusts = database_trust(connection, found)
    known = read_nodes(connection, uid)
    demands = read_cluster(connection).demands
    lines = {(0, line) for line in policy.database_lines(found, trusts, known, demands)}
    lines |= {(0, line) for line in connection.scalars(sa.select(locks.c.line))}
    if own:
        return lines
    lines |= _render_patterns(connection, uid)
    named: dict[str, list[Pattern]] = {}
    for pattern in _naming(connection):
        named.setdefault(pattern.user, []).append(pattern)
    grants = _read_grants(connection, uid)
    sharing = [user for user, *_ in grants if any(one.shared for one in user.identities)]
    for granted in grants:
        lines |= _render_user_lines(*granted, sharing, named.get(granted[0].name, ()))
    return lines


def _render_patterns(connection: sa.Connection, uid: int) -> set[tuple[int, str]]:
    """The lines of patterns that make users."""
    lines: set[tuple[int, str]] = set()
    rows = connection.execute(PATTERNS_ON_BDB, {"bdb": uid})
    for pattern, acls in group_pattern_grants(rows).values():
        lines |= _render_pattern_lines(pattern, [acl for _, acl in acls])
    return lines


def _render_user_lines(
    user: User,
    acls: Sequence[str],
    adopt: bool,
    others: Iterable[User],
    named: Iterable[Pattern],
    known: Container[str] = (),
) -> set[tuple[int, str]]:
    """Also those of the patterns that name the user."""
    lines = {(user.uid, line) for line in policy.user_lines(user, acls, adopt, others, known)}
    for pattern in named if lines else ():
        lines |= _render_pattern_lines(pattern, ())
    return lines


def _render_pattern_lines(pattern: Pattern, acls: Sequence[str]) -> set[tuple[int, str]]:
    return {(PATTERN_OWNERS + pattern.uid, one) for one in pattern_policy.lines(pattern, acls)}


def _read_grants(connection: sa.Connection, bdb_uid: int) -> list[Granted]:
    """The certificate users with rights on a database, and their rights."""
    rows = connection.execute(GRANTS_ON_BDB, {"bdb": bdb_uid})
    return [granted for _, granted in group_grants(rows)]


def group_grants(rows: Iterable[sa.Row[Any]]) -> Iterable[tuple[tuple[int, int], Granted]]:
    """Rows of ALL_GRANTS, by the uids of database and user."""
    found: dict[tuple[int, int], Granted] = {}
    for row in rows:
        fields = dict(row._mapping)
        bdb_uid, acl, adopt = (fields.pop(name) for name in ("bdb_uid", "acl", "adopt_users"))
        acl = policy.with_channels(acl, fields.pop("channels"))
        user = User(role_uids=(), **fields)
        found.setdefault((bdb_uid, user.uid), (user, [], adopt))[1].append(acl)
    return found.items()


def _replace_lines(
    connection: sa.Connection,
    uid: int,
    added: Sequence[tuple[int, str]],
    gone: Sequence[dict[str, int]],
) -> None:
    if gone:
        where = policy_lines.c.id == sa.bindparam("gone")
        connection.execute(sa.delete(policy_lines).where(where), gone)
    if added:
        rows = [{"bdb_uid": uid, "owner": owner, "line": line} for owner, line in added]
        connection.execute(insert_into(policy_lines), rows)


def _log_generation(connection: sa.Connection, uid: int, changes: Iterable[str]) -> None:
    """Counts up the generation of a database's policy and logs what changed (`+line`, `-line`)."""
    added = tuple(sorted(line[1:] for line in changes if line[0] == "+"))
    removed = tuple(sorted(line[1:] for line in changes if line[0] == "-"))
    if not added and not removed:
        return
    before = read_target(connection, uid)
    after = Target(before.generation + 1, policy.digest_of(before.digest, added, removed))
    moved = state_of(connection).moved
    made = moved.get(uid, range(after.generation, after.generation))
    moved[uid] = range(made.start, after.generation + 1)
    connection.execute(WRITE_TARGET, {"bdb": uid, "after": after.generation, "now": after.digest})
    change = {"bdb_uid": uid, "generation": after.generation, "digest": after.digest}
    change |= {"added": added, "removed": removed}
    connection.execute(insert_into(policy_log), change)
    if after.generation > POLICY_LOG_GENERATIONS:
        old = policy_log.c.generation <= after.generation - POLICY_LOG_GENERATIONS
        connection.execute(sa.delete(policy_log).where((policy_log.c.bdb_uid == uid) & old))
