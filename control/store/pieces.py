"""Changes that concern the lines of many users, such as one of an ACL that all have.

The rows change in one transaction, which also notes (`renderings`) that the lines of all users of a
database are to be rendered again. The lines then follow in transactions of some thousand users, in
the order of their uids, each as generations of their own: between two of them others write. First
what takes rights away from any of them, and then, from the first user again, what gives. The
request that made the change does them before it answers; where it was cut off, the sync worker goes
on from the last piece, in whichever process. A second change begins the pieces again.
"""

import logging
import time

from control.errors import Refusal
from control.store.errors import UNAVAILABLE_ERRORS
from control.store.kernel import Kernel
from control.store.lines import PIECE_USERS, all_databases, read_target, render_piece
from control.store.transaction import state_of

log = logging.getLogger(__name__)

PIECE_SECONDS = 0.04  # that others wait for a piece
LEAST, MOST = 500, 5_000  # users of a piece


def finish_lines(kernel: Kernel) -> None:
    """Renders what the last changes of this thread have left. In a dry run nothing is left. Where
    that fails, the changes are made nevertheless, and not in force: Request.unfinished tells of
    which databases, and the sync worker goes on."""
    uids = kernel.thread.unfinished
    if not uids or kernel.thread.forgets:
        return
    try:
        _do_pieces(kernel, uids)
        _count_all(kernel, uids)
        kernel.thread.unfinished = frozenset()
    except (Refusal, *UNAVAILABLE_ERRORS) as error:
        log.warning("the lines of many users are left to the sync worker: %s", error)


def _do_pieces(kernel: Kernel, uids: frozenset[int]) -> None:
    users = PIECE_USERS
    while True:
        begun = time.monotonic()
        left = do_piece(kernel, users)
        if not uids & left:
            return
        users = int(users * PIECE_SECONDS / max(time.monotonic() - begun, 0.001))
        users = min(MOST, max(LEAST, users))


def do_piece(kernel: Kernel, users: int = PIECE_USERS) -> set[int]:
    """Does one piece. Returns the databases where something is left to do."""
    with kernel.change(()) as connection:
        state_of(connection).rules = None  # they were tried before the change
        return render_piece(connection, users)


def _count_all(kernel: Kernel, uids: frozenset[int]) -> None:
    """Other threads may have done pieces: the generations that this one waits for are all."""
    with kernel.read() as connection:
        there = uids & set(all_databases(connection))  # others are gone meanwhile
        last = {uid: read_target(connection, uid).generation for uid in there}
    moved = dict(kernel.thread.moved)
    for uid, generation in last.items():
        moved[uid] = range(moved[uid].start, generation + 1)
    kernel.thread.moved = moved
