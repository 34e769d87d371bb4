"""What the pages of users, roles, ACLs and databases have in common: a list that is searched, a
form, and a change that is shown before it is made."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, render_template, request
from werkzeug.datastructures import MultiDict

from control.domain.guard import denied
from control.errors import Refusal, invalid
from control.ui import audit, changes, lists, revert
from control.ui.ask import answer, ask, may, offset_of, who
from control.ui.changes import Change, Item
from control.ui.fields import Choices, Field

PAGE = 50  # rows of a list
PART, MOST = 5_000, 1_000_000  # of a file: read at once, and in all
MORE = "more"  # the button that shows more of a form, and changes nothing


@dataclass(frozen=True)
class Column:
    """Of a list: what its cells show. Of a cell that is a status, `kind` says how good it is."""

    label: str
    text: Callable[[Item], str]
    kind: Callable[[Item], str] | None = None
    code: bool = False
    sort: str = ""  # what the API calls it, where a list can be sorted by it
    when: Callable[[Item], int] | None = None  # of a time: seconds since 1970, 0 for never


@dataclass(frozen=True)
class Kind:
    """A kind of objects. `write` are the permissions to create, change and remove one; `facts` is
    a template with more about one, and `more` what it needs to know besides `item`.
    `needs_password` says whether a user must be given one: of what it is, and what is sent."""

    noun: str  # "user"
    title: str  # "Users"
    hint: str  # what they are
    place: str  # the last part of the address of their list
    api: str  # the path of the API
    write: tuple[str, str, str]
    columns: Sequence[Column]
    fields: Sequence[Field]
    facts: str = ""
    more: Callable[[Item], Mapping[str, Any]] = lambda _: {}
    needs_password: Callable[[Item, Item], bool] = lambda _item, _body: False
    noun_in_log: str = ""
    filters: Sequence[Field] = ()
    chosen: Choices = tuple  # what can be done with several

    @property
    def labels(self) -> dict[str, str]:
        return {field.name: field.label for field in self.fields}

    @property
    def address(self) -> str:
        return f"/ui/{self.place}"

    @property
    def heads(self) -> list[tuple[str, str]]:
        """The columns of its list, and what it is sorted by in each."""
        return [("Name", "name"), *((one.label, one.sort) for one in self.columns)]


def blueprint_of(kind: Kind) -> Blueprint:
    """The pages of a kind."""
    blueprint = Blueprint(kind.place, __name__, url_prefix=kind.address)
    one = "/<int(max=2147483647):uid>"
    blueprint.add_url_rule("/", "show", lambda: listed(kind))
    blueprint.add_url_rule("/export.csv", "export", lambda: exported(kind))
    blueprint.add_url_rule("/new", "new", lambda: new(kind))
    blueprint.add_url_rule("/new", "create", lambda: create(kind), methods=["POST"])
    blueprint.add_url_rule(one, "item", lambda uid: item(kind, uid))
    blueprint.add_url_rule(one, "update", lambda uid: update(kind, uid), methods=["POST"])
    blueprint.add_url_rule(f"{one}/remove", "remove", lambda uid: remove(kind, uid),
                           methods=["POST"])  # fmt: skip
    return blueprint


def listed(kind: Kind) -> Any:
    text, offset, sort = request.args.get("search", ""), offset_of(request.args), order(kind)
    query = {"search": text, "limit": PAGE + 1, "offset": offset, **filtered(kind), **sort}
    answered = answer(f"GET {kind.api}", query=query)
    found = answered.content
    args = {k: v for k, v in {"search": text, **filtered(kind), **sort}.items() if v}
    return render_template(
        "objects.html", kind=kind, items=found[:PAGE], more=len(found) > PAGE, search=text,
        offset=offset, limit=PAGE, total=answered.total, chosen=filtered(kind), args=args,
        heads=lists.heads(f"{kind.place}.show", kind.heads, args), doable=list(kind.chosen()),
    )  # fmt: skip


def order(kind: Kind) -> dict[str, str]:
    """What a list is sorted by, as a parameter of the API."""
    sort = lists.sort_of(kind.heads)
    return {"sort": sort} if sort else {}


def filtered(kind: Kind) -> dict[str, str]:
    """What else a list is filtered by."""
    names = (one.name for one in kind.filters)
    return {name: request.args[name] for name in names if request.args.get(name)}


def exported(kind: Kind) -> Any:
    """All that fit, as a file."""
    rows, text = [], request.args.get("search", "")
    for offset in range(0, MOST, PART):
        query = {"search": text, "limit": PART, "offset": offset, **filtered(kind), **order(kind)}
        found = ask(f"GET {kind.api}", **query)
        rows += [(one["name"], *(column.text(one) for column in kind.columns)) for one in found]
        if len(found) < PART:
            break
    heads = ("Name", *(column.label for column in kind.columns))
    return audit.as_csv(kind.place, heads, rows)


def item(kind: Kind, uid: int) -> Any:
    found = answer(f"GET {kind.api}/{uid}")
    return form(kind, found.content, found.etag)


def new(kind: Kind) -> Any:
    if not may(kind.write[0]):
        raise denied(who(), kind.write[0])
    return form(kind, {})


def form(kind: Kind, shown: Item, etag: str = "", error: Refusal | None = None) -> Any:
    """The page of an object, or of one to be made. After an `error`, and where more of the form is
    asked for, it is as it was sent."""
    sent = error is not None or MORE in request.form
    wrong = changes.problems(error, kind.labels) if error else []
    create_or_update = kind.write[1 if shown else 0]
    page = render_template(
        "object.html", kind=kind, item=shown, etag=etag, errors=wrong,
        values=values(kind, shown, sent),
        wrong={name: text for name, _, text in wrong if name}, editable=may(create_or_update),
        history=undoable(kind, shown) if shown else [],
        **(kind.more(shown) if shown else {}),
    )  # fmt: skip
    return page, error.status if error else HTTPStatus.OK


def values(kind: Kind, item: Item, sent: bool) -> dict[str, Any]:
    """What stands in the fields of a form: those of an object, or what was sent."""
    return {
        field.name: field.typed(request.form) if sent else field.shown(item.get(field.name))
        for field in kind.fields
    }


def is_of_the_form(error: Refusal) -> bool:
    """Whether what is wrong is shown in the form, and is not the preview's or the login's."""
    away = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return error.status not in away and "body" not in request.form


def create(kind: Kind) -> Any:
    if MORE in request.form:
        return form(kind, {})
    try:
        said = {field.name: field.nullable for field in kind.fields}
        body = carried_body() or {
            name: value for name, value in read(kind).items()
            if value is not None and (said[name] or value not in ("", []))
        }  # fmt: skip
        change = Change(
            "POST", kind.api, body, f"Add the {kind.noun} {body.get('name', '')}",
            f"The {kind.noun} {body.get('name', '')} was added.", f"{kind.address}/new",
            password=kind.needs_password({}, body), name=body.get("name", ""), fields=kind.fields,
        )  # fmt: skip
        return changes.run(change, {"body": json.dumps(body)}, lambda made: of(kind, made))
    except Refusal as error:
        return again(kind, {}, "", error)


def update(kind: Kind, uid: int) -> Any:
    now = ask(f"GET {kind.api}/{uid}")
    etag = request.form.get("etag", "")
    if MORE in request.form:
        return form(kind, now, etag)
    try:
        body = carried_body() or changed(kind, now)
        change = Change(
            "PUT", f"{kind.api}/{uid}", body, f"Change the {kind.noun} {now['name']}",
            f"The {kind.noun} {now['name']} was changed.", f"{kind.address}/{uid}", etag,
            kind.needs_password(now, body), name=now["name"], was=now, fields=kind.fields,
        )  # fmt: skip
        carried = {"body": json.dumps(body), "etag": etag}
        return changes.run(change, carried, lambda made: of(kind, made))
    except Refusal as error:
        return again(kind, now, etag, error)


def undoable(kind: Kind, shown: Item) -> list[Item]:
    """The last changes of an object; a change whose values the log has whole can be undone."""
    found = audit.history(kind.noun_in_log, shown["uid"])
    for one in found:
        body = revert.body_of(one["event"], shown)
        if body and may(kind.write[1]):
            address = f"{kind.address}/{shown['uid']}"
            one["revert"] = {"address": address, "body": json.dumps(body)}
    return found


def again(kind: Kind, shown: Item, etag: str, error: Refusal) -> Any:
    """The form once more, with what is wrong; where it is the form's own and not the preview's."""
    if not is_of_the_form(error):
        raise error
    return form(kind, shown, etag, error)


def remove(kind: Kind, uid: int) -> Any:
    found = answer(f"GET {kind.api}/{uid}")
    name, etag = found.content["name"], request.form.get("etag", found.etag)
    change = Change(
        "DELETE", f"{kind.api}/{uid}", None, f"Remove the {kind.noun} {name}",
        f"The {kind.noun} {name} was removed.", f"{kind.address}/{uid}", etag,
        name=name,
    )  # fmt: skip
    return changes.run(change, {"etag": etag}, lambda _: kind.address)


def of(kind: Kind, made: Any) -> str:
    return f"{kind.address}/{made['uid']}"


def read(kind: Kind) -> Item:
    """The body that the form means. Raises Refusal 400, also where nothing was chosen of what an
    empty choice could be taken for a default."""
    found = {field.name: field.read(request.form) for field in kind.fields}
    for field in kind.fields:
        if field.required and field.widget == "many" and not found[field.name]:
            raise invalid("invalid_param", f"{field.name}: choose at least one")
    return found


def changed(kind: Kind, now: Item) -> Item:
    """What of it differs from how the object is. Raises Refusal 400."""
    sent = read(kind)
    body = {
        field.name: sent[field.name]
        for field in kind.fields
        if sent[field.name] != field.read(MultiDict(field.posted(now.get(field.name))))
    }
    if not body:
        raise invalid("nothing_changed", "the form says what is there already")
    return body


def carried_body() -> Item | None:
    """What the form of the preview brings back."""
    text = request.form.get("body")
    try:
        found = json.loads(text) if text else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else None
