"""A server with the module, as the administrator of its policy sees it."""

import base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer

Start = Callable[..., RedisServer]
# Relative to the server's own folder, where it starts.
JOURNAL = ("journal", "journal")


# ---- Lines ---------------------------------------------------------------------------------------


def authority(cert: Cert, kind: str = "ca") -> str:
    return f"{kind} {base64.b64encode(cert.der).decode()}"


def bind(cert: Cert, user: str) -> str:
    return f"bind key {cert.key_id} {user}"


ALICE = "user alice on ~* &* +@all"


def usual(pki: Pki) -> list[str]:
    """Enforced: alice's certificate is alice, and nobody else's is anybody."""
    return ["set enforce on", authority(pki.ca), bind(pki.alice, "alice"), ALICE]


def bootstrap(folder: Path, *lines: str) -> tuple[str, ...]:
    """The arguments of certauth.so with a bootstrap file of these lines."""
    file = folder / "bootstrap"
    file.write_text("".join(f"{line}\n" for line in lines))
    return (*JOURNAL, "bootstrap", str(file))


# ---- CERTAUTH.POLICY -----------------------------------------------------------------------------


def mapping(reply: Any) -> dict[str, Any]:
    """A map of RESP3, or of RESP2, where it is a list."""
    return (
        dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    )


def execute(client: Any, *words: Any) -> Any:
    """Sends a command; redis-py gives this method no types."""
    return client.execute_command(*words)


def load(
    client: redis.Redis, generation: int | str, lines: Iterable[str], *options: str
) -> dict[str, Any]:
    words = ("CERTAUTH.POLICY", "LOAD", str(generation), *options, "LINES", *lines)
    return mapping(execute(client, *words))


def patch(
    client: redis.Redis,
    base: int | str,
    generation: int | str,
    changes: Iterable[str],
    *options: str,
) -> dict[str, Any]:
    words = ("CERTAUTH.POLICY", "PATCH", str(base), str(generation), *options, "LINES", *changes)
    return mapping(execute(client, *words))


def status(client: redis.Redis) -> dict[str, Any]:
    return mapping(execute(client, "CERTAUTH.POLICY", "STATUS"))


def show(client: redis.Redis) -> list[str]:
    lines: list[str] = []
    cursor = None
    while cursor != "0":
        page = ("SHOW", "COUNT", 10_000, "CURSOR", cursor or "0")
        cursor, found = execute(client, "CERTAUTH.POLICY", *page)
        lines += found
    return lines


def enrolled(
    start: Start, kind: Server, pki: Pki, *more: str, owner: str = "", **options: Any
) -> RedisServer:
    """A running server with the usual policy and `more` lines, as generation 1."""
    server = start(kind, module=options.pop("module", JOURNAL), **options)
    load(server.admin(), 1, [*usual(pki), *more], *(["OWNER", owner] if owner else []))
    return server


def journal(server: RedisServer) -> Path:
    return server.directory / "journal" / "policy"


@contextmanager
def nothing_changes(
    server: RedisServer, pki: Pki, admin: redis.Redis | None = None
) -> Iterator[None]:
    """The policy in force, the journal and alice's way in are afterwards what they were."""
    admin = admin or server.admin()

    def seen() -> tuple[Any, ...]:
        now = {name: value for name, value in status(admin).items() if name != "sessions"}
        text = journal(server).read_bytes() if journal(server).exists() else None
        return now, sorted(show(admin)), sorted(admin.acl_list()), text

    before = seen()
    yield
    for was, now in zip(before, seen(), strict=True):
        assert now == was, (now, was)
    assert who(server, pki.alice) == "alice"


def refused(pattern: str) -> Any:
    """An error reply that starts so."""
    return pytest.raises(redis.ResponseError, match=f"^{pattern}")


# ---- Clients -------------------------------------------------------------------------------------


def who(server: RedisServer, cert: Cert | None = None) -> str | None:
    """Which user a new connection is, "" where it has to log in first, or None where the server
    ends it."""
    try:
        with server.tls(cert).connect() as connection:
            return str(connection.command("ACL", "WHOAMI").decode())
    except OSError:
        return None
    except redis.ResponseError as error:
        if str(error).startswith("NOAUTH"):
            return ""
        # A client that is refused, or whose session is over, may do nothing until it is closed.
        if str(error).startswith("NOPERM") or "certauth:session-is-over" in str(error):
            return None
        raise


def reasons(admin: redis.Redis) -> dict[str, int]:
    """How often each reason refused a client."""
    prefix = "certauth_refused_"
    info: dict[str, Any] = admin.info("certauth")
    return {name.removeprefix(prefix): n for name, n in info.items() if name.startswith(prefix)}


def turned_away(server: RedisServer, cert: Cert | None, admin: redis.Redis | None = None) -> str:
    """The reason for which a new connection of `cert` is refused. Fails where it is not."""
    admin = admin or server.admin()
    before = reasons(admin)
    assert who(server, cert) is None
    new = [reason for reason, count in reasons(admin).items() if count != before[reason]]
    assert len(new) == 1, new
    return new[0]


def is_open(client: redis.Redis) -> bool:
    """Whether the connection of a `single_connection_client` is still there. A closed one is not
    opened again by asking."""
    connection = client.connection
    assert connection is not None
    try:
        if connection._sock is None:
            return False
        connection.send_command("PING")
        connection.read_response()
    except redis.ResponseError:
        return True
    except (redis.ConnectionError, OSError):
        return False
    return True


def rules(admin: redis.Redis, user: str) -> str | None:
    """What ACL LIST tells of a user; None where there is no such user."""
    for line in admin.acl_list():
        if line.split()[1] == user:
            return str(line.split(maxsplit=2)[2])
    return None


def keep_configuration(server: RedisServer) -> None:
    """The next start reads the file that CONFIG REWRITE wrote."""
    text = server.conf.read_text()
    server.lines = text.splitlines  # type: ignore[method-assign]
