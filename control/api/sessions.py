"""/v1/certauth/sessions: who is connected to which server, by which certificate; and to end one."""

from typing import Annotated, Any

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api.bdb_models import Address
from control.api.models import Answer, Body, Uid
from control.api.web import CHANGING, answer, flag, needs, number, store
from control.errors import missing, refused
from control.nodes.audit import Command
from control.nodes.client import NodeError
from control.records import Database


class EndSessionBody(Body):
    bdb_uid: Uid
    node: Address
    id: Annotated[int, Field(ge=1, le=2**62)]
    cert: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


class SessionAnswer(BaseModel):
    """A client of a server; what is null is not known."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    node: str
    id: int
    address: str
    user: str | None
    reason: str
    subject: str | None
    serial: str | None
    cert: str | None
    key: str | None
    ca: str | None
    since: int
    end: int
    not_after: int


class SilentAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    node: str
    error: str


class SessionsAnswer(Answer):
    """`silent` are the servers that did not say, `more` is whether there are more than shown."""

    sessions: list[SessionAnswer]
    more: bool
    silent: list[SilentAnswer]


blueprint = Blueprint("sessions", __name__)
PAGE = 1000  # sessions of a server in an answer
SHOWN = (
    "id", "address", "user", "reason", "subject", "serial", "cert", "key", "ca", "since", "end",
    "not_after",
)  # fmt: skip


@blueprint.get("/v1/certauth/sessions")
@needs("view_logged_events", answers=SessionsAnswer, query=("bdb", "user", "limit"))
def read() -> Response:
    """Of all databases, or of one; of all users, or of one. The servers are asked now."""
    user, most = request.args.get("user", ""), max(1, min(number("limit", PAGE), PAGE))
    only = number("bdb", 0)

    def page(command: Command) -> Any:
        who = ("USER", user) if user else ()
        return command("CERTAUTH.SESSIONS", *who, "COUNT", most)

    found: list[dict[str, Any]] = []
    silent, more = [], False
    for database in (
        (store().objects.get(Database, only),) if only else store().objects.all(Database)
    ):
        where = {"bdb_uid": database.uid, "bdb_name": database.name}
        for address, told in current_app.extensions["ask"](database.uid, page).items():
            if isinstance(told, NodeError):
                silent.append({**where, "node": address, "error": str(told)})
                continue
            more |= told["cursor"] != 0
            found += [render(one, {**where, "node": address}) for one in told["sessions"]]
    return answer({"sessions": found, "more": more, "silent": silent})


def render(one: dict[str, Any], where: dict[str, Any]) -> dict[str, Any]:
    return {**where, **{name: one.get(name) for name in SHOWN}}


@blueprint.delete("/v1/certauth/sessions")
@needs("update_bdb", takes=EndSessionBody, query=CHANGING)
def end(sent: EndSessionBody) -> Response:
    """Closes the connection of a client. It may come again: revoke its certificate against that."""
    database, only_looks = store().objects.get(Database, sent.bdb_uid), flag("dry_run")

    def close(command: Command) -> bool:
        # Numbers of clients begin again with each start of a server: is it still that one?
        told = command("CERTAUTH.SESSIONS", "CURSOR", sent.id - 1, "COUNT", 1)["sessions"]
        same = [one for one in told if one["id"] == sent.id and (one["cert"] or "") == sent.cert]
        return bool(same) and (only_looks or bool(command("CLIENT", "KILL", "ID", sent.id)))

    asked = current_app.extensions["ask"](database.uid, close, sent.node)
    told = asked.get(sent.node, False)
    if isinstance(told, NodeError):
        raise refused(
            "session_not_ended",
            f"{sent.node}: {told}; if its bootstrap file does not give +client|kill yet, copy "
            "the file from the control plane's folder to the server, and restart the server",
        )
    if not told:
        raise missing("such session any more")
    store().events.note(
        "session_ended", "WARNING", bdb_uid=database.uid, bdb_name=database.name, node=sent.node,
        client=sent.id, cert=sent.cert,
    )  # fmt: skip
    return answer({})
