"""What the store raises besides Refusal."""

import sqlite3

import sqlalchemy as sa

from control.reports import NewRules


class Away(Exception):
    """The database was asked a moment ago, and did not answer: why."""


class Locked(Away):
    """Somebody else writes there, for longer than anybody waits: nothing was written."""


# Raised where the database cannot be reached, read or written.
UNAVAILABLE_ERRORS = (
    Away,
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    sa.exc.TimeoutError,
    sqlite3.OperationalError,
)


class Replaced(Exception):
    """Another process holds the lease now, or may take it at any moment: nothing was written."""

    def __init__(self) -> None:
        super().__init__("another control plane looks after the servers")


class Untried(Exception):
    """A change brings ACL rules that have not been tried on the servers: nothing was written."""

    def __init__(self, rules: tuple[NewRules, ...]) -> None:
        super().__init__("new ACL rules")
        self.rules = rules


class Unfit(Exception):
    """Why a database, or a backup, cannot be used: a sentence."""
