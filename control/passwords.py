"""Passwords of the REST API: the only file that knows argon2."""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's parameters (19 MiB, 2 passes, 1 lane): 20 ms, measured. Two at once at most, so that wrong
# passwords cannot take all memory.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
SECONDS = 60.0
ENTRIES = 1024


def hash_password(password: str) -> str:
    """The argon2id hash to store."""
    return HASHER.hash(password)


class Passwords:
    """Checks passwords. One that was right is right for a minute more without argon2, as long as
    the stored hash is the same: what is remembered is a hash under a key that dies with the
    process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        _nobody()  # now, so that the first stranger's answer takes no longer than the second's
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(2)

    def check(self, stored: str, password: str) -> bool:
        """Whether `password` is the one of the hash. An empty `stored` (nobody, or a user without a
        password) takes as long as a wrong password: the time must not tell who exists."""
        mark = self._mark(stored, password)
        if stored and self._is_remembered(mark):
            return True
        with self._slots:
            right = _verify(stored or _nobody(), password) and bool(stored)
        if right:
            self._remember(mark)
        return right

    def _mark(self, stored: str, password: str) -> bytes:
        # A hash holds no NUL, so the two cannot be split in another way.
        text = f"{stored}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _is_remembered(self, mark: bytes) -> bool:
        with self._lock:
            return self._right.get(mark, 0) > time.monotonic()

    def _remember(self, mark: bytes) -> None:
        with self._lock:
            self._right[mark] = time.monotonic() + SECONDS
            self._right.move_to_end(mark)
            while len(self._right) > ENTRIES:
                self._right.popitem(last=False)


@cache
def _nobody() -> str:
    """The hash of a password that nobody has."""
    return hash_password(secrets.token_hex())


def _verify(stored: str, password: str) -> bool:
    try:
        return HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
