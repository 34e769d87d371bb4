"""What a transaction carries beside its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from control.records import EventDetail


@dataclass
class TransactionState:
    """`actor`: who makes the change, as the event log names them. `moved`: by the uid of a
    database, the generations of its policy that the transaction has made. `rules`: by the uid of a
    database, the ACL rules that the change brings there; None where nobody asks which.
    `unfinished`: databases of which the lines of most users are rendered after the transaction."""

    actor: Mapping[str, EventDetail]
    moved: dict[int, range] = field(default_factory=dict)
    rules: dict[int, set[str]] | None = None
    unfinished: set[int] = field(default_factory=set)


def begin_state(connection: sa.Connection, actor: Mapping[str, EventDetail]) -> None:
    """Gives a transaction that begins a new state."""
    connection.info["transaction"] = TransactionState(actor)


def state_of(connection: sa.Connection) -> TransactionState:
    """The state of the transaction on this connection."""
    state: TransactionState = connection.info["transaction"]
    return state
