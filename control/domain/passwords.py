"""Passwords of the REST API: their hashes, what they must be like, when they stop counting. The
only file that knows argon2."""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from control.errors import invalid
from control.records import Cluster, Password, User

# OWASP's parameters (19 MiB, 2 passes, 1 lane): 20 ms, measured. In two threads of their own, so
# that wrong passwords, of anybody, cannot take all memory: what a thread has freed glibc keeps for
# it, and the 16 threads that answer requests kept 19 MiB each (measured: 88 MiB grew to 323).
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
HASHING = ThreadPoolExecutor(2, thread_name_prefix="argon2")
SECONDS = 60.0
ENTRIES = 1024
PASSWORDS = 5  # of one user: each is 20 ms of a wrong login
DAY = 86400


def hash_password(password: str) -> str:
    """The argon2id hash to store."""
    return HASHING.submit(HASHER.hash, password).result()


def new_password(password: str) -> Password:
    """A password as it is kept, issued now."""
    return Password(hash_password(password), int(time.time()))


def check_new(password: str, user: User, cluster: Cluster) -> None:
    """Raises Refusal 400 where the cluster's rules do not allow this password for a user, or the
    user has it already."""
    if cluster.password_complexity and (fault := _fault(password, user, cluster)):
        raise invalid("password_not_complex", f"password: {fault}")
    if any(_verify(one.hash, password) for one in user.passwords):
        text = "password: this is the user's password already"
        raise invalid("new_password_same_as_current", text)


def _fault(password: str, user: User, cluster: Cluster) -> str:
    """What Redis Enterprise's complexity rules find wrong, "" where nothing."""
    if len(password) < cluster.password_min_length:
        return f"it needs at least {cluster.password_min_length} characters"
    kinds = {
        "an upper-case letter": str.isupper,
        "a lower-case letter": str.islower,
        "a digit": str.isdigit,
        "a special character": lambda one: not one.isalnum(),
    }
    for name, is_kind in kinds.items():
        if not any(map(is_kind, password)):
            return f"it needs {name}"
    email, folded = user.email.lower(), password.lower()
    if email and (email in folded or email[::-1] in folded):
        return "it must not contain the e-mail address, forwards or backwards"
    if any(one * 4 in password for one in set(password)):
        return "it must not repeat a character more than three times in a row"
    return ""


def is_expired(password: Password, cluster: Cluster, now: float) -> bool:
    """Whether a password is older than `password_expiration_duration` days at `now` (seconds since
    1970)."""
    days = cluster.password_expiration_duration
    return bool(days) and now >= password.issued + days * DAY


def is_locked(user: User, cluster: Cluster, now: float) -> bool:
    """Whether too many wrong passwords keep out even the right one."""
    if not user.locked or not cluster.login_lockout_threshold:
        return False
    duration = cluster.login_lockout_duration
    return not duration or now < user.locked + duration


def status(user: User, cluster: Cluster) -> Literal["active", "locked", "password_expired"]:
    """As answers show it. Only passwords lock and expire."""
    now = time.time()
    if is_locked(user, cluster, now):
        return "locked"
    expired = user.passwords and all(is_expired(one, cluster, now) for one in user.passwords)
    return "password_expired" if expired else "active"


class Passwords:
    """Checks passwords. One that was right is right for a minute more without argon2, as long as
    the stored hash is the same: what is remembered is a hash under a key that dies with the
    process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        _nobody()  # now, so that the first stranger's answer takes no longer than the second's
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def remembered(self, stored: Sequence[Password], password: str) -> Password | None:
        """The one of `stored` that was right a moment ago."""
        with self._lock:
            now = time.monotonic()
            marks = ((self._mark(one.hash, password), one) for one in stored)
            return next((one for mark, one in marks if self._right.get(mark, 0) > now), None)

    def check(self, stored: Sequence[Password], password: str) -> Password | None:
        """The one of `stored` that `password` is. None of them (nobody, or a user without a
        password) takes as long as a wrong one: the time must not tell who exists."""
        if not stored:
            _verify(_nobody(), password)
        found = next((one for one in stored if _verify(one.hash, password)), None)
        if found:
            self._remember(self._mark(found.hash, password))
        return found

    def _mark(self, stored: str, password: str) -> bytes:
        # A hash holds no NUL, so the two cannot be split in another way.
        text = f"{stored}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

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
        return HASHING.submit(HASHER.verify, stored, password).result()
    except (VerificationError, InvalidHashError):
        return False
