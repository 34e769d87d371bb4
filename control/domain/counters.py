"""What is counted in memory: wrong passwords that the database does not take, and events of
strangers, of which only some are kept."""

import threading
import time

from control.records import Cluster, User

# Refused certificates and tokens cost a stranger nothing, so only so many are written to the event
# log: these at once, then one a second. Wrong passwords are slowed down by argon2.
BURST = 20


class Uncounted:
    """Wrong passwords while the database takes nothing: counted in memory, for this process."""

    def __init__(self) -> None:
        self._wrong: dict[int, int] = {}  # the uid of a user → how many
        self._lock = threading.Lock()

    def add(self, uid: int) -> None:
        """One more wrong password of the user with this uid."""
        with self._lock:
            self._wrong[uid] = self._wrong.get(uid, 0) + 1

    def locks(self, user: User, cluster: Cluster) -> bool:
        """Whether these alone are as many as the cluster's `login_lockout_threshold` (0: never)."""
        return 0 < cluster.login_lockout_threshold <= self._wrong.get(user.uid, 0)

    def clear(self) -> None:
        """The database takes wrong passwords again, and counts them itself."""
        with self._lock:
            self._wrong = {}


class Trickle:
    """BURST drops at once, then one a second."""

    def __init__(self) -> None:
        self._drops, self._filled = float(BURST), time.monotonic()
        self._lock = threading.Lock()

    def drop(self) -> bool:
        """Whether one more event may be written now; if so, it is counted."""
        with self._lock:
            now = time.monotonic()
            self._drops = min(float(BURST), self._drops + now - self._filled)
            self._filled = now
            if self._drops < 1:
                return False
            self._drops -= 1
            return True
