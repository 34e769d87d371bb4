"""What a change would do, before it is made: to policies, to known certificates, to anyone who is
connected.

The change is made in a store that forgets it (on SQLite a copy, so that nobody waits), by the
handlers that would make it; the core decides about certificates under the policies before and
after; each node is asked about its own sessions (CERTAUTH.SESSIONS … LINES), since only it knows
who is connected, as what. It is asked about the change as it would be made there: without what it
refuses (control/policy/refusals.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.domain.effects import effects
from control.nodes.audit import Command
from control.nodes.client import NodeError
from control.nodes.plan import merged
from control.nodes.topology import mapping
from control.policy import core, refusals
from control.policy.lines import MARK
from control.policy.taking import RESERVED, user_of
from control.records import Database, Target
from control.reports import ClientCertificate, Node, Refused
from control.store import Stage, Store

# Asks each node of a database, or one by its address: by address what it answers, or its NodeError.
Ask = Callable[..., Mapping[str, Any]]
LINES, BYTES = 10_000, 4 << 20  # a longer change is not tried: no call of a node takes it
CERTIFICATES = 10_000  # that are looked at, those that end first
SHOWN = 1_000  # lines, sessions of a node, and certificates, that an answer lists


@dataclass(frozen=True)
class Difference:
    """What a change does to the policy of a database: all lines `after` it, and the `+line`s and
    `-line`s that led there."""

    database: Database
    after: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def added(self) -> list[str]:
        """Policy lines that come, sorted, without `+`."""
        return sorted(line[1:] for line in self.changes if line[0] == "+")

    @property
    def removed(self) -> list[str]:
        """Policy lines that go, sorted, without `-`."""
        return sorted(line[1:] for line in self.changes if line[0] == "-")

    @property
    def before(self) -> frozenset[str]:
        """All policy lines before the change."""
        return frozenset(self.after).difference(self.added).union(self.removed)


def differences(store: Store, change: Callable[[Stage], object]) -> list[Difference]:
    """What `change` does to the policies; the store stays as it is. Raises what `change` does."""
    with store.rehearse() as stage:
        before = stage.policies.targets()
        change(stage)
        return list(_differences(stage, before))


def _differences(stage: Stage, before: Mapping[int, Target]) -> Iterator[Difference]:
    for uid, target in sorted(stage.policies.targets().items()):
        was = before.get(uid, Target(0, ""))
        changes = merged(stage.policies.changes(uid, was.generation, was.digest) or ())
        if target != was and changes:
            yield Difference(
                stage.objects.get(Database, uid), stage.policies.whole(uid)[1], changes
            )


def told(
    found: Difference,
    known: Iterable[ClientCertificate],
    servers: Sequence[Node],
    ask: Ask,
    now: int,
) -> dict[str, Any]:
    """One database of the answer; `servers` are its nodes that have a policy."""
    added, removed, taken = found.added, found.removed, frozenset[str]()
    if only_rules(added, removed):  # then the lines of users, which may be many, say no more
        few = core.Policy(one for one in found.after if not one.startswith(OF_USERS))
        changed, unknown = certificates(few, few, known, now)
    else:
        before, after = core.Policy(found.before), core.Policy(found.after)
        changed, unknown = certificates(before, after, known, now)
        taken = after.applied - before.applied
    answer = {
        "bdb_uid": found.database.uid,
        "bdb_name": found.database.name,
        "added": added[:SHOWN],
        "removed": removed[:SHOWN],
        "lines_added": len(added),
        "lines_removed": len(removed),
        "nodes": nodes(found, taken, servers, ask),
        "certificates": changed[:SHOWN],
        "certificates_changed": len(changed),
        "certificates_unknown": unknown,
    }
    # Of all lines: what an answer does not show is not to be left out of its words.
    whole = {"added": added, "removed": removed, "certificates": changed}
    return {**answer, "effects": effects({**answer, **whole})}


OF_USERS = ("user ", "bind ", "pattern ")


def only_rules(added: Sequence[str], removed: Sequence[str]) -> bool:
    """Whether a change only gives other rules to users that there are before and after it: then it
    decides nothing else about any certificate."""
    lines = (*added, *removed)
    if not all(one.startswith("user ") and not one.endswith(" off") for one in lines):
        return False
    return {user_of(one) for one in added} == {user_of(one) for one in removed}


# ---- Known certificates --------------------------------------------------------------------------


def clients(known: Iterable[ClientCertificate]) -> list[ClientCertificate]:
    """Without those of the control plane and of nodes' peers, which a policy does not bind."""
    return [one for one in known if not one.user.startswith(RESERVED)]


def certificates(
    before: core.Policy, after: core.Policy, known: Iterable[ClientCertificate], now: int
) -> tuple[list[dict[str, Any]], int]:
    """Those that become somebody else or nobody; and how many nothing can be said about, since the
    CA that issued them is none that a policy names."""
    changed, unknown = [], 0
    for one in known:
        was, will = (_decided(policy, one, now) for policy in (before, after))
        if was.reason == will.reason == "untrusted_issuer":
            unknown += 1
        elif (was.action, was.users) != (will.action, will.users):
            changed.append({**_named(one), "before": _outcome(was), "after": _outcome(will)})
    return changed, unknown


def _decided(policy: core.Policy, one: ClientCertificate, now: int) -> core.Decision:
    return policy.decide(one.pem.encode(), now) if one.pem else policy.decide_known(one, now)


def _named(one: ClientCertificate) -> dict[str, Any]:
    names = ("cert", "subject", "serial", "issuer", "last_login")
    return {name: getattr(one, name) for name in names}


def _outcome(decision: core.Decision) -> dict[str, Any]:
    return {"action": decision.action, "reason": decision.reason, "users": list(decision.users)}


# ---- Nodes ---------------------------------------------------------------------------------------


def nodes(
    found: Difference, taken: frozenset[str], servers: Sequence[Node], ask: Ask
) -> list[dict[str, Any]]:
    """What each node says would become of its sessions, which of the users `taken` it has by
    itself, and what of the change it refuses; `error` where it does not say."""
    deviations = {(node.generation, node.digest): node.refused for node in servers}

    def question(command: Command) -> dict[str, Any]:
        now = mapping(command("CERTAUTH.POLICY", "STATUS"))
        before = deviations.get((now.get("generation", 0), now.get("digest", "")), ())
        return {**_asked(command, found, before), "users": _users(command, taken)}

    if len(found.changes) > LINES or sum(len(one.encode()) for one in found.changes) > BYTES:
        why = f"more than {LINES} lines change, or {BYTES} bytes: too many to try them on the nodes"
        return [{**NOTHING, "address": "", "error": why}]
    silent = {node.address: UNASKED for node in servers}
    answers = {**silent, **ask(found.database.uid, question)}
    return [{**NOTHING, "address": address, **_shown(one)} for address, one in answers.items()]


UNASKED: Mapping[str, Any] = {
    "error": "this control plane does not lead now: ask the leading control plane"
}
NOTHING: Mapping[str, Any] = {
    "error": "", "sessions": 0, "ends": 0, "ending": [], "users": [], "refused": []
}  # fmt: skip


def _shown(answer: Any) -> Mapping[str, Any]:
    return {"error": str(answer)} if isinstance(answer, NodeError) else answer


def _asked(command: Command, found: Difference, before: Sequence[Refused]) -> dict[str, Any]:
    """What the change does on a node that holds this policy but for what it refused `before`, as
    the sync worker would make it there; and which users it would refuse as well."""
    change = refusals.signs(found.changes)
    after = refusals.unbound(refusals.still(before, change), found.added)
    while True:
        held = refusals.minus(refusals.deviation(before))
        sent = refusals.changes(refusals.plus(change, held, refusals.deviation(after)))
        try:
            sessions = _sessions(command, sent)
        except NodeError as error:
            is_about = error.code == "LINES"
            more = refusals.blamed(error.text, sent, after, found.after) if is_about else None
            if more is None:
                raise
            after = more
        else:
            return {**sessions, "refused": _anew(before, after)}


def _anew(before: Sequence[Refused], after: Sequence[Refused]) -> list[dict[str, str]]:
    """What is refused after a change of what was not before it."""
    old = {one.user or one.line for one in before if one.why}
    new = [one for one in after if one.why and (one.user or one.line) not in old]
    return [{"user": one.user, "line": one.line, "why": one.why} for one in new[:SHOWN]]


def _sessions(command: Command, changes: Sequence[str]) -> dict[str, Any]:
    """How many there are, how many of them end, and which (at most SHOWN): each with the user that
    it is now, and what it would be when it comes again."""
    cursor, count, ending = 0, 0, []
    while True:
        reply = command("CERTAUTH.SESSIONS", "CURSOR", cursor, "LINES", *changes)
        count += len(reply["sessions"])
        ending += [_ending(one) for one in reply["sessions"] if not one["stays"]]
        if not (cursor := reply["cursor"]):
            return {"sessions": count, "ends": len(ending), "ending": ending[:SHOWN]}


def _ending(one: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: one[name] or "" for name in ("id", "address", "subject", "serial")}
    then = {"action": one["then"], "reason": one["then_reason"], "user": one["then_user"] or ""}
    return {**told, "user": one["holds"] or "", "then": then}


def _users(command: Command, taken: frozenset[str]) -> list[dict[str, Any]]:
    """Users that the server has by itself and that lose their password."""
    rules = (one.split() for one in command("ACL", "LIST")) if taken else ()
    found = []
    for _, name, *flags in rules:
        hashes = [flag for flag in flags if flag[0] == "#" and flag != f"#{MARK}"]
        passwords, free = len(hashes), "nopass" in flags
        if name in taken and (passwords or free):
            found.append({"name": name, "passwords": passwords, "nopass": free})
    return found
