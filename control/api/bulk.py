"""/v1/certauth/bulk: many users at once, all or none."""

import hashlib
import json
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api.models import MOST, TOLD, Answer, Body, Many, parse_object
from control.api.users import NO_ROLE, NewUserBody, new_user
from control.api.web import CHANGING, answer, needs, store, synced, warn
from control.errors import Refusal, refused
from control.records import User
from control.store import BulkRefused


class BulkBody(Body):
    """`users` are bodies of POST /v1/users, each with the rules of its own. `key`: a text that the
    sender makes up for this bulk; sent again, it makes nothing twice."""

    users: Annotated[Many[dict[str, Any]], Field(min_length=1, max_length=MOST)]
    key: Annotated[str, StringConstraints(max_length=128, pattern=r"^[!-~]*$")] = ""


class MadeUser(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    uid: int
    name: str


class BulkAnswer(Answer):
    """What was made, in the order of the request."""

    users: list[MadeUser]


blueprint = Blueprint("bulk", __name__)


@blueprint.post("/v1/certauth/bulk")
@needs("create_new_user", takes=BulkBody, answers=BulkAnswer, query=CHANGING)
def create(sent: BulkBody) -> Response:
    """Makes users, all or none: one transaction, and one change of each policy."""
    problems, made = dict[int, Refusal](), list[User]()
    for index, one in enumerate(sent.users):
        try:
            made.append(new_user(parse_object(NewUserBody, one)[0]))
        except Refusal as error:
            problems[index] = error
    if problems:
        raise refusal(sent, problems)
    # Without passwords, which could be guessed from what the store keeps.
    said = [{name: one for name, one in user.items() if name != "password"} for user in sent.users]
    text = json.dumps(said, sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        uids = store().objects.create_users(made, sent.key, digest)
    except BulkRefused as error:
        raise refusal(sent, error.problems) from None
    if bare := [one.name for one in made if not one.role_uids]:
        warn(f"{len(bare)} of {len(made)} users, first '{bare[0]}', have {NO_ROLE}")
    users = [{"uid": uid, "name": one.name} for uid, one in zip(uids, made, strict=True)]
    return answer(synced({"users": users}))


def refusal(sent: BulkBody, problems: dict[int, Refusal]) -> Refusal:
    """Nothing is made: what is wrong with which of the users."""
    told = [
        f"users.{index} ('{str(sent.users[index].get('name', ''))[:80]}'): {error.description} "
        f"({error.error_code})"
        for index, error in sorted(problems.items())[:TOLD]
    ]
    if len(problems) > TOLD:
        told.append(f"and {len(problems) - TOLD} more")
    count = f"{len(problems)} of {len(sent.users)} users are refused, and none is made"
    return refused("bulk_refused", f"{count}: {'; '.join(told)}")
