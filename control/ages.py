"""How old what is shown may be. What was seen long ago is not known any more, and a part of this
process that has not done its work lately stands still: neither is ever shown as good."""

import math
import threading
import time
from dataclasses import replace

from control.reports import Node

OLD = 10.0  # seconds after which what was seen of a server that answered counts for nothing
AWAY = 60.0  # the same of one that did not answer, which is tried less often
UNKNOWN = "UNKNOWN"  # the word that the status of such a server begins with


def as_of_now(node: Node) -> Node:
    """A server as it may be shown: `UNKNOWN` where nobody has looked at it lately."""
    if node.error and (node.age == math.inf or node.age <= AWAY):
        return node
    if not node.error and node.age <= OLD:
        return node
    when = f"last looked at it {node.age:.0f} seconds ago"
    if node.age == math.inf:
        when = "has not looked at it yet"
    was = f"; it was: {node.error}" if node.error else ""
    text = f"{UNKNOWN} the control plane {when}, so what it holds is not known{was}"
    return replace(node, in_step=False, error=text)


def rendered(node: Node) -> float | None:
    """Since when a server was not looked at."""
    return seconds(node.age)


def seconds(age: float) -> float | None:
    """As answers show them; None for never."""
    return None if age == math.inf else round(age, 1)


class Pulse:
    """When each part of this process has last done its work, and what has kept it since. Safe to
    use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._patience: dict[str, float] = {}
        self._beats: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    def expect(self, part: str, patience: float) -> None:
        """From now on a part is to do its work once in so many seconds."""
        with self._lock:
            self._patience[part], self._beats[part] = patience, time.monotonic()

    def beat(self, part: str) -> None:
        """A part has done its work just now, which ends the problem it had."""
        with self._lock:
            self._beats[part] = time.monotonic()
            self._problems.pop(part, None)

    def fail(self, part: str, why: str) -> None:
        """A part could not do its work; `why` is for a person. What counts is its last beat."""
        with self._lock:
            self._problems[part] = why

    def ages(self) -> dict[str, float]:
        """Seconds since each of those that are expected has done its work."""
        now = time.monotonic()
        with self._lock:
            return {part: now - self._beats[part] for part in self._patience}

    def faults(self) -> list[str]:
        """The parts that stand still, for a person."""
        ages = self.ages()
        with self._lock:
            return [
                f"{part} stands still since {age:.0f} seconds: "
                f"{self._problems.get(part) or 'it does not answer'}"
                for part, age in ages.items()
                if age > self._patience[part]
            ]
