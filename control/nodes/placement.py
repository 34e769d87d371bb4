"""Which nodes belong to a deployment. Pure: what nodes reported in, transitions out."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from control.nodes.topology import NodeInfo
from control.nodes.tracked import Fleet, TrackedNode

LEAVE_SECONDS = 30.0  # a node is seen outside of its deployment for so long before it has left
MAX_STRANGERS = 1000  # nodes of a database that have never held its policy and are visited


# ---- Who belongs together ------------------------------------------------------------------------


def members(seeds: Iterable[str], infos: Mapping[str, NodeInfo | None]) -> frozenset[str]:
    """The addresses that belong to the deployment of `seeds`: all that its members name, and so
    on. `infos` is what known nodes last reported, None where a node has never answered.

    A known node also belongs to it by naming a member, as a replica does that has lost its link;
    but not in a cluster, where a node that was removed goes on naming the others. A stranger does
    not get in by any claim of its own.
    """
    links: dict[str, set[str]] = {}
    runs: dict[str, str] = {}
    for address, info in infos.items():
        if info is None:
            continue
        links.setdefault(address, set()).update(info.names)
        for other in () if info.in_cluster else info.names & infos.keys():
            links.setdefault(other, set()).add(address)
        same = runs.setdefault(info.run, address)
        links.setdefault(same, set()).add(address)
        links[address].add(same)
    found: set[str] = set()
    waiting = list(seeds)
    while waiting:
        address = waiting.pop()
        if address not in found:
            found.add(address)
            waiting.extend(links.get(address, ()))
    return frozenset(found)


def aliases(seeds: Collection[str], infos: Mapping[str, NodeInfo | None]) -> frozenset[str]:
    """The addresses that are second names of servers with another address. A server's first name
    is what the database gives it, else the first in the alphabet."""
    first: dict[str, str] = {}
    for address in sorted(infos, key=lambda address: (address not in seeds, address)):
        info = infos[address]
        if info and info.run:
            first.setdefault(info.run, address)
    return frozenset(
        address
        for address, info in infos.items()
        if info and info.run and first[info.run] != address
    )


def is_alone(info: NodeInfo) -> bool:
    """It is not a replica, has none, and is in no cluster but its own."""
    return len(info.names) <= (1 if info.in_cluster else 0)


# ---- Whose word counts ---------------------------------------------------------------------------


def follows(fleet: Fleet, tracked: TrackedNode, info: NodeInfo) -> bool:
    """Whether the word of a Sentinel counts: the master that it names is an endpoint, or a server
    that was seen to hold our policy, also under another name; or no such server is known yet, and
    the master that it names does not belong to another database."""
    uid = tracked.database.uid
    ours = fleet.of(uid)
    named = ours.get(info.master)
    if named and (named.seen.origin == "endpoint" or named.seen.is_peer):
        return True
    if any(one.known and one.seen.role != "sentinel" for one in ours.values()):
        return False
    others = (one for one in fleet.all() if one.database.uid != uid)
    return not any(one.seen.address == info.master and one.known for one in others)


def _believed(fleet: Fleet, tracked: TrackedNode) -> NodeInfo | None:
    """What a node reported, as far as it counts. A stranger without the module names nobody; of a
    Sentinel that is not followed, only the master is visited."""
    info = tracked.info
    if info is None or _is_believed(fleet, tracked, info):
        return info
    only = {info.master} - {""} if info.role == "sentinel" else ()
    return replace(info, names=frozenset(only))


def _is_believed(fleet: Fleet, tracked: TrackedNode, info: NodeInfo) -> bool:
    if info.role == "sentinel":
        return follows(fleet, tracked, info)
    return bool(info.module) or tracked.known


def _names_members(fleet: Fleet, tracked: TrackedNode) -> bool:
    """Whether it would name the nodes that belong to it now."""
    info = tracked.info
    if tracked.away or info is None:
        return False
    return info.role != "sentinel" or follows(fleet, tracked, info)


# ---- What follows from it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Transition:
    """What happens to one address of a database: `track` it from now on; let it `stay`; it comes
    `back` though it was leaving; it is to `leave`, and gives its policy back; it is `lost`, and an
    operator is told; `drop` it. `outside_since` is in seconds of time.monotonic()."""

    address: str
    action: Literal["track", "stay", "back", "leave", "lost", "drop"]
    is_alias: bool = False
    outside_since: float = math.inf


def place(fleet: Fleet, uid: int, now: float) -> list[Transition]:
    """Which nodes of a database are tracked from now on, and what becomes of each that is; `now` is
    time.monotonic()."""
    nodes = fleet.of(uid)
    infos = {address: _believed(fleet, tracked) for address, tracked in nodes.items()}
    seeds = {address for address, one in nodes.items() if one.seen.origin == "endpoint"}
    inside = members(seeds, infos)
    strangers = sum(not tracked.known for tracked in nodes.values())
    new = itertools.islice(inside - nodes.keys(), max(0, MAX_STRANGERS - strangers))
    seconds = aliases(seeds, infos)
    complete = all(_names_members(fleet, nodes[address]) for address in seeds)
    found = [Transition(address, "track") for address in new]
    for move in _moves(nodes, inside, complete, now):
        found.append(replace(move, is_alias=move.address in seconds))
    return found


def _moves(
    nodes: Mapping[str, TrackedNode], inside: Collection[str], complete: bool, now: float
) -> Iterator[Transition]:
    """Of each tracked node. `complete`: those that are outside were named by nobody, and not by
    chance."""
    left = dict(nodes)
    for address, tracked in nodes.items():
        leaving = tracked.seen.origin == "leaving"
        if address in inside:
            move = Transition(address, "back" if leaving else "stay")
        elif leaving:
            action: Literal["drop", "stay"] = "drop" if tracked.detached else "stay"
            move = Transition(address, action, outside_since=tracked.outside_since)
        elif not tracked.known:
            move = Transition(address, "drop")
        elif complete:
            move = _outside(tracked, left, now)
        else:
            move = Transition(address, "stay")
        if move.action in ("drop", "lost"):
            del left[address]
        yield move


def _outside(tracked: TrackedNode, left: Mapping[str, TrackedNode], now: float) -> Transition:
    """A node that was found once, and that no member names any more. If it stands alone, it has
    left. If it does not answer, where a Sentinel or a cluster would know it, it is lost. Any other
    stays: links may be down, or the deployment split in two."""
    address, since = tracked.seen.address, min(tracked.outside_since, now)
    if now < since + LEAVE_SECONDS:
        return Transition(address, "stay", outside_since=since)
    if tracked.info and not tracked.away and is_alone(tracked.info):
        return Transition(address, "leave", outside_since=since)
    if tracked.away and _is_watched(left.values()):
        return Transition(address, "lost", outside_since=since)
    return Transition(address, "stay", outside_since=since)


def _is_watched(nodes: Iterable[TrackedNode]) -> bool:
    infos = (tracked.info for tracked in nodes if not tracked.away)
    return any(info.in_cluster or info.role == "sentinel" for info in infos if info)
