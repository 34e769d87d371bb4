"""The nodes: one Redis or Valkey server each, spoken to over mutual TLS. Only this file knows
`redis`."""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class NodeError(Exception):
    """A node that cannot be reached (`code` is UNREACHABLE), or what it answers: `code` is the
    first word of its error, such as LINES, OWNED, BASE or BUSY."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Access:
    """How a node is reached: its address, the CA of its certificate and the name expected in it,
    and the certificate that we show. All are paths of PEM files but the first two and the last."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    server_name: str | None = None


@dataclass(frozen=True)
class Status:
    """What CERTAUTH.POLICY STATUS answers. `generation` 0: the node never had a policy."""

    generation: int
    digest: str
    lines: int
    owner: str
    epoch: int
    enforce: str
    journal: str
    trust: str


def _code(text: str) -> NodeError:
    code, _, rest = text.partition(" ")
    return NodeError(code, rest) if code.isupper() else NodeError("ERR", text)


class Node:
    """One connection to a node, opened at the first call. Calls raise NodeError."""

    def __init__(self, access: Access, timeout: float = 5) -> None:
        self._client: Any = redis.Redis(
            host=access.host,
            port=access.port,
            ssl=True,
            ssl_ca_certs=str(access.ca),
            ssl_certfile=str(access.certificate),
            ssl_keyfile=str(access.key),
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            # A retry of its own would hide a refusal, and count it several times on the node.
            retry=Retry(NoBackoff(), 0),
        )

    def close(self) -> None:
        self._client.close()

    def command(self, *words: str | int) -> Any:
        """One command's reply, maps as dicts."""
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as error:
            raise _code(str(error)) from error
        except redis.RedisError as error:
            raise NodeError("UNREACHABLE", str(error)) from error

    def status(self) -> Status:
        found = self.command("CERTAUTH.POLICY", "STATUS")
        return Status(**{name: found[name] for name in Status.__dataclass_fields__})

    def show(self) -> tuple[str, ...]:
        """The lines in force, canonical, sorted."""
        return tuple(sorted(self.command("CERTAUTH.POLICY", "SHOW")))

    def load(
        self, generation: int, lines: Iterable[str], *, owner: str = "", epoch: int = 0
    ) -> None:
        """Makes `lines` the whole policy; returns when it is on the node's disk and in force."""
        stamp = ("OWNER", owner, "EPOCH", epoch) if owner else ()
        self.command("CERTAUTH.POLICY", "LOAD", generation, *stamp, "LINES", *lines)
