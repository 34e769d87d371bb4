"""Brings one node to its policy: what takes rights away goes first (control/policy/taking.py), what
the node refuses is left out (control/policy/refusals.py)."""

import time
from collections.abc import Sequence
from dataclasses import replace

from control.nodes.client import UNREACHABLE, Node, NodeError
from control.nodes.lease import Lease
from control.nodes.plan import Drift, Held, deviating, difference, is_within, merged
from control.nodes.topology import Status
from control.policy import core, refusals, taking
from control.records import Change, Database, Target
from control.reports import Refused
from control.store import POLICY_LOG_GENERATIONS, Store

RETRY_REFUSED_SECONDS = 60.0  # between two tries of what a node refused
EPOCH_LEAP = 1 << 32  # epochs: no backup is so far behind
TAKE = "redis-certauth node take HOST:PORT takes it over"


class Ahead(Exception):
    """A node holds what the store does not know, and what it can have got only from a later state
    of the store: this process has given it that; or it is ahead, and this process sees it for the
    first time."""


def reconcile(
    store: Store,
    bdb_uid: int,
    owner: str,
    node: Node,
    lease: Lease,
    status: Status | None = None,
    held: Held | None = None,
    ours: bool | None = None,
) -> tuple[Status, Drift]:
    """Brings one node, of which `status` was just read, to the target of its database: first what
    takes rights away, then the rest, without what the node refuses. Returns what it then holds, and
    `held` says more of that; and what differed, where it held something that this policy never was.
    `ours`: whether this process has seen it in step before; None where it may hold what it likes.
    Raises NodeError; Replaced where it is for another process to do; Ahead."""
    status, held = status or node.status(), held or Held()
    last = replace(held)
    if status.journal != "ok":
        raise NodeError("NOJOURNAL", status.journal)
    check_owner(store, status, owner)
    known = held.is_of(status)
    if not known:
        held.now(Target(status.generation, status.digest), {}, (), given=False)
    logged = refusals.digest(status.digest, refusals.minus(held.differs))
    changes = store.policies.changes(bdb_uid, status.generation, logged)
    held.given = held.given or changes is not None
    write = _Write(store, bdb_uid, owner, node, lease, status, held)
    drift: Drift = {}
    if changes is None or status.generation == 0:
        behind = store.policies.target(bdb_uid).generation - status.generation
        lost = known and held.given if ours else behind < 0
        if ours is not None and lost and behind < POLICY_LOG_GENERATIONS and status.owner == owner:
            raise Ahead
        # One that holds what we gave it, or is too far behind to tell, has not drifted.
        drift = write.whole(last, tell=not known and behind < POLICY_LOG_GENERATIONS)
    elif changes:
        write.change(changes)
    elif held.refused and time.monotonic() > held.tried + RETRY_REFUSED_SECONDS:
        held.tried = time.monotonic()
        write.try_again()
    else:
        return status, {}
    return node.status(), drift


class _Write:
    """One node on its way to its policy. `held` follows each step, so that the next look goes on
    from there where one fails."""

    def __init__(
        self, store: Store, bdb_uid: int, owner: str, node: Node, lease: Lease, status: Status,
        held: Held,
    ) -> None:  # fmt: skip
        self._store, self._uid, self._owner, self._node = store, bdb_uid, owner, node
        self._status, self._held = status, held
        self._epoch = epoch_for(lease, status)

    def whole(self, last: Held, tell: bool = True) -> Drift:
        """For a node of which it is not known how it differs, and that was last seen at `last`; or
        too much for a patch: the whole policy, by force where the node is not behind us, as after a
        restore of the control plane from a backup. Unless the node is within changes that a control
        plane has begun and not ended: it gets the rest of those. `tell`: what differed is drift."""
        target, lines = self._store.policies.whole(self._uid)
        drift: Drift = {}
        if tell and self._status.generation and self._status.owner:
            shown = self._node.show()
            since = self._since(last, target)
            if not since or not is_within(shown, lines, since, last.refused):
                drift = difference(shown, lines)
            elif self._status.generation < target.generation:
                self._go_on(shown, lines, since, last)
                return {}
        self._load(target, lines)
        return drift

    def _since(self, last: Held, target: Target) -> list[Change]:
        """What has changed since then, up to a target; nothing where that is not known."""
        logged = refusals.digest(last.digest, refusals.minus(last.differs))
        known = last.generation and self._store.policies.changes(self._uid, last.generation, logged)
        return [one for one in known or () if one.generation <= target.generation]

    def _go_on(
        self, shown: Sequence[str], lines: Sequence[str], since: Sequence[Change], last: Held
    ) -> None:
        """From the middle of changes to their end."""
        status = self._status
        later = [one for one in since if one.generation > status.generation]
        now, end = dict.fromkeys(shown, 1), dict.fromkeys(lines, 1)
        differs = refusals.plus(now, refusals.minus(end), refusals.signs(merged(later)))
        refused = tuple(
            one for one in last.refused
            if differs.get(one.line) == -1 and (not one.instead or one.instead in now)
        )  # fmt: skip
        self._held.now(Target(status.generation, status.digest), differs, refused)
        self.change(later)

    def _load(self, target: Target, lines: Sequence[str]) -> None:
        """By force where the node is not behind us, as after a restore from a backup."""
        refused: tuple[Refused, ...] = ()
        force = self._status.generation >= target.generation
        while True:
            differs = refusals.deviation(refused)
            sent = tuple(refusals.plus(dict.fromkeys(lines, 1), differs))
            to = deviating(target, differs)
            try:
                self._node.load(to, sent, self._owner, self._epoch, force)
            except NodeError as error:
                refused = _blamed(error, sent, refused, lines)
            else:
                self._held.now(to, differs, refused)
                return

    def change(self, changes: Sequence[Change]) -> None:
        """From where the node is to the end of these changes."""
        held = self._held
        led = refusals.signs(merged(changes))
        refused = refusals.still(held.refused, led)
        refused = refusals.unbound(refused, [line for line, sign in led.items() if sign > 0])
        while True:
            last, differs = changes[-1], refusals.deviation(refused)
            led = refusals.signs(merged(changes))
            wish = refusals.plus(led, differs, refusals.minus(held.differs))
            first, rest = taking.parts(refusals.changes(wish))
            apart = first and rest and len(changes) > 1
            sent = first if apart else (*first, *rest)
            try:
                if apart:
                    self._take(first, changes[:-1], refused)
                    changes = changes[-1:]
                    continue
                to = deviating(Target(last.generation, last.digest), differs)
                self._patch(sent, to)
            except NodeError as error:
                refused = _blamed(error, sent, refused, self._store.policies.whole(self._uid)[1])
            else:
                held.now(to, differs, refused)
                return

    def _take(
        self, first: Sequence[str], before: Sequence[Change], refused: tuple[Refused, ...]
    ) -> None:
        """What takes, under the generation that comes last but one: what the node then holds is no
        generation of the policy."""
        held, took = self._held, refusals.signs(first)
        led = refusals.signs(merged(before))
        to = Target(before[-1].generation, refusals.digest(held.digest, took))
        self._patch(first, to)
        held.now(to, refusals.plus(held.differs, took, refusals.minus(led)), refused)

    def _patch(self, changes: Sequence[str], to: Target) -> None:
        self._node.patch(self._held.generation, to, changes, self._owner, self._epoch)

    def try_again(self) -> None:
        """What the node refused may be good there by now: another version, another module, a user
        that is gone. Nothing is written as long as it is not."""
        back = refusals.changes(refusals.minus(refusals.deviation(self._held.refused)))
        try:
            self._node.command("CERTAUTH.SESSIONS", "COUNT", 1, "LINES", *back)
        except NodeError as error:
            if error.code == UNREACHABLE:
                raise
            return
        self._load(*self._store.policies.whole(self._uid))


def _blamed(
    error: NodeError, sent: Sequence[str], refused: tuple[Refused, ...], policy: Sequence[str]
) -> tuple[Refused, ...]:
    """What is left out from now on. Raises the error where it is about nothing of that."""
    found = refusals.blamed(error.text, sent, refused, policy) if error.code == "LINES" else None
    if found is None:
        raise error
    return found


def check_owner(store: Store, status: Status, owner: str) -> None:
    """Raises NodeError where a node's policy belongs to somebody else."""
    if status.generation and status.owner not in ("", owner):
        whose = render_owner(store, status.owner)
        raise NodeError("OWNED", f"this node's policy belongs to {whose}")


def render_owner(store: Store, owner: str) -> str:
    """For a person: our own databases by name."""
    cluster, _, uid = owner.rpartition("/")
    if cluster != store.settings.cluster().identifier or not uid.isdecimal():
        return f"'{owner}', another control plane: if that one is gone, {TAKE}"
    names = [one.name for one in store.objects.all(Database) if one.uid == int(uid)]
    if not names:
        return f"bdb {uid} of this control plane, which is gone: {TAKE}"
    whose = f"bdb {uid} ('{names[0]}')"
    return f"{whose} of this control plane: a server has one policy, take it out of one of them"


def epoch_for(lease: Lease, status: Status) -> int:
    """For a write to a node that says this. A node that lies must not take the epoch of all others
    to its end: nobody could write to any of them after that."""
    if status.epoch > lease.epoch + EPOCH_LEAP:
        raise NodeError("EPOCH", f"this node says epoch {status.epoch}: reset its policy")
    return lease.above(status.epoch)


def detach(node: Node, target: Target, owner: str, lease: Lease) -> Status:
    """Gives a node back: no policy, and no owner, so that another database may have it. Raises
    Replaced as `reconcile`."""
    status = node.status()
    if status.owner == owner and status.generation:
        generation = max(target.generation, status.generation + 1)
        empty = Target(generation, core.digest(()))
        node.load(empty, (), "", epoch_for(lease, status), force=True)
        status = node.status()
    return status
