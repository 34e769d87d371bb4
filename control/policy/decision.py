"""A decision as the API and the command line show it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from control.policy.core import Decision


def render_decision(decision: Decision, names: Sequence[str] | None = None) -> dict[str, Any]:
    """A decision as JSON; `names` instead of the users that the policy's line has."""
    users = list(decision.users if names is None else names)
    return {
        "action": decision.action,
        "reason": decision.reason,
        "user": users[0] if decision.action == "login" else None,
        "users": users,
        "line": decision.line,
        "trace": list(decision.trace),
        "certificate": asdict(decision.leaf) if decision.leaf else None,
    }
