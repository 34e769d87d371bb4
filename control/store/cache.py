"""What was read, remembered until the next change."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from control.records import Database, RedisAcl, Role, User

Known = TypeVar("Known")

CACHE_ENTRIES = 2_000
# Keys whose values do not depend on any one user.
INDEPENDENT_OF_USERS = (
    "cluster",
    "roles",
    "certificates",
    "trust",
    "trusted",
    "revocations",
    "authorities",
    "locks",
    "holds",
)


class Cache:
    """Answers by key, for one revision."""

    def __init__(self, revision: Callable[[], int]) -> None:
        self._revision = revision
        self._memory: tuple[int, dict[Any, Any]] = (-1, {})

    def __len__(self) -> int:
        return len(self._memory[1])

    def recall(self, key: object, make: Callable[[], Known]) -> Known:
        """What `make` returns, remembered until the next change. An empty answer is not remembered:
        strangers may ask for anything. What may be empty and is asked for while the database is
        away is a tuple of one."""
        revision, known = self._memory
        now = self._revision()
        if revision < now or len(known) > CACHE_ENTRIES:
            known = {}
            self._memory = (now, known)
        if key in known:
            remembered: Known = known[key]
            return remembered
        made = make()
        if made:
            # Into the memory of the revision that was read first: a change in between starts a new
            # memory, so that it never holds anything old.
            known[key] = made
        return made

    def clear(self) -> None:
        """Forgets everything, as what it was read from is not there any more."""
        self._memory = (-1, {})

    def keep(self, revision: int, names: Sequence[str], but: int) -> None:
        """Takes over to `revision`, from the one before it, what stays true when a user with these
        names is made, or the user with the uid `but` changes in what concerns only itself."""
        before, known = self._memory
        if before == revision - 1:
            found = list(known.items())
            left = {key: value for key, value in found if _outlives(key, value, names, but)}
            self._memory = (revision, left)


def _outlives(key: Any, value: Any, names: Sequence[str], but: int) -> bool:
    if key in INDEPENDENT_OF_USERS:
        return True
    what, which = key[0], key[1] if len(key) > 1 else None
    if what is User or what == "login":
        return value.uid != but and which not in names
    return what in (Role, RedisAcl, Database, "rest policy")
