"""How long PostgreSQL is waited for. SQLAlchemy and libpq would wait for ever, for a server that
hangs as for a lock that somebody holds."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

CONNECT_SECONDS = 5
SILENCE_SECONDS = 8.0  # without a byte from the server, for what takes no lock
LOCK_SECONDS = 15  # for a lock that another transaction holds: longer than most changes take
FILE_LOCK_SECONDS = 10.0  # the same, of SQLite's file
LOOK_SECONDS = 0.2  # between two looks at how long it is silent
POOL_SECONDS = 5.0  # for one of the pool's connections
# What a URL may say otherwise. TCP notices within 25 seconds that the other end is gone.
OPTIONS: Mapping[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
    "application_name": "redis-certauth",
}


def options_of(url: sa.URL) -> dict[str, Any]:
    """What a connection gets beside what its URL says."""
    return {name: value for name, value in OPTIONS.items() if name not in url.query}


def watch(engine: sa.Engine) -> None:
    """Has the connections of an engine give up on a server that is silent: they are closed then,
    and the statement ends in an OperationalError."""
    psycopg: Any = engine.dialect.loaded_dbapi  # which the extra `postgresql` installs

    class Connection(psycopg.Connection):  # type: ignore[misc]
        silence = SILENCE_SECONDS

        def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
            if options.get("timeout") is not None:  # its caller limits it
                return super().wait(gen, *arguments, **options)
            try:
                return super().wait(_limited(gen, self.silence), interval=LOOK_SECONDS)
            except Silent as error:
                self.pgconn.finish()
                raise psycopg.OperationalError(str(error)) from None

    def connect(_dialect: Any, _record: Any, words: Any, options: Any) -> Any:
        return Connection.connect(*words, **options)

    sa.event.listen(engine, "do_connect", connect)


@contextmanager
def for_locks(connection: sa.Connection) -> Iterator[None]:
    """Statements meanwhile may wait for locks."""
    _driver(connection).silence = LOCK_SECONDS + SILENCE_SECONDS
    try:
        yield
    finally:
        if not connection.closed and not connection.invalidated:
            _driver(connection).silence = SILENCE_SECONDS


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


class Silent(Exception):
    """The server has not sent a byte for too long."""


def _limited(gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """A generator of psycopg's, which yields what it waits for, and gets what is ready: 0 for
    nothing yet."""
    try:
        wanted, heard = next(gen), time.monotonic()
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() > heard + seconds:
                raise Silent(f"the server has not answered for {seconds:.0f} seconds")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
