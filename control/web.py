"""What handlers share: the parsed body, the caller, the answer.

A handler parses (`body`), is authorised before it runs (`needs`), calls one function and renders
(`answer`)."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, Response, current_app, g, jsonify, request

from control import models
from control.core import CoreError
from control.errors import forbidden, invalid
from control.guard import Caller, Guard, denied
from control.store import Store

Handler = TypeVar("Handler", bound=Callable[..., Response])
Model = TypeVar("Model", bound=models.Body)
Parsed = TypeVar("Parsed")


def needs(permission: str, own: bool = False) -> Callable[[Handler], Handler]:
    """Declares the permission of a handler. `own`: a user may also reach the record with its own
    uid; the handler then asks `caller().may(permission)` what more it may do."""

    def declare(handler: Handler) -> Handler:
        handler.__dict__["needs"] = (permission, own)
        return handler

    return declare


def install(app: Flask, store: Store, guard: Guard) -> None:
    """Puts the store and the guard in reach of the handlers, and the guard in front of them."""
    app.extensions["store"] = store
    app.extensions["guard"] = guard
    app.before_request(_authorise)


def _authorise() -> None:
    if request.url_rule is None:  # 404 and 405 are the same for everybody
        return
    handler = current_app.view_functions[request.url_rule.endpoint]
    declared = handler.__dict__.get("needs")
    g.caller = guard().authenticate(request)
    if declared is None:
        raise forbidden("insufficient_permissions", "no permission gives access to this")
    permission, own = declared
    if own and (request.view_args or {}).get("uid") == g.caller.user.uid:
        return
    if not g.caller.may(permission):
        raise denied(g.caller, permission)


def store() -> Store:
    return cast(Store, current_app.extensions["store"])


def guard() -> Guard:
    return cast(Guard, current_app.extensions["guard"])


def caller() -> Caller:
    """Who made this request."""
    return cast(Caller, g.caller)


def body(model: type[Model]) -> Model:
    """The body of this request. Raises Refusal 400.

    Other types than JSON are refused: a page of another site can make a browser that holds a client
    certificate send forms and plain text, but not JSON."""
    if request.mimetype != "application/json":
        raise invalid("invalid_content_type", "send the body as Content-Type: application/json")
    found, g.ignored = models.parse(model, request.get_data())
    return found


def dry_run() -> bool:
    """Whether the request is only to be checked: presence counts, as on Redis Enterprise."""
    return "dry_run" in request.args


def answer(content: dict[str, Any] | list[dict[str, Any]]) -> Response:
    """The JSON answer; fields of the request that were ignored are listed in it."""
    if isinstance(content, dict) and g.get("ignored"):
        content = {**content, "ignored": g.ignored}
    return jsonify(content)


def in_field(name: str, read: Callable[[], Parsed]) -> Parsed:
    """What `read` returns; where the core or an ACL's text does not parse, 400 with the field."""
    try:
        return read()
    except (CoreError, ValueError) as error:
        raise invalid("invalid_param", f"{name}: {error}") from error
