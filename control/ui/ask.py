"""How the page asks: the handlers of the REST API, in this process.

The page has no way of its own to what is known, and no rights of its own. It hands over what the
person has logged in with, a token or the certificate of the connection, and the API finds out at
each call who that is and what they may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from flask import Flask, current_app, g, request, session

from control.domain.guard import Caller
from control.errors import Refusal
from control.nodes.waiting import IN_FORCE, TOTAL


@dataclass(frozen=True)
class Answer:
    """What a call brought: the JSON, its ETag, who the API took for its caller, and of a change on
    how many of how many servers it is in force: "2/3"."""

    content: Any
    etag: str
    caller: Caller | None
    in_force: str = ""
    total: int | None = None  # of a list: how many there are in all, where that is told


def ask(call: str, body: Any = None, **query: object) -> Any:
    """The JSON that `call`, such as "GET /v1/users", answers. Raises Refusal, as the API does."""
    return answer(call, body, query=query).content


def answer(
    call: str,
    body: Any = None,
    *,
    query: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """The same with all that it brings. A `query` of None is left out."""
    method, path = call.split(" ", 1)
    api = cast(Flask, current_app.extensions["api"])
    sent = {**credentials(), **(headers or {})}
    asked = {name: str(one) for name, one in (query or {}).items() if one is not None}
    # Quoted, since a part of it may be of our caller's address, and a "?" in that is not a query.
    with api.test_request_context(
        quote(path),
        method=method,
        json=body,
        query_string=asked,
        headers=sent,
        environ_overrides=origin(),
    ):
        response = api.full_dispatch_request()
        caller = g.get("caller")
    content: Any = response.get_json(silent=True)
    if response.status_code >= 400:
        raise Refusal(response.status_code, content["error_code"], content["description"])
    in_force = response.headers.get(IN_FORCE, "")
    total = response.headers.get(TOTAL, type=int)
    return Answer(content, response.get_etag()[0] or "", caller, in_force, total)


def takes(call: str) -> tuple[str, ...]:
    """The parameters that the query of `call` may have."""
    method, path = call.split(" ", 1)
    api = cast(Flask, current_app.extensions["api"])
    endpoint, _ = api.url_map.bind("").match(path, method)
    declared: tuple[str, ...] = api.view_functions[endpoint].__dict__["rule"].query
    return declared


def credentials() -> dict[str, str]:
    """The headers that say who asks; none for a certificate, which is the connection's."""
    token = session.get("token")
    return {"Authorization": f"Bearer {token}"} if token else {}


def origin() -> dict[str, Any]:
    """Where the request comes from: its address and what its connection presented. No header."""
    ours = ("wsgi.", "werkzeug.", "flask.")
    found = request.environ.items()
    kept = {name: one for name, one in found if "." in name and not name.startswith(ours)}
    return {**kept, "REMOTE_ADDR": request.environ.get("REMOTE_ADDR", "")}


def who() -> Caller:
    """Who has logged in."""
    return cast(Caller, g.who)


def may(permission: str) -> bool:
    """Whether they hold a permission: for what is offered. What is done, the API decides."""
    return "who" in g and who().may(permission)


def offset_of(args: Mapping[str, str]) -> int:
    text = args.get("offset", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
