"""The reasons of the core."""

from control._core import lib
from control.policy import core


def reasons() -> tuple[str, ...]:
    """Every reason that there is, in the order of the checks."""
    count = lib.REASON_COUNT
    return tuple(core._string(lib.reason_name(value)) for value in range(count))
