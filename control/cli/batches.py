"""The steps of a plan of `apply` as requests: new users many at a time, all others one by one."""

import hashlib
import json
from collections.abc import Iterator, Sequence

from control.cli import making
from control.cli.apply import SECTIONS
from control.cli.planning import Step

BULK = "/v1/certauth/bulk"
USERS, BYTES = 1_000, 900_000  # of one request


def batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps in their order: new users that follow each other together, as many as one request
    takes."""
    batch, size = list[Step](), 0
    for step in steps:
        length = len(json.dumps(step.fields)) + 100 if is_new_user(step) else 0
        if batch and (not length or len(batch) == USERS or size + length > BYTES):
            yield batch
            batch, size = [], 0
        if length:
            batch.append(step)
            size += length
        else:
            yield [step]
    if batch:
        yield batch


def is_new_user(step: Step) -> bool:
    """Whether a step goes into a batch: POST /v1/users takes lists."""
    return (step.action, step.section) == ("create", "users")


def carry_out(ask: making.Asks, batch: Sequence[Step]) -> None:
    """Makes the changes of one batch: all or none. Raises ApiError."""
    if len(batch) == 1:
        making.carry_out(ask, batch[0])
        return
    users = [making.sent(ask, step.fields) for step in batch]
    text = json.dumps(users, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    ask("POST", BULK, {"users": users, "key": f"apply-{key}"})


def title(batch: Sequence[Step]) -> str:
    """What a message calls it."""
    last = f" to '{batch[-1].name}'" if len(batch) > 1 else ""
    path = f" ({SECTIONS[batch[0].section].path})" if last else ""
    return f"{batch[0].title}{last}{path}"
