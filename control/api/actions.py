"""/v1/actions and /v2/actions: changes of databases on their way to the servers."""

from typing import Any, Literal

from flask import Blueprint, Response
from pydantic import Field

from control.ages import as_of_now
from control.api.models import Answer
from control.api.web import answer, needs, store
from control.records import Database
from control.reports import Action


class ActionAnswer(Answer):
    """`progress` is a percentage of the servers. A server that cannot be reached is tried for ever,
    so an action goes on until it is done."""

    action_uid: str
    name: str
    status: Literal["active", "completed"]
    progress: float
    creation_time: int
    object_name: str
    error: str = ""


class ActionsAnswer(Answer):
    actions: list[ActionAnswer]
    state_machines: list[ActionAnswer] = Field(alias="state-machines")


class ActionV2Answer(Answer):
    action_uid: str
    action_type: Literal["task", "state-machine", "other"]
    name: str
    status: Literal["running", "completed"]
    progress: float
    creation_time: int
    additional_info: dict[str, str]


blueprint = Blueprint("actions", __name__)


@blueprint.get("/v1/actions")
@needs("view_status_of_cluster_action", answers=ActionsAnswer)
def read_all() -> Response:
    return answer(
        {"actions": [render(one) for one in store().actions.recent()], "state-machines": []}
    )


@blueprint.get("/v1/actions/<uid>")
@needs("view_status_of_cluster_action", answers=ActionAnswer)
def read(uid: str) -> Response:
    return answer(render(store().actions.get(uid)))


@blueprint.get("/v2/actions")
@needs("view_status_of_cluster_action", answers=list[ActionV2Answer])
def read_all_v2() -> Response:
    return answer([render_v2(one) for one in store().actions.recent()])


@blueprint.get("/v2/actions/<uid>")
@needs("view_status_of_cluster_action", answers=ActionV2Answer)
def read_v2(uid: str) -> Response:
    return answer(render_v2(store().actions.get(uid)))


def render(action: Action) -> dict[str, Any]:
    done, error = progress(action)
    found = {
        "action_uid": action.uid,
        "name": action.name,
        "status": "completed" if done == 100 else "active",
        "progress": done,
        "creation_time": action.created,
        "object_name": f"bdb:{action.bdb_uid}",
    }
    return {**found, "error": error} if error else found


def render_v2(action: Action) -> dict[str, Any]:
    done, error = progress(action)
    about = {"object_name": f"bdb:{action.bdb_uid}"}
    return {
        "action_uid": action.uid,
        "action_type": "task",
        "name": action.name,
        "status": "completed" if done == 100 else "running",
        "progress": done,
        "creation_time": action.created,
        "additional_info": {**about, "error": error} if error else about,
    }


def progress(action: Action) -> tuple[float, str]:
    """How many of the servers have followed, as a percentage, and what the others say. A database
    is gone when all its servers are detached."""
    nodes = tuple(map(as_of_now, store().nodes.of(action.bdb_uid)))
    if action.name == "delete_bdb":
        there = any(one.uid == action.bdb_uid for one in store().objects.all(Database))
        done = [node for node in nodes if node.in_step] if there else list(nodes)
        percent = 99.0 * len(done) / len(nodes) if there and nodes else 0.0 if there else 100.0
    else:
        done = [node for node in nodes if not node.error and node.generation >= action.generation]
        percent = 100.0 * len(done) / len(nodes) if nodes else 0.0
    errors = (f"{node.address}: {node.error}" for node in nodes if node.error)
    return round(percent, 1), "; ".join(errors)[:2000]
