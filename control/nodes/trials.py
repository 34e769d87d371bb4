"""ACL rules are tried on the servers before they are stored: what a server refuses is a 406 that
names the rule and the server, and not a user who is off there.

Each server of a database says what it takes, as a change that is asked about and not made
(CERTAUTH.SESSIONS … LINES). One that does not answer is judged by the version that it was seen to
have (control/policy/known.py). An ACL that no database grants yet has to fit one of them.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control.errors import Refusal, refused
from control.nodes import topology
from control.nodes.audit import Command
from control.nodes.client import NodeError
from control.policy import known
from control.policy.refusals import LISTED, PROBLEM
from control.policy.taking import RESERVED
from control.reports import NewRules, Node, Place

Ask = Callable[..., Mapping[str, Any]]  # see control/domain/preview.py
TRIAL_SECONDS = 2.0  # for all servers
GOOD = 60.0  # seconds that rules count as tried: servers may be upgraded, or have other modules
MEMORY = 10_000  # rules
NAMED = 5  # problems in a sentence
BAD_RULE = re.compile(r"modifier '(.*)': (.*)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """Why rules cannot be there."""

    bdb_uid: int
    rules: str
    text: str


class Trials:
    """What was tried. One for each process; for any thread."""

    def __init__(self) -> None:
        self._good: dict[tuple[int, str], float] = {}  # until when

    def is_good(self, bdb_uid: int, rules: str) -> bool:
        """Whether servers of the database took these rules lately."""
        return self._good.get((bdb_uid, rules), 0.0) > time.monotonic()

    def problems(self, ask: Ask, wanted: Iterable[NewRules]) -> list[Problem]:
        """What stands against rules."""
        end = time.monotonic() + TRIAL_SECONDS
        return [problem for one in wanted for problem in self._problems(ask, one, end)]

    def _problems(self, ask: Ask, wanted: NewRules, end: float) -> list[Problem]:
        first: list[Problem] = []
        for place in wanted.places:
            patience = max(0.0, end - time.monotonic())
            found = self._in(ask, place, wanted, patience)
            if not found:
                return []
            first = first or found
        if wanted.bdb_uid or wanted.places:
            return first
        bad = ((rules, known.stranger(rules, "")) for rules in wanted.rules)
        text = "no version of Redis or Valkey knows"
        return [Problem(0, rules, f"{text} '{one}'") for rules, one in bad if one]

    def _in(self, ask: Ask, place: Place, wanted: NewRules, patience: float) -> list[Problem]:
        """What the servers of one database say, or are known to say."""
        rules = sorted(wanted.rules)
        said = ask(
            place.database.uid,
            lambda command: tried(command, rules),
            patience=patience,
            of=place.database,
        )
        told = {address: one for address, one in said.items() if isinstance(one, Said)}
        silent = [one for one in place.nodes if _has_policy(one) and one.address not in told]
        found = []
        for number, rule in enumerate(rules):
            texts = [
                f"server {address}{_version(one.software)} refuses {one.refused[number]}"
                for address, one in told.items()
                if number in one.refused
            ]
            texts += doubts(rule, silent, bool(told), place.database.name)
            if texts:
                found.append(Problem(wanted.bdb_uid, rule, listed(texts)))
            elif told:
                self._remember(wanted.bdb_uid, rule)
        return found

    def _remember(self, bdb_uid: int, rules: str) -> None:
        if len(self._good) >= MEMORY:
            self._good.clear()
        self._good[bdb_uid, rules] = time.monotonic() + GOOD


def refusal(problems: Iterable[Problem]) -> Refusal:
    """The refusal for a request that wants to store such rules."""
    return refused("redis_acl_refused", listed([one.text for one in problems]))


def listed(texts: Iterable[str]) -> str:
    """In a sentence, each once, and not too many."""
    found = list(dict.fromkeys(texts))
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more


@dataclass(frozen=True)
class Said:
    """Which of the rules a server refuses, by their index, and why; then also its version."""

    refused: Mapping[int, str]
    software: str


def tried(command: Command, rules: list[str]) -> Said:
    """What a server says of rules. Raises what `command` does."""
    found: dict[int, str] = {}
    for start in range(0, len(rules), LISTED):
        for problem in PROBLEM.finditer(answered(command, rules[start : start + LISTED])):
            if problem["number"]:
                number = start + int(problem["number"]) - 1
                found.setdefault(number, render_refused_rule(problem["why"]))
    info = command("INFO", "server") if found else ""
    return Said(found, topology.software(topology.fields(info)) if found else "")


def answered(command: Command, rules: list[str]) -> str:
    """What is wrong with rules, as a server says it; "" for nothing."""
    lines = [f"+user {RESERVED}-trial-{number} {one}" for number, one in enumerate(rules)]
    for last in (False, False, True):
        try:
            command("CERTAUTH.SESSIONS", "COUNT", 1, "LINES", *lines)
        except NodeError as error:
            if error.code == "LINES":
                return error.text
            if last or error.code != "CURSOR":  # the policy has changed meanwhile
                raise
        else:
            return ""
    raise AssertionError


def render_refused_rule(why: str) -> str:
    """The rule, and what is wrong with it, as a server says that."""
    found = BAD_RULE.search(why)
    return f"'{found[1]}': {found[2]}" if found else f"the rules: {why}"


def _version(software: str) -> str:
    """` (Valkey 9.1.2)`, to put behind an address; "" of a server that never told."""
    return f" ({software[:1].upper()}{software[1:]})" if software else ""


def _has_policy(node: Node) -> bool:
    """Whether rules are tried on it: neither Sentinels nor other names of a server hold a
    policy."""
    return node.role != "sentinel" and node.origin in ("endpoint", "found")


def doubts(rules: str, silent: Iterable[Node], some_took: bool, name: str) -> list[str]:
    """What is known against rules on servers that do not answer. What no version knows may be of a
    module, where another server of the database has taken it."""
    nowhere = known.stranger(rules, "")
    if nowhere:
        return [] if some_took else [f"no server of '{name}' answers, and none knows '{nowhere}'"]
    found = []
    for node in silent:
        if strange := known.stranger(rules, node.software):
            has = _version(node.software)
            found.append(f"server {node.address}{has} does not answer, and knows no '{strange}'")
    return found
