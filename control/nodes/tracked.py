"""The nodes that this control plane looks after, and what it last saw of each."""

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from control.nodes.client import UNREACHABLE, Access, Node
from control.nodes.plan import Held
from control.nodes.topology import NodeInfo, Status
from control.records import Database, EventDetail, Target
from control.reports import Hold
from control.reports import Node as Seen
from control.store import NOT_REACHED, Store


@dataclass(eq=False)
class TrackedNode:
    """A node that the worker looks after: its connection, what was last seen of it, and when it is
    visited next. Only the worker's thread changes it, except what a comment leaves to the visit.
    Times are those of time.monotonic()."""

    database: Database
    access: Access
    node: Node
    seen: Seen
    info: NodeInfo | None = None  # the last, also of a node that does not answer any more
    info_time: float = -math.inf
    bound: bool = False  # its key is in the policy
    ready: bool = False  # its module answers, and its policy is ours or nobody's
    link_down_since: float = math.inf  # it is a replica that has lost its master
    known: bool = False  # it has held our policy once: an operator is told if it disappears
    is_alias: bool = False  # a second address of a server that is tracked under another one
    detached: bool = False  # it holds nothing of ours any more
    outside_since: float = math.inf  # when it was first seen outside of the deployment
    visited: float = -math.inf  # the end of the last visit, whatever came of it
    due: float = 0.0  # the next visit
    failures: int = 0
    busy: bool = False  # a visit is under way
    dirty: bool = False  # something changed during that visit: visit again at once
    # Of the visit:
    held: Held = field(default_factory=Held)
    ours: bool = False  # this process brought it to its policy, or saw it there
    outbid: int = 0  # the highest epoch that was found there and is not ours
    on_hold: "OnHold | None" = None  # what it was seen to hold while nothing is sent

    @property
    def away(self) -> bool:
        """It did not answer the last time, so the next time may take as long."""
        return self.seen.error.startswith(UNREACHABLE)


@dataclass(frozen=True)
class OnHold:
    """What a node held at the first visit while nothing is sent, and at the last; and what a
    release would change there."""

    first: Target
    last: Target
    target: Target
    text: str


@dataclass
class Observation:
    """The result of a visit; `info` is None where the node did not answer, or was not asked."""

    tracked: TrackedNode
    seen: Seen
    info: NodeInfo | None = None
    detached: bool = False
    ready: bool = False
    unverified: str = ""  # as its STATUS says
    untaken: str = ""
    hold: Hold | None = None  # what is written down about it; None for most


class Fleet:
    """The tracked nodes of every database, by its uid and by address. Only the worker's thread
    changes it; any thread may read it, and gets copies."""

    def __init__(self) -> None:
        self._nodes: dict[int, dict[str, TrackedNode]] = {}

    def uids(self) -> frozenset[int]:
        """Of the databases."""
        return frozenset(self._nodes)

    def all(self) -> list[TrackedNode]:
        """Every node of every database."""
        return [tracked for uid in list(self._nodes) for tracked in self.of(uid).values()]

    def of(self, uid: int) -> dict[str, TrackedNode]:
        """The nodes of one database; nothing where it is not known."""
        return dict(self._nodes.get(uid, {}))

    def get(self, uid: int, address: str) -> TrackedNode | None:
        """The node of a database at `host:port`; None where that is not tracked."""
        return self._nodes.get(uid, {}).get(address)

    def open(self, uid: int) -> None:
        """A database from now on, without nodes yet."""
        self._nodes.setdefault(uid, {})

    def put(self, tracked: TrackedNode) -> None:
        """Adds a node, or replaces the one at its address. Raises KeyError unless its database is
        open."""
        self._nodes[tracked.database.uid][tracked.seen.address] = tracked

    def discard(self, tracked: TrackedNode) -> None:
        """Forgets a node; its connection stays as it is. Raises KeyError where it is not
        tracked."""
        del self._nodes[tracked.database.uid][tracked.seen.address]

    def keep(self, uids: Collection[int]) -> None:
        """Forgets all databases but these."""
        self._nodes = {uid: nodes for uid, nodes in self._nodes.items() if uid in uids}


def access_of(database: Database, seen: Seen, authorities: str) -> Access:
    """How a node is reached; `authorities` is PEM for a database that names no CA of its own."""
    host, _, port = seen.address.rpartition(":")
    name = seen.server_name or database.tls_server_name
    return Access(host, int(port), database.tls_server_ca or authorities, name)


def note(store: Store, tracked: TrackedNode, kind: str, **detail: EventDetail) -> None:
    """A warning about a node in the event log."""
    database = tracked.database
    about = where_of(database.uid, database.name, tracked.seen.address)
    store.events.note(kind, "WARNING", **{**about, **detail})


def where_of(bdb_uid: int, bdb_name: str, address: str) -> dict[str, EventDetail]:
    """The fields by which an event names a node (host:port) of a database."""
    return {"bdb_uid": bdb_uid, "bdb_name": bdb_name, "address": address}


def unknown_node(database: Database, address: str) -> Seen:
    """A node that nobody has reached yet."""
    return Seen(database.uid, address, 0, False, NOT_REACHED)


def with_policy(seen: Seen, held: Status | Target, in_step: bool) -> Seen:
    """A node of ours without an error, which holds this."""
    seen = replace(seen, generation=held.generation, digest=held.digest, in_step=in_step)
    return replace(seen, error="", detail="", refused=(), outbid=0)


def with_error(seen: Seen, text: str, in_step: bool = False) -> Seen:
    """A node with this error, "" for none."""
    if text and text != seen.error:
        seen = replace(seen, last_error=text, last_error_time=int(time.time()))
    return replace(seen, in_step=in_step, error=text)
