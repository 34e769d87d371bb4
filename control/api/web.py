"""What handlers share: the parsed body, the caller, the answer.

A handler is authorised before it runs and gets its body parsed (`needs`), calls one function and
renders (`answer`). What `needs` declares is also what control/api/openapi.py describes.

No parameter of a query is ignored: one that the handler does not declare is a 400, since a dry run
that is misspelt would be the change itself. A dry run is the handler at work, and the store forgets
what it writes (`Store.dry_run`): a handler has to look at `flag("dry_run")` only where it does
something else than write rows.

Two editors: what is read has an ETag, and a change that sends it as If-Match is a 409 where
somebody else was faster (`unchanged`)."""

import functools
import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from flask import Flask, Response, current_app, g, jsonify, request

from control.api import models
from control.api.models import Empty
from control.domain.guard import Caller, Guard, denied
from control.errors import Refusal, conflict, forbidden, invalid
from control.errors import missing as no_such
from control.nodes.trials import Trials, refusal
from control.nodes.waiting import IN_FORCE, LONGEST, TOTAL, in_force, missing, wait_for_sync
from control.policy.core import CoreError
from control.records import Database, User
from control.store import SORTS, Away, Record, Store, Untried

REQUESTS = "control.requests"  # the logger that has a line for each request
requests = logging.getLogger(REQUESTS)
Handler = TypeVar("Handler", bound=Callable[..., Response])
Model = TypeVar("Model", bound=models.Body)
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Rule:
    """What a handler declares about itself. See `needs`."""

    permission: str
    own: bool = False
    expired: bool = False
    scoped: bool = False
    takes: type[models.Body] | None = None
    answers: Any = Empty
    query: tuple[str, ...] = ()


CHANGING = ("dry_run", "wait_for_sync")  # what may be asked of a change
FLAGS = frozenset({"dry_run", "expiring", "extended", "force", "ignore_settings", "issues_only"})
SAID = {"": True, "true": True, "1": True, "false": False, "0": False}
SHOWN = "-"  # in an ETag, between what is stored and what is shown of it
LISTING = ("search", "name", "sort", "limit", "offset")
MANY = 10_000  # records of an answer that was asked for some of them
OURS = "/v1/certauth/"
PUBLIC = "nobody's"  # the permission of what needs no login


def needs(permission: str, **declared: Any) -> Callable[[Handler], Handler]:
    """Declares a Rule. `permission` is one of guard.PERMISSIONS, or PUBLIC.

    `own`: a user may also reach the record with its own uid; the handler then asks
    `caller().may(permission)` what more it may do. `expired`: a password that has expired will do.
    `scoped`: roles for some databases give this too, where the address has the `uid` of one of
    them; where it has none, the handler shows no other database than `caller().may_on` says.
    `takes`: the model of the body, which the handler gets as its argument `sent`. `answers`: the
    type of the answer, or the media type of one that is not JSON. `query`: the names of the query's
    parameters."""
    rule = Rule(permission, **declared)

    def declare(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def parsed(**arguments: Any) -> Response:
            _check_query(rule)
            g.waits = "wait_for_sync" in rule.query
            g.patience = _patience() if g.waits else 0.0
            given = {"sent": body(rule.takes)} if rule.takes else {}
            with store().request.dry_run() if flag("dry_run") else nullcontext():
                return tried(lambda: handler(**given, **arguments))

        parsed.__dict__["rule"] = rule
        return cast(Handler, parsed)

    return declare


def install(app: Flask, store: Store, guard: Guard) -> None:
    """Puts the store and the guard in reach of the handlers, and the guard in front of them."""
    app.extensions["store"] = store
    app.extensions["guard"] = guard
    app.before_request(_begin)
    app.before_request(_refuse_nul)
    app.before_request(store.request.enter)
    app.before_request(_refuse_options)
    app.before_request(_refuse_old)
    app.before_request(_authorise)
    app.after_request(_show_state)
    app.after_request(_tell_log)
    app.teardown_request(lambda _: store.request.leave())


def _begin() -> None:
    g.begun = time.monotonic()


def _tell_log(response: Response) -> Response:
    """A line for each request, where that is switched on; without its query and body, in which
    secrets may be."""
    if requests.isEnabledFor(logging.INFO):
        spent = (time.monotonic() - g.begun) * 1000
        name = g.caller.user.name if "caller" in g else ""
        told = {
            "method": request.method, "path": request.path, "status": response.status_code,
            "milliseconds": round(spent, 1), "address": request.remote_addr or "",
            "username": name,
        }  # fmt: skip
        line = f"{request.method} {request.path} {response.status_code} {spent:.0f} ms"
        text = f"{line} {name or '-'} {request.remote_addr or '-'}"
        requests.info("%s", text, extra={"told": told})
    return response


def _refuse_nul() -> None:
    """PostgreSQL has no text with it, so that each look-up would be a 500."""
    if any("\0" in text for text in (request.path, *request.args.values())):
        raise invalid("invalid_param", "the address holds a NUL character")


def _refuse_options() -> None:
    if request.method == "OPTIONS" and current_store().settings.cluster().options_method_forbidden:
        raise Refusal(405, "method_not_allowed", "OPTIONS is forbidden (options_method_forbidden)")


def _refuse_old() -> None:
    """What is remembered is good enough to be read. Nobody may change anything by it."""
    if current_store().request.age() and request.method not in ("GET", "HEAD"):
        raise Away(AWAY)


AWAY = "only reads from memory work now; nothing can be changed"


def _authorise() -> None:
    if request.url_rule is None:  # 404 and 405 are the same for everybody
        return
    handler = current_app.view_functions[request.url_rule.endpoint]
    rule = handler.__dict__.get("rule")
    if rule is None:
        login()
        raise forbidden("insufficient_permissions", "no permission gives access to this")
    if rule.permission != PUBLIC:
        authorise(rule)


def authorise(rule: Rule) -> None:
    """Raises Refusal 401 or 403 where this request may not do what `rule` is for."""
    permit(login(rule.expired), rule)


def permit(found: Caller, rule: Rule) -> None:
    """Raises Refusal 403 where this caller may not do what `rule` is for."""
    if rule.own and (request.view_args or {}).get("uid") == found.user.uid:
        return
    if found.may(rule.permission):
        return
    if not rule.scoped or not found.may_somewhere(rule.permission):
        raise denied(found, rule.permission)
    uid = (request.view_args or {}).get("uid")
    if uid is None or found.may_on(rule.permission, uid):
        return
    if found.may_on("view_bdb_info", uid):
        raise denied(found, rule.permission)
    raise no_such(f"bdb {uid}")  # whether it exists is not theirs to know


def login(expired: bool = False) -> Caller:
    """Finds out who makes this request. Raises Refusal 401."""
    g.caller = guard().authenticate(request, expired)
    return caller()


def tried(make: Callable[[], Response]) -> Response:
    """What a handler answers, once the ACL rules that its change brings were tried on the servers:
    before that it writes nothing. Raises Refusal 406 where a server refuses them."""
    trials, ask = cast(Trials, current_app.extensions["trials"]), current_app.extensions["ask"]
    known: set[tuple[int, str]] = set()

    def is_tried(uid: int, rules: str) -> bool:
        return (uid, rules) in known or trials.is_good(uid, rules)

    while True:
        try:
            with store().request.only_tried(is_tried):
                return make()
        except Untried as new:
            if problems := trials.problems(ask, new.rules):
                raise refusal(problems) from None
            known.update((one.bdb_uid, rules) for one in new.rules for rules in one.rules)
            store().request.enter()


def _show_state(response: Response) -> Response:
    if age := current_store().request.age():
        response.headers["Age"] = f"{age:.0f}"
    if "total" in g and response.status_code == 200:
        response.headers[TOTAL] = str(g.total)
    if "caller" in g:
        response.headers["cluster-state-id"] = str(store().revision())
    if moved := current_store().request.moved():
        response.headers[IN_FORCE] = g.get("in_force") or in_force(current_store(), moved)
    return response


def store() -> Store:
    """In a rehearsal, the store that forgets: see `rehearsed`."""
    return cast(Store, g.get("stage") or current_store())


def current_store() -> Store:
    return cast(Store, current_app.extensions["store"])


def rehearsing() -> bool:
    return "stage" in g


def rehearsed(stage: Store, method: str, path: str, sent: Any) -> None:
    """Does what a request of the same caller would do, in a store that forgets it, through the very
    handler. Raises Refusal, and what else that raises."""
    found, app = caller(), current_app._get_current_object()  # type: ignore[attr-defined]
    with app.app_context(), app.test_request_context(path, method=method, json=sent):
        if request.url_rule is None or request.url_rule.rule not in CHANGES or request.query_string:
            raise invalid("invalid_param", f"{method} {path} cannot be previewed")
        handler = app.view_functions[request.url_rule.endpoint]
        g.caller, g.stage = found, stage
        permit(found, handler.rule)
        handler(**(request.view_args or {}))


_UID = "<int(max=2147483647):uid>"
# What a preview can be asked about: whatever is nothing but a change of the store.
CHANGES = frozenset(
    {
        "/v1/cluster", "/v1/cluster/policy", "/v1/cluster/certificates", "/v1/cluster/update_cert",
        "/v1/cluster/certificates/<name>", "/v1/users", f"/v1/users/{_UID}", "/v1/roles",
        f"/v1/roles/{_UID}", "/v1/redis_acls", f"/v1/redis_acls/{_UID}", "/v1/bdbs", "/v2/bdbs",
        f"/v1/bdbs/{_UID}", "/v1/certauth/profiles", f"/v1/certauth/profiles/{_UID}",
        "/v1/certauth/revocations", f"/v1/certauth/revocations/{_UID}",
        "/v1/certauth/locks", f"/v1/certauth/locks/{_UID}",
        "/v1/certauth/patterns", f"/v1/certauth/patterns/{_UID}",
        "/v1/certauth/issuers", f"/v1/certauth/issuers/{_UID}",
        "/v1/certauth/responders", f"/v1/certauth/responders/{_UID}",
    }
)  # fmt: skip


def guard() -> Guard:
    return cast(Guard, current_app.extensions["guard"])


def caller() -> Caller:
    """Who made this request."""
    return cast(Caller, g.caller)


def body(model: type[Model]) -> Model:
    """The body of this request. Raises Refusal 400.

    Other types than JSON are refused: a page of another site can make a browser that holds a client
    certificate send forms and plain text, but not JSON."""
    content = request.get_data()
    if request.mimetype != "application/json" and (content or not model.OPTIONAL):
        raise invalid("invalid_content_type", "send the body as Content-Type: application/json")
    found, g.ignored = models.parse(model, content)
    return found


def _check_query(rule: Rule) -> None:
    """Raises Refusal 400 where the query holds what the handler does not take."""
    for name, said in request.args.lists():
        if name not in rule.query:
            takes = ", ".join(rule.query) or "none"
            call = f"{request.method} {request.path}"
            text = f"{name[:80]}: {call} does not take this parameter. What it takes: {takes}"
            raise invalid("unknown_param", text)
        if len(said) > 1:
            raise invalid("invalid_param", f"{name}: this parameter appears {len(said)} times")
    for name in FLAGS.intersection(rule.query):
        flag(name)


def flag(name: str) -> bool:
    """Whether the query asks for this. Presence is enough, as on Redis Enterprise; `true` and
    `false` mean what they say, for clients that send them. Raises Refusal 400."""
    text = request.args.get(name, "false")
    if text.lower() not in SAID:
        raise invalid("invalid_param", f"{name}: give true or false, not '{text[:80]}'")
    return SAID[text.lower()]


def number(name: str, default: int) -> int:
    """A number of the query. Raises Refusal 400."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise invalid("invalid_param", f"{name}: must be a number")
    return int(text)


def found(kind: type[Record]) -> tuple[Record, ...]:
    """The records that the request asks for: all, or those of its LISTING or `role_uid`. The answer
    says in TOTAL how many those are without a limit, unless only some of them are the caller's to
    see. Raises Refusal 400."""
    if not any(name in request.args for name in (*LISTING, "role_uid")):
        return store().objects.all(kind)
    text, name = request.args.get("search", ""), request.args.get("name", "")
    role = number("role_uid", 0) if "role_uid" in request.args else None
    limit, offset = number("limit", MANY), number("offset", 0)
    if kind is not Database or caller().may("view_all_bdbs_info"):
        g.total = store().objects.count(kind, text, name, role)
    return store().objects.find(kind, text, limit, offset, name, role, sorting(SORTS[kind]))


def sorting(columns: Sequence[str]) -> str:
    """By which of these columns a list is asked for, with "-" in front the greatest first; by
    default the first of them. Raises Refusal 400."""
    text = request.args.get("sort") or columns[0]
    if text.removeprefix("-") not in columns:
        raise invalid("invalid_param", f"sort: give one of {', '.join(columns)}, or -{columns[0]}")
    return text


def _patience() -> float:
    """Seconds that this request waits for the servers. Raises Refusal 400, before any change."""
    text = request.args.get("wait_for_sync", "0")
    if not re.fullmatch(r"\d{1,2}(\.\d{1,3})?", text, re.ASCII) or float(text) > LONGEST:
        raise invalid("invalid_param", f"wait_for_sync: give seconds from 0 to {LONGEST:g}")
    return float(text)


def synced(record: Parsed) -> Parsed:
    """The record that this request has changed, when the servers hold the change, or when the
    request does not want to wait any longer: `answer` then says what is missing."""
    waits = "wait_for_sync" in request.args and g.waits and "pending" not in g
    if waits and not flag("dry_run"):
        g.pending = wait_for_sync(store(), store().request.moved(), g.patience)
    return record


def answer(content: Any, record: object = None) -> Response:
    """The JSON answer, when the request does not want to wait any longer. It lists the fields of
    the request that were ignored, and how far a change is. With the record that it shows, it has an
    ETag."""
    synced(None)
    _follow_up()
    if isinstance(content, dict):
        notes = {name: g.get(name) for name in ("ignored", "in_force", "pending", "warnings")}
        content = content | {name: found for name, found in notes.items() if found}
    response = jsonify(content)
    if g.get("pending") and "wait_for_sync" in request.args:
        response.status_code = 202
    if record is not None:
        # Clients that have this very answer need no other one (If-None-Match). What is stored may
        # be as it was while the answer tells of servers, so both are in it.
        shown = hashlib.sha256(response.get_data()).hexdigest()[:16]
        response.set_etag(f"{tag(record)}{SHOWN}{shown}")
        response.make_conditional(request)
        response.headers.pop("Date", None)  # the server's own is enough
    return response


def warn(text: str) -> None:
    """The answer will say it: what is asked for is done, and may not have been meant."""
    g.setdefault("warnings", []).append(text)


def _follow_up() -> None:
    """How far the servers are with a change: for answers that are ours, and where they are asked
    about. Redis Enterprise's own stay as they are."""
    moved = current_store().request.moved()
    if not moved or not ("wait_for_sync" in request.args or request.path.startswith(OURS)):
        return
    if "pending" not in g:
        g.pending = missing(store(), moved)
    g.in_force = in_force(store(), moved)


def tag(record: object) -> str:
    """Changes with the record, but not with its user's logins."""
    if isinstance(record, User):
        record = replace(record, last_login=0)
    return hashlib.sha256(repr(record).encode()).hexdigest()[:32]


def unchanged(record: Parsed) -> Parsed:
    """The record that is about to be changed. Raises Refusal 409 where the request's If-Match says
    that its sender has seen another state of it."""
    wanted = request.if_match
    known = {one.partition(SHOWN)[0] for one in wanted.as_set() if one}
    if "If-Match" in request.headers and not (wanted.star_tag or tag(record) in known):
        raise conflict(
            "config_edit_conflict",
            "somebody else has changed this object since you read it (If-Match): read it again",
        )
    return record


def in_field(name: str, read: Callable[[], Parsed]) -> Parsed:
    """What `read` returns; where the core or an ACL's text does not parse, 400 with the field."""
    try:
        return read()
    except (CoreError, ValueError) as error:
        raise invalid("invalid_param", f"{name}: {error}") from error
