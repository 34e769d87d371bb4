"""The control plane's state: the only package that knows SQL. Other packages import from here only.

SQLite by default (WAL, one writer at a time by BEGIN IMMEDIATE), PostgreSQL by its URL. Every
change is one transaction that holds the rows and, for each database whose policy they change, its
next generation: the lines themselves (`policy_lines`), what was added and removed (`policy_log`),
and the new digest. Nothing is written where the lines stay the same.

Each transaction that changes rows also counts up `cluster.revision`, whose row is the lock that
serialises writers on PostgreSQL. Readers keep what they read in memory until that number changes.
They read the number for every request, or a few milliseconds before it, so that they see the
changes of other processes on the same database.

Failed logins are counted, and written to the event log, without a new revision: strangers cannot
make every process read everything again.

A small kernel (kernel.py: connections, transactions, revision, cache, notifications) is shared by
one service for each domain. Below the services: schema, statements, rows (to records and back),
checks, lines (from rows to policy lines), revoking, trials. Each file imports those below it only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from control.reports import NewRules
from control.store.actions import Actions
from control.store.backup import Restore, dump, dump_tables, load, look
from control.store.bulk import BulkRefused
from control.store.crls import Crls
from control.store.engine import OneConnection, Pool, allow_long_idle, without_password
from control.store.errors import UNAVAILABLE_ERRORS, Away, Replaced, Unfit, Untried
from control.store.events import Events
from control.store.holds import NOT_REACHED, Holds
from control.store.inventory import Inventory, InventoryFilter, revoking_lines
from control.store.issuers import Issuers
from control.store.kernel import Kernel
from control.store.lease import Lease
from control.store.lines import POLICY_LOG_GENERATIONS
from control.store.locks import Locks
from control.store.logins import Logins
from control.store.nodes import Nodes
from control.store.objects import Objects
from control.store.outage import first_line, is_locked
from control.store.policies import Policies
from control.store.request import Request
from control.store.responders import Question, Responders
from control.store.revocations import Revocations
from control.store.schema import Record
from control.store.settings import Settings
from control.store.sorting import CERTIFICATE_SORTS, SORTS
from control.store.trust_sources import TrustSources
from control.store.versions import check_version, find_version, known_versions, migrate

__all__ = [
    "CERTIFICATE_SORTS",
    "NOT_REACHED",
    "POLICY_LOG_GENERATIONS",
    "SORTS",
    "UNAVAILABLE_ERRORS",
    "Away",
    "BulkRefused",
    "InventoryFilter",
    "Question",
    "Record",
    "Replaced",
    "Restore",
    "Stage",
    "Store",
    "Unfit",
    "Untried",
    "dump",
    "first_line",
    "is_locked",
    "load",
    "look",
    "revoking_lines",
    "without_password",
]

Known = TypeVar("Known")


class Store:
    """Opens the database at `url` (sqlite:///path or postgresql://…). One for each process; safe to
    use from any thread.

    Makes the tables where there are none (`make`), brings them up to date, and renders the policy
    lines again, which an older version may have written otherwise (`settle`). Without `settle`, a
    database of another version is refused, and opening it writes nothing. Raises Unfit, also where
    the database is of a newer version or of something else."""

    def __init__(self, url: str, make: bool = True, settle: bool = True) -> None:
        pool = Pool(url, make)
        self._close = pool.close
        self._compose(Kernel(pool))
        try:
            with pool.read() as connection:
                found = find_version(connection)
                check_version(found, make, settle)
            if settle:
                if found != known_versions()[0]:
                    with pool.begin() as connection:
                        allow_long_idle(connection)
                        migrate(connection, "head")
                if self.revision():
                    self.policies.refresh()
        except BaseException:
            pool.close()
            raise

    def _compose(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.request = Request(kernel)
        self.settings = Settings(kernel)
        self.objects = Objects(kernel)
        self.policies = Policies(kernel)
        self.revocations = Revocations(kernel)
        self.locks = Locks(kernel)
        self.crls = Crls(kernel)
        self.inventory = Inventory(kernel)
        self.issuers = Issuers(kernel)
        self.trust_sources = TrustSources(kernel)
        self.responders = Responders(kernel)
        self.logins = Logins(kernel)
        self.events = Events(kernel)
        self.actions = Actions(kernel)
        self.nodes = Nodes(kernel)
        self.lease = Lease(kernel)
        self.holds = Holds(kernel)

    def close(self) -> None:
        """Ends its threads and closes its connections; the store is of no use after that."""
        self._kernel.stop()
        self._close()

    def listen(self, changed: Callable[[], None]) -> None:
        """Calls `changed` after each committed change of this process, in the thread that made it,
        and after those of other processes, as soon as PostgreSQL tells of them."""
        self._kernel.listen(changed)

    def revision(self) -> int:
        """Counts the changes; 0 before the cluster is made."""
        return self._kernel.revision()

    def recall(self, key: object, make: Callable[[], Known]) -> Known:
        """What `make` returns, remembered until the next change. An empty answer is not remembered:
        strangers may ask for anything."""
        return self._kernel.cache.recall(key, make)

    def dump(self) -> dict[str, Any]:
        """Every row, as JSON values, of one moment: for `load`."""
        with self._kernel.read() as connection:
            return dump_tables(connection)

    @contextmanager
    def rehearse(self) -> Iterator["Stage"]:
        """A store that is like this one now, and forgets its changes at the end. For one thread. On
        PostgreSQL everybody else who wants to write waits meanwhile."""
        with self._kernel.rehearsal() as connection:
            allow_long_idle(connection)
            yield Stage(OneConnection(connection))


class Stage(Store):
    """See Store.rehearse. `untried`: the ACL rules that are to be tried before the changes."""

    def __init__(self, connection: OneConnection) -> None:
        self.untried: list[NewRules] = []
        self._compose(Kernel(connection, self.untried))
