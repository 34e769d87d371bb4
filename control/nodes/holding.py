"""Servers to which nothing is sent before somebody has seen what they hold: after a restore, and
where the control plane's database is older than what a server holds."""

from collections.abc import Collection

from control.nodes.client import NodeError
from control.nodes.lease import Lease
from control.nodes.plan import KEPT_PREFIXES, difference, render_difference
from control.nodes.topology import Status
from control.nodes.tracked import OnHold, TrackedNode, note, where_of
from control.records import EventDetail, Target
from control.reports import Hold
from control.store import Store

HELD = "HELD"  # the code of a node that differs while nothing is sent
TWICE = "TWICE"  # the code of a node that another control plane with our identity writes to
OLDER = (
    "the control plane's database is older than what this server holds, as after a point-in-time "
    "recovery or a failover to a standby that lagged"
)
WRITTEN = (
    "another control plane with this one's identity goes on writing to this server: stop that one, "
    "or do not release this one"
)
UNTIL = "make again here what is not to go, then: redis-certauth release"


class Holding:
    """For any thread, but one visit to a node at a time."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self._lease = store, lease
        self._kept: set[str] = set()  # lines that nodes held while nothing was sent: stored once

    def find(self, tracked: TrackedNode) -> Hold | None:
        """What is written down about a node; None for most."""
        return self._store.holds.get(tracked.database.uid, tracked.seen.address)

    def is_behind(self, tracked: TrackedNode, hold: Hold | None, status: Status) -> bool:
        """Whether a node, which nobody has seen yet, holds nothing but what our policy once was."""
        uid = tracked.database.uid
        if not hold or hold.state != "unseen" or self._store.settings.cluster().hold:
            return False
        changes = self._store.policies.changes(uid, status.generation, status.digest)
        return not status.generation or changes is not None

    def end(self, tracked: TrackedNode) -> None:
        """The node is kept in step from now on, or again."""
        tracked.on_hold = None
        if hold := self.find(tracked):
            self._store.holds.end(hold, self._lease.epoch)

    def look(self, tracked: TrackedNode, hold: Hold | None, status: Status, why: str) -> None:
        """Sees what a node holds, and writes it down; `tracked.on_hold` then says how it differs.
        What it holds as revoked is revoked here too: at once after a restore, and else with the
        release. A node could say at any time that the database is older, and so revoke what it
        likes everywhere."""
        uid, before = tracked.database.uid, tracked.on_hold
        held, target = Target(status.generation, status.digest), self._store.policies.target(uid)
        is_written = hold is not None and (hold.state, hold.why) == ("seen", why)
        if is_written and before and (before.last, before.target) == (held, target):
            return
        lines, wanted = tracked.node.show(), self._store.policies.whole(uid)[1]
        kept = {one for one in set(lines) - set(wanted) if one.startswith(KEPT_PREFIXES)}
        if why != OLDER:
            kept -= self._kept
            self._kept |= kept
            if kept:
                database = tracked.database
                keep(self._store, kept, where_of(uid, database.name, tracked.seen.address))
                target, wanted = self._store.policies.whole(uid)
            kept = set()
        if before and before.last != held:
            note(self._store, tracked, "other_control_plane", description=WRITTEN)
        first = before.first if before else held
        text = render_difference(status, target, wanted, lines)
        if text and before is None and not self._store.settings.cluster().hold:
            more = difference(lines, wanted)
            note(self._store, tracked, "node_held", description=why, **more)
        tracked.on_hold = OnHold(first, held, target, text)
        hold = Hold(uid, tracked.seen.address, why, "seen", held.generation, held.digest,
                    tuple(sorted(kept)))  # fmt: skip
        if self.find(tracked) != hold:
            self._store.holds.see(hold, self._lease.epoch)

    def look_last(self, tracked: TrackedNode, hold: Hold, status: Status, owner: str) -> None:
        """Before a node that nobody has seen is given back, and with it what it holds."""
        if status.owner == owner and not self.is_behind(tracked, hold, status):
            self.look(tracked, hold, status, hold.why)

    def check(self, tracked: TrackedNode, why: str) -> None:
        """Raises NodeError where a node that was looked at holds anything else than it should, or
        is written to by somebody else."""
        found = tracked.on_hold
        if found and found.first != found.last:
            raise NodeError(TWICE, f"{WRITTEN}. {found.text}")
        if found and found.text:
            raise NodeError(HELD, f"{why}: {found.text}. {UNTIL}")


def keep(store: Store, lines: Collection[str], where: dict[str, EventDetail]) -> None:
    """Revokes and locks in the store what a node holds so; `where` goes into the event log."""
    store.revocations.keep(lines, **where)
    store.locks.keep(lines, **where)


def render_unseen(hold: Hold | None) -> str:
    """What has to be said of a node that does not answer; "" for most."""
    if hold is None or hold.state != "unseen":
        return ""
    return f"; nobody has seen what it holds ({hold.why})"


def permits(hold: Hold, status: Status) -> bool:
    """Whether a node that was released holds what it held then."""
    seen = hold.generation, hold.digest
    return not hold.digest or seen == (status.generation, status.digest)
