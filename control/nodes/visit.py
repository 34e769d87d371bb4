"""One visit to a node, in a thread of a pool: what it reports, its policy, its log, and what is
wrong with it."""

import logging
import queue
import threading
import time
from dataclasses import replace

from control.nodes.audit import Collector, Ours
from control.nodes.client import MODULE, SLOW, UNREACHABLE, WITHOUT, Node, NodeError
from control.nodes.holding import OLDER, TWICE, Holding, permits, render_unseen
from control.nodes.lease import Lease
from control.nodes.placement import follows
from control.nodes.plan import judge_trust, went_back
from control.nodes.protocol import written
from control.nodes.reconcile import Ahead, check_owner, detach, reconcile
from control.nodes.topology import NodeInfo, Status
from control.nodes.tracked import (
    Fleet,
    Observation,
    TrackedNode,
    note,
    with_error,
    with_policy,
)
from control.policy import refusals
from control.policy.peers import waits_for
from control.records import Database, Target
from control.reports import Node as Seen
from control.store import UNAVAILABLE_ERRORS, Replaced, Store, first_line

log = logging.getLogger(__name__)

VISIT_SECONDS = 1.0  # between two visits to a node that answers
LINK_DOWN_SECONDS = 15.0  # a replica's link is down for so long before its status says so


class Visitor:
    """Visits nodes; for any thread, but one visit to a node at a time. `found` gets the
    observation, and the node itself when its thread is done with it; `wake` is set then. `key` is
    that of our certificate, as SHA-256 in hex."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        lease: Lease,
        collector: Collector,
        key: str,
        found: "queue.SimpleQueue[Observation | TrackedNode]",
        wake: threading.Event,
    ) -> None:
        self._store, self._fleet, self._lease = store, fleet, lease
        self._collector, self._key = collector, key
        self._found, self._wake = found, wake
        self._holding = Holding(store, lease)

    def visit(self, tracked: TrackedNode, database: Database, seen: Seen) -> None:
        """Brings a node to its policy; once a second it also reads whom the node names, and its
        log, after the policy: a request that waits for a change does not wait for that."""
        fresh = not seen.error and time.monotonic() < tracked.info_time + VISIT_SECONDS / 2
        known, visit = tracked.info if fresh else None, Observation(tracked, seen)
        try:
            visit.hold = self._holding.find(tracked)
            if known is None:
                known = visit.info = self._read_info(tracked, database)
                visit.seen = replace(seen, role=known.role, software=known.software)
            self._reconcile(visit, database, known)
            if not visit.seen.error:
                doubt = self._doubt(tracked, known) or refusals.said(visit.seen.refused)
                doubt = doubt or self._refused_at_doors(tracked, database)
                doubt = doubt or self._keys_that_wait(database)
                if visit.unverified and not doubt:
                    doubt = f"ALGORITHM {visit.unverified}"
                if visit.untaken and not doubt:
                    doubt = f"UNTAKEN {visit.untaken}"
                visit.seen = with_error(visit.seen, doubt, visit.seen.in_step)
        except NodeError as error:
            if error.code == UNREACHABLE:
                tracked.node.shut = ""  # the next connection is new anyway
            text = str(error) + (render_unseen(visit.hold) if error.code == UNREACHABLE else "")
            if error.code == "BUSY":  # another process is writing: again soon
                text = seen.error if seen.error.startswith(SLOW) else ""
            visit.seen = with_error(visit.seen, text)
        except Replaced:
            pass  # what it holds is for another process to report
        except UNAVAILABLE_ERRORS as error:  # says nothing about the node
            log.debug("%s is not seen to: %s", seen.address, first_line(error))
            self._found.put(tracked)
            return
        except Exception:
            log.exception("%s of '%s'", seen.address, database.name)
            visit.seen = with_error(visit.seen, "the control plane failed; its log says why")
        self._deliver(visit)
        try:
            if visit.info:
                self._afterwards(tracked, database, visit.info)
        except Exception:
            log.exception("%s of '%s'", seen.address, database.name)
        self._deliver(tracked)

    def _deliver(self, found: Observation | TrackedNode) -> None:
        self._found.put(found)
        self._wake.set()

    def _afterwards(self, tracked: TrackedNode, database: Database, info: NodeInfo) -> None:
        """What no change has to wait for."""
        if info.role != "sentinel" and not tracked.is_alias:
            address = tracked.node.own_address()
            ours = Ours(address, self._key) if address else None
            command = tracked.node.command
            self._collector.collect(database, tracked.seen.address, command, ours)
        tracked.node.come_again()

    # ---- What is wrong with a node that holds its policy ----

    def _doubt(self, tracked: TrackedNode, info: NodeInfo) -> str:
        if tracked.node.shut:
            return f"HANDSHAKE {SHUT}: {tracked.node.shut}"
        if info.role == "sentinel":
            if not follows(self._fleet, tracked, info):
                return f"SENTINEL {FORGED.format(info.master or 'nobody')}"
            return f"OPEN {OPEN.format(tracked.node.admits)}" if tracked.node.admits else ""
        if other := self._failed_for(tracked):
            return f"LINK {other} says that it has failed: {UNHEARD}"
        if time.monotonic() < tracked.link_down_since + LINK_DOWN_SECONDS:
            return ""
        master = self._fleet.get(tracked.database.uid, info.master)
        missed = master is None or master.away
        return "" if missed else f"LINK its link to {info.master} is down: {REFUSED}"

    def _refused_at_doors(self, tracked: TrackedNode, database: Database) -> str:
        """Who is refused at the moment where only nodes come in: an attack, or a node of ours that
        nobody has made known."""
        doors = self._collector.doors.get((database.uid, tracked.seen.address))
        nodes = self._fleet.of(database.uid).values()
        peers = [one.seen for one in nodes if one.seen.is_peer]
        known = {key for one in peers for key in one.keys} | {*database.node_keys}
        who = doors.now(known) if doors else []
        more = f", and {len(who) - 3} more" if len(who) > 3 else ""
        return f"DOOR refused: {'; '.join(who[-3:])}{more}: {KNOCKING}" if who else ""

    def _keys_that_wait(self, database: Database) -> str:
        """Which endpoint holds up the keys that are only named. A key whose server was seen does
        not wait."""
        nodes = [one.seen for one in self._fleet.of(database.uid).values() if not one.is_alias]
        keys = {*database.node_keys} - {key for one in nodes for key in one.keys}
        waits = waits_for(nodes) if keys else []
        return f"KEYS {NAMED.format(', '.join(waits))}" if waits else ""

    def _failed_for(self, tracked: TrackedNode) -> str:
        """The address of a node that says this one has failed: nodes of a cluster say so of a node
        that they do not hear at their bus. "" for none."""
        for other in self._fleet.of(tracked.database.uid).values():
            info = None if other is tracked or other.away else other.info
            if info and tracked.seen.address in info.failed:
                return other.seen.address
        return ""

    # ---- What it reports, and its policy ----

    def _read_info(self, tracked: TrackedNode, database: Database) -> NodeInfo:
        """Of a whole cluster, the nodes that the database names report, or any node if those do
        not answer."""
        nodes = self._fleet.of(database.uid).values()
        named = [one for one in nodes if one.seen.origin == "endpoint"]
        wide = tracked in named or all(one.away for one in named)
        info = tracked.node.read_info(wide, database.sentinel_master)
        return info.reached_by(dict(database.node_addresses))

    def _reconcile(self, visit: Observation, database: Database, info: NodeInfo) -> None:
        """What the node holds afterwards, and whether that is nothing of ours any more. The other
        nodes admit its key when it holds our policy, or waits only for them."""
        tracked = visit.tracked
        owner = f"{self._store.settings.cluster().identifier}/{database.uid}"
        if tracked.is_alias or info.role == "sentinel":
            self._without_policy(visit, info)
            return
        going = database.deleting or visit.seen.origin == "leaving"
        hold, why = visit.hold, self._store.settings.cluster().hold
        if hold and hold.state != "released" and not going:
            why = why or hold.why
        if why and self._is_held(visit, info, owner, why):
            return
        if tracked.on_hold:
            # The release has raised the epoch. With the one from before it, a control plane that
            # was outbid could have the same after a restart.
            self._lease.confirm()
        tracked.on_hold = None
        if going:
            self._give_back(visit, self._store.policies.target(database.uid), owner)
            return
        before = self._status(visit)
        if before.owner == owner:
            self._find_other(visit, before)
        module = module_of(before, info)
        enrolled = _enrolled(tracked.node, before, replace(visit.seen, module=module))
        visit.ready = before.journal == "ok" and before.owner in ("", owner)
        if before.generation and before.owner == owner:
            visit.seen = enrolled
        self._require_peers(visit, database, before, info, enrolled)
        self._write(visit, before, owner, enrolled, info)

    def _without_policy(self, visit: Observation, info: NodeInfo) -> None:
        """A Sentinel has no policy; an alias has that of its server."""
        target = self._store.policies.target(visit.tracked.database.uid)
        first = self._server_behind(visit.tracked, info)
        module, visit.ready = (first.seen.module, first.ready) if first else ("", False)
        held = replace(with_policy(visit.seen, target, True), module=module)
        visit.seen = visit.tracked.node.with_certificate(held)
        visit.detached = True

    def _server_behind(self, tracked: TrackedNode, info: NodeInfo) -> TrackedNode | None:
        """The server that an alias is a second name of."""
        nodes = self._fleet.of(tracked.database.uid).values()
        same = (one for one in nodes if one.info and one.info.run == info.run)
        return next((one for one in same if tracked.is_alias and not one.is_alias), None)

    def _write(
        self, visit: Observation, before: Status, owner: str, enrolled: Seen, info: NodeInfo
    ) -> None:
        """Unless it holds what only a later state of our database can have given it."""
        tracked, hold, was_ahead = visit.tracked, visit.hold, False
        try:
            if hold and not permits(hold, before):
                raise Ahead
            self._bring(visit, before, owner, enrolled, None if hold else tracked.ours)
        except Ahead:
            if self._is_held(visit, info, owner, hold.why if hold else OLDER):
                return
            self._bring(visit, before, owner, enrolled, None)
            was_ahead = True
        if hold or was_ahead:
            self._holding.end(tracked)

    def _bring(
        self, visit: Observation, before: Status, owner: str, enrolled: Seen, ours: bool | None
    ) -> None:
        """See `reconcile` for `ours`."""
        tracked, uid = visit.tracked, visit.tracked.database.uid
        held = tracked.held
        if went_back(held, before, owner):
            note(self._store, tracked, "node_went_back", seen_generation=held.generation,
                 generation=before.generation)  # fmt: skip
        status, drift = reconcile(
            self._store, uid, owner, tracked.node, self._lease, before, held, ours
        )
        tracked.ours = True
        if drift:
            note(self._store, tracked, "node_drift", **drift)
        target = self._store.policies.target(uid)
        in_step = held.is_of(status) and held.has(target)
        detail, error = judge_trust(visit.seen.detail, status.trust)
        visit.unverified, visit.untaken = status.unverified, status.untaken
        if status.certificate != "ok" and not status.next_key:
            error = error or f"CERTIFICATE {status.certificate}"
        seen = with_policy(enrolled, status, in_step)
        seen = replace(seen, detail=detail, refused=held.refused)
        visit.seen = with_error(seen, error, in_step)

    def _require_peers(
        self, visit: Observation, database: Database, status: Status, info: NodeInfo,
        enrolled: Seen,
    ) -> None:  # fmt: skip
        """Raises NodeError where enforcement, which has yet to begin there, would cut off peers."""
        known = self._fleet.of(database.uid)
        asked = database.refuses and not database.allow_unbound_peers
        if not asked or status.enforce == "on":
            return
        names = sorted(info.names - {visit.seen.address})
        unbound = [one for one in names if one not in known or not known[one].bound]
        if not unbound:
            return
        if visit.ready and all(one in known and known[one].ready for one in unbound):
            visit.seen = enrolled
        why = ", ".join(f"{one} ({_why_unbound(known.get(one))})" for one in unbound)
        raise NodeError("PEERS", f"{why}: {UNBOUND}")

    def _is_held(self, visit: Observation, info: NodeInfo, owner: str, why: str) -> bool:
        """Sends nothing, and looks: what a release would change there is the node's error. False
        where nobody has to release it, for it holds nothing that we do not know."""
        tracked, status = visit.tracked, self._status(visit)
        check_owner(self._store, status, owner)
        if self._holding.is_behind(tracked, visit.hold, status):
            self._holding.end(tracked)
            return False
        self._holding.look(tracked, visit.hold, status, why)
        if status.generation:
            key = tracked.node.key()
            visit.seen = replace(visit.seen, module=module_of(status, info), key=key)
        self._holding.check(tracked, why)
        visit.seen = with_policy(visit.seen, status, True)
        return bool(self._store.settings.cluster().hold)

    def _find_other(self, visit: Observation, status: Status) -> None:
        """An epoch that is not ours, nor of another process on this database, on a node whose
        policy is ours: another control plane has our identity. The control plane that is outbid
        stops there until an operator releases it; a node that lies about its epoch costs only
        itself."""
        tracked = visit.tracked
        if status.epoch <= self._lease.highest:
            return
        self._lease.confirm()
        if status.epoch <= self._lease.highest:
            return
        was_outbid = visit.seen.outbid > 0
        outbid = tracked.ours or was_outbid
        if not was_outbid and status.epoch > tracked.outbid:
            why = OUTBID if outbid else BEFORE
            note(self._store, tracked, "other_control_plane", epoch=status.epoch, description=why)
        tracked.outbid = status.epoch
        if outbid:
            # Kept with the node: its error may be another one when this process ends, and the next
            # process must not take the node back.
            visit.seen = replace(visit.seen, outbid=status.epoch)
            raise NodeError(TWICE, OUTBID)

    def _status(self, visit: Observation) -> Status:
        """A node without the module is reported once as an event, and its key admits nobody."""
        tracked, before = visit.tracked, visit.seen.error
        try:
            return tracked.node.status()
        except NodeError as error:
            if error.code != MODULE:
                raise
            if not before.startswith(MODULE):
                note(self._store, tracked, "node_without_module")
            key, nothing = tracked.node.key(), Target(0, "")
            held = with_policy(visit.seen, nothing, False)
            visit.seen = replace(held, module="", key=key, next_key="", client_key="")
            nodes = self._fleet.of(tracked.database.uid).values()
            same = [one.seen.address for one in nodes if one.seen.is_peer and one.seen.key == key]
            if not same:
                raise
            raise NodeError(MODULE, f"{WITHOUT}; {SHARED.format(', '.join(same))}") from error

    def _give_back(self, visit: Observation, target: Target, owner: str) -> None:
        """A node without the module holds nothing of ours. What only a node that nobody has seen
        knows as revoked is kept."""
        held: Status | Target = Target(0, "")
        visit.detached, hold = True, visit.hold
        try:
            if hold and hold.state == "unseen":
                self._holding.look_last(visit.tracked, hold, self._status(visit), owner)
            held = detach(visit.tracked.node, target, owner, self._lease)
            visit.detached = held.owner != owner
        except NodeError as error:
            if error.code != MODULE:
                visit.detached = False
                raise
        if hold and visit.detached:
            self._holding.end(visit.tracked)
        visit.seen = with_policy(visit.seen, held, visit.detached)


def module_of(status: Status, info: NodeInfo) -> str:
    """Its version and its protocol; a module that says neither has only what the server counts."""
    return written(status.version, status.protocol) if status.version else info.module


def _enrolled(node: Node, status: Status, seen: Seen) -> Seen:
    """With the keys by which the other nodes are to know it: the key that it shows, and the key
    that it is about to show, or says that it shows where we have not seen that yet."""
    node.come_again(status.key)
    seen = node.with_certificate(seen)
    more = status.next_key or (status.key if status.key != seen.key else "")
    return replace(seen, next_key=more or "", client_key=status.client_key or "")


def _why_unbound(tracked: TrackedNode | None) -> str:
    return (tracked.seen.error or "not in step yet") if tracked else "not reached yet"


# ---- What an operator is told --------------------------------------------------------------------

SHARED = "its key is also that of {}, for whose sake the others let it in: give it a key of its own"
OUTBID = (
    "another control plane with this one's identity, such as one that was restored from its "
    "backup, writes to this server, and this one does not any more: stop one of them; "
    "redis-certauth release --force is for the control plane that stays"
)
BEFORE = (
    "a control plane with this one's identity, and not on this one's database, has written to this "
    "server; where it still runs, it stops now"
)
SHUT = "a new connection fails, as a client's does, and changes arrive over the open one"
REFUSED = (
    "the master refuses it where the key that it shows there is not known (redis-certauth node "
    "enrol --db, or node_keys); the logs of both say more"
)
KNOCKING = (
    "a server of yours has to be made known first (redis-certauth node enrol --db, or node_keys); "
    "of anybody else, find out who it is"
)
NAMED = (
    "keys of node_keys let nobody in until {} was seen to run the module with the policy: "
    "they may be its own, and it would get all data; see to it, or take it out of the endpoints"
)
UNHEARD = (
    "it answers here, but the others do not hear it at the cluster bus, where they refuse a key "
    "that is not known or is revoked; the logs of both say more"
)
FORGED = (
    "this Sentinel tells clients that {} is the master, which is none of the database's servers: "
    "it is not followed; see to the Sentinel, or name that server as an endpoint"
)
OPEN = (
    "this Sentinel lets anybody whose certificate it trusts administrate it as '{}', and so send "
    "clients to another master: redis-certauth sentinel enrol"
)
UNBOUND = (
    "a peer of this node that would be cut off, for it was not seen to hold the policy; "
    "node_addresses says how it is reached, allow_unbound_peers enforces without it"
)
