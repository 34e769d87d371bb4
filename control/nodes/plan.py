"""What a node holds, and how that differs from its policy. Pure: records in, records out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from control.nodes.topology import Status
from control.policy import refusals
from control.policy.refusals import Signs
from control.records import Change, EventDetail, Target
from control.reports import Node as Seen
from control.reports import Refused

Drift = dict[str, EventDetail]  # how a node differed: details of an event
# What a server holds of these lines after a restore is true here too.
KEPT_PREFIXES = ("revoke ", "lock ")
SHOWN_LINES = 20  # of a difference
LOST = "no longer managed"
ELSEWHERE = "not managed: tls-ca-cert-dir"  # of the module: it is not the journal's


def merged(changes: Sequence[Change]) -> tuple[str, ...]:
    """Several changes as one: a line that comes and goes again is not a change."""
    signs: dict[str, int] = {}
    for change in changes:
        for line, sign in [(line, -1) for line in change.removed] + [
            (line, 1) for line in change.added
        ]:
            signs[line] = signs.get(line, 0) + sign
    return tuple(f"{'+' if sign > 0 else '-'}{line}" for line, sign in signs.items() if sign)


@dataclass
class Held:
    """What we know that a node holds, as long as it says this generation and digest: how that
    differs from this generation of the policy, and what of it the node refuses."""

    generation: int = 0
    digest: str = ""
    differs: Signs = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    given: bool = False  # whether we gave it that, or our log knew it
    tried: float = -math.inf  # when it was last asked whether it refuses that still

    def is_of(self, status: Status | Target) -> bool:
        """Whether this is what is known about a node in that state; else we know nothing about
        it."""
        return (status.generation, status.digest) == (self.generation, self.digest)

    def has(self, target: Target) -> bool:
        """Whether it is that policy, but for what the node refuses."""
        return self.is_of(deviating(target, refusals.deviation(self.refused)))

    def now(
        self, at: Target, differs: Signs, refused: tuple[Refused, ...], given: bool = True
    ) -> None:
        """The node was put in this state, or (not `given`) found in it: `differs` from `at` in
        these lines, and refuses `refused`."""
        self.given = given
        self.generation, self.digest = at.generation, at.digest
        self.differs, self.refused = differs, refused


def held_by(seen: Seen) -> Held:
    """What was written down of a node."""
    differs = refusals.deviation(seen.refused)
    return Held(seen.generation, seen.digest, differs, seen.refused)


def deviating(target: Target, differs: Signs) -> Target:
    """The policy with these differences, under the same generation."""
    return Target(target.generation, refusals.digest(target.digest, differs))


def render_difference(
    status: Status, target: Target, wanted: Sequence[str], held: Sequence[str]
) -> str:
    """What a node would lose, and get, for a person; "" if it holds what it should."""
    extra, come = sorted(set(held) - set(wanted)), sorted(set(wanted) - set(held))
    kept = [line for line in extra if line.startswith(KEPT_PREFIXES)]
    gone = [line for line in extra if not line.startswith(KEPT_PREFIXES)]
    if not (extra or come):
        return ""
    parts = [f"generation {status.generation}, {target.generation} here"]
    for what, lines in (
        ("would go", gone),
        ("would come", come),
        ("revoked or locked, and kept", kept),
    ):
        shown = "; ".join(line[:100] for line in lines[:SHOWN_LINES])
        more = "; …" if len(lines) > SHOWN_LINES else ""
        parts += [f"{len(lines)} {what}: {shown}{more}"] if lines else []
    return ". ".join(parts)


def is_within(
    held: Iterable[str], lines: Iterable[str], since: Iterable[Change], refused: Iterable[Refused]
) -> bool:
    """Whether a node that holds these lines may be in the middle of these changes, of which a
    policy of `lines` is the end: each of its lines was there at some time since, and those that
    were there at all times it has. Instead of a line it may have what stands for one that the node
    refuses; some it `refused` when they began."""
    have, now = set(held), set(lines)
    came = {line for one in since for line in one.added}
    ever = now | {line for one in since for line in one.removed}
    lacks = now - came - have - {one.line for one in refused}
    known = have <= ever or have <= ever | set(map(refusals.instead, ever))
    return known and all(refusals.instead(line) in have for line in lacks)


def difference(held: Iterable[str], wanted: Iterable[str]) -> Drift:
    """What a node held and should not have, and what it lacked: how many lines, and the first."""
    more = sorted(
        set(held) - set(wanted), key=lambda line: (not line.startswith(KEPT_PREFIXES), line)
    )
    less = sorted(set(wanted) - set(held))
    drift: Drift = {}
    for name, lines in (("unknown", more), ("missing", less)):
        if lines:
            drift[f"{name}_count"] = len(lines)
            drift[f"{name}_lines"] = [line[:200] for line in lines[:20]]
    return drift


def went_back(held: Held, status: Status, owner: str) -> bool:
    """Whether a node holds an older policy of ours than it has held, or none any more."""
    ours = status.owner == owner if status.generation else True
    return status.journal == "ok" and ours and status.generation < held.generation


def judge_trust(before: str, now: str) -> tuple[str, str]:
    """From what a module reports of the trust that it manages: what is shown of it, and what is
    wrong. Trust that is kept by hand is not an error; trust that is no longer managed is."""
    if not now.startswith(("managed", "not managed")):
        return now, f"TRUST {now}"
    if not now.startswith(ELSEWHERE) or not before.startswith(("managed", LOST)):
        return now, ""
    what = "clients may be refused in the handshake: set it to the journal's ca directory again"
    detail = LOST + now.removeprefix("not managed")
    return detail, f"TRUST {detail}: {what}"
