"""For the operator: takes over a node that another control plane manages, and says which nodes are
ahead of a restored backup."""

from collections.abc import Iterator

from control.errors import missing
from control.nodes.client import Identity, Node, NodeError
from control.nodes.plan import render_difference
from control.nodes.reconcile import check_owner
from control.nodes.tracked import access_of
from control.nodes.waiting import servers
from control.records import Database, Target
from control.reports import Node as Seen
from control.store import Store


def take(store: Store, identity: Identity, authorities: str, address: str) -> str:
    """Makes a node's policy ours as it is, so that the sync worker brings it to what it is to be:
    who may log in does not change by that. What was done, for a person. Raises NodeError, also
    where it belongs to a database of ours; Refusal where no database has this node."""
    database, seen = _registered(store, address)
    owner = f"{store.settings.cluster().identifier}/{database.uid}"
    node = Node(access_of(database, seen, authorities), identity)
    try:
        status = node.status()
        if status.owner in ("", owner):
            return f"{address} is the control plane's already"
        cluster, _, uid = status.owner.rpartition("/")
        if cluster == store.settings.cluster().identifier and uid in map(
            str, store.policies.targets()
        ):
            check_owner(store, status, owner)
        target = store.policies.target(database.uid)
        at = Target(min(status.generation, max(target.generation, 1)), status.digest)
        node.load(at, node.show(), owner, status.epoch, force=True)
    finally:
        node.close()
    store.events.note("node_taken", "WARNING", bdb_uid=database.uid, bdb_name=database.name,
               address=address, previous_owner=status.owner)  # fmt: skip
    return f"{address} belonged to '{status.owner}', and is a node of '{database.name}' now"


def _registered(store: Store, address: str) -> tuple[Database, Seen]:
    for database in store.objects.all(Database):
        for seen in servers(store, database):
            if seen.address == address:
                return database, seen
    raise missing(f"database with the node {address}: register it first")


def ahead(
    store: Store, identity: Identity, authorities: str
) -> Iterator[tuple[str, Database, str]]:
    """Of each node: its address, and what it holds that this store would take back, or why that is
    not known; for a person."""
    for database in store.objects.all(Database):
        owner = f"{store.settings.cluster().identifier}/{database.uid}"
        for seen in servers(store, database):
            if seen.role == "sentinel":
                continue
            node = Node(access_of(database, seen, authorities), identity)
            try:
                status = node.status()
                check_owner(store, status, owner)
                text = render_difference(status, *store.policies.whole(database.uid), node.show())
            except NodeError as error:
                text = str(error)
            finally:
                node.close()
            yield seen.address, database, text or "it holds what the backup says"
