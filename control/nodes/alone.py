"""A policy file, loaded into one server that has no control plane."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.nodes import topology
from control.nodes.client import SLOW, UNREACHABLE, Access, Identity, Node, NodeError
from control.records import Target

LINE = re.compile(r"(?<=; line )\d+(?=: )")
TIMEOUT = 30.0  # seconds, for each read and write
EMPTY = "the file has no lines: a load of it takes the server's policy away and lets passwords in"
UNKNOWN = (
    "the server did not confirm the policy ({why}). It may still take effect: run this command "
    "again, which changes nothing where the policy is in force already"
)
STRANGER = "the server asks for a login: no line and no bootstrap file binds this certificate"


@dataclass(frozen=True)
class Loaded:
    """What a server answered: the generation that is in force, how many connections it closed
    (None where the policy was in force before), and what it cannot do with some lines."""

    generation: int
    closed: int | None = None
    warnings: tuple[str, ...] = ()


def load(
    access: Access,
    identity: Identity,
    lines: Mapping[int, str],
    digest: str,
    force: bool = False,
) -> Loaded:
    """Makes `lines` (number in the file → text) the whole policy of a server, or changes nothing.

    `digest` is the policy's by the core: a server that comes to another one refuses. `force` also
    loads a policy that shuts out this certificate, that is empty, or that another owner has.
    Returns when the policy is on the server's disk and in force. Raises NodeError.
    """
    if not lines and not force:
        raise NodeError("EMPTY", EMPTY)
    node = Node(access, identity, TIMEOUT)
    try:
        return _load(node, list(lines.values()), digest, force)
    except NodeError as error:
        raise _explained(error, tuple(lines)) from error
    finally:
        node.close()


def _load(node: Node, lines: Sequence[str], digest: str, force: bool) -> Loaded:
    before = node.status()
    if before.generation and before.digest == digest:
        return Loaded(before.generation)
    target = Target(before.generation + 1, digest)
    try:
        reply = node.load(target, lines, "", before.epoch, force)
    except NodeError as error:
        if error.code in (UNREACHABLE, SLOW):
            raise NodeError("UNKNOWN", UNKNOWN.format(why=error.text)) from error
        raise
    return _loaded(topology.mapping(reply))


def _loaded(reply: Mapping[str, Any]) -> Loaded:
    warnings = (str(reply[name]) for name in ("unverified", "untaken") if reply.get(name))
    return Loaded(int(reply["generation"]), int(reply["closed"]), tuple(warnings))


def _explained(error: NodeError, numbers: Sequence[int]) -> NodeError:
    """With the numbers that lines have in the file, and for a person who is not a control plane."""
    if error.code == "NOAUTH":
        return NodeError(error.code, STRANGER)
    text = LINE.sub(lambda found: str(numbers[int(found[0]) - 1]), error.text)
    return NodeError(error.code, text)
