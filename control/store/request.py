"""What the request is that a thread works on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from control.store.kernel import Kernel


class Request:
    """Everything here concerns the calling thread only."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def enter(self) -> None:
        """Until `leave`, this thread reads the revision only now, and after its own changes. It
        sees changes of this process at once, and those of others within
        REVISION_MAX_AGE_SECONDS."""
        self._kernel.thread.revision = self._kernel.recent_revision()

    def age(self) -> float:
        """Seconds since what this thread reads was the latest for certain; 0 but where the
        database is away."""
        return self._kernel.thread.age

    def act_as(self, name: str, **origin: str) -> None:
        """Whom the event log names for what this thread changes, until `leave`, and where they are:
        address, serial, issuer."""
        given = {"username": name, **origin}
        actor = {f"originating_{key}": value for key, value in given.items() if value}
        self._kernel.thread.actor = actor

    def leave(self) -> None:
        """The request is done."""
        thread = self._kernel.thread
        thread.revision, thread.actor, thread.moved, thread.age = None, {}, {}, 0.0
        thread.unfinished = frozenset()

    def unfinished(self) -> frozenset[int]:
        """The databases of which the lines of users are still to be rendered, to the last, before
        what this request has changed is there."""
        return self._kernel.thread.unfinished

    def moved(self) -> Mapping[int, range]:
        """The databases whose servers are to follow what this request has changed, and the
        generations of the policy that it has made; the servers are to reach the last."""
        return self._kernel.thread.moved

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """What this thread writes meanwhile is checked as always, and rolled back; others wait for
        it no longer than for any change. What the thread reads stays as it is."""
        self._kernel.thread.forgets = True
        try:
            yield
        finally:
            self._kernel.thread.forgets = False

    @contextmanager
    def only_tried(self, tried: Callable[[int, str], bool]) -> Iterator[None]:
        """A change of this thread that brings ACL rules to a database, by its uid, or an ACL that
        no database grants (uid 0), raises Untried unless `tried` says that they were tried. Rules
        that a database has already stay."""
        self._kernel.thread.tried = tried
        try:
            yield
        finally:
            self._kernel.thread.tried = None
