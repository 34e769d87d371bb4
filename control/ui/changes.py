"""Changes are shown before they are made: which policy lines come and go, which sessions end.

The first time a change comes, POST /v1/certauth/preview says what it would do, and the person is
asked. What they agree to carries a digest of that. Where it would do something else by then, they
are asked again, and nothing is made that nobody has seen."""

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from flask import flash, redirect, render_template, request

from control.errors import Refusal, conflict, invalid, refused
from control.policy import core, pasted
from control.ui.ask import Answer, answer, ask, takes
from control.ui.fields import Field

WAIT = 2  # seconds for the servers, before the page says that they are still to follow
Item = dict[str, Any]  # as the API takes and shows it
ABOUT = re.compile(r"changes\.\d+ \([^)]*\): ")  # how the preview begins what is refused
FIELD = re.compile(r"(\w+)[\w.]*: (.+)", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A call of the API, and the call that undoes it."""

    method: str
    path: str
    body: Item | None
    undo: "Call | None" = None

    @property
    def told(self) -> Item:
        """As a preview takes it."""
        sent: Item = {"method": self.method, "path": self.path}
        return sent | ({} if self.body is None else {"body": self.body})


@dataclass(frozen=True)
class Change:
    """A call of the API, and how the page speaks of it. With `etag`, it is for that state only.
    With `password`, the person is asked for one when they agree, and it goes nowhere before."""

    method: str
    path: str
    body: Item | None
    title: str  # "Change the user alice"
    done: str  # "The user alice was changed."
    back: str  # the address of where it begins
    etag: str = ""
    password: bool = False
    name: str = ""  # of the object: what one types to agree to something grave
    was: Item = field(default_factory=dict)  # the object as it is, where it is changed
    facts: Sequence[tuple[str, str]] = ()  # what else one looks at before one agrees
    fields: Sequence[Field] = ()  # how the values of the body are told
    first: tuple[Call, ...] = ()  # what is done before it, and undone where it then fails

    @property
    def calls(self) -> list[Item]:
        """As the preview takes them."""
        return [one.told for one in (*self.first, Call(self.method, self.path, self.body))]


def run(change: Change, carried: Mapping[str, str], then: Callable[[Any], str]) -> Any:
    """Shows the change, or makes it where the form says that it was agreed to. `carried` are the
    form's fields that make it the same change when they come again; `then` says where to go with
    what the API answers. Raises Refusal where the change is none to agree to."""
    check_state(change)
    found = preview(change)
    digest = digest_of(change, found)
    agreed = request.form.get("digest")
    if agreed is None:
        return asked(change, carried, found, digest)
    if refusing(found):
        return asked(change, carried, found, digest, refused("refused_by_server", REFUSED))
    if agreed != digest:
        text = "The effect of this change is different now. Review it again:"
        return asked(change, carried, found, digest, conflict("changed_meanwhile", text))
    if is_grave(found) and request.form.get("confirm", "").strip() != word_of(change):
        text = f"confirm: type '{word_of(change)}' to agree to this"
        return asked(change, carried, found, digest, invalid("not_confirmed", text))
    try:
        made = make(change, meant=is_grave(found))
    except Refusal as error:
        return asked(change, carried, found, digest, error)
    if behind := not_in_force(made):
        flash(f"{change.done} But {behind}", "behind")
    else:
        flash(f"{change.done}{in_force(made)}")
    for warning in made.content.get("warnings", ()) if isinstance(made.content, dict) else ():
        flash(f"{warning[:1].upper()}{warning[1:]}.", "behind")
    return redirect(then(made.content), HTTPStatus.SEE_OTHER)


def is_grave(found: Sequence[Mapping[str, Any]]) -> bool:
    return any(effect["grave"] for one in found for effect in one["effects"])


def cuts(found: Sequence[Mapping[str, Any]]) -> bool:
    return any(effect["cuts"] for one in found for effect in one["effects"])


def word_of(change: Change) -> str:
    """What is typed to agree to something grave."""
    return change.name or "yes"


REFUSED = "A server refuses this, so it cannot be confirmed: change what it says, and try again."


def refusing(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nodes that refuse a part of a change."""
    return [node for one in found for node in one["nodes"] if node["refused"]]


def in_force(made: Answer) -> str:
    """On how many servers a change is, where it is of any."""
    done, _, all_ = made.in_force.partition("/")
    return f" In force on {done} of {all_} servers." if all_ not in ("", "0") else ""


def not_in_force(made: Answer) -> str:
    """How far a change is, where servers do not hold it after a while; "" where all do."""
    done, _, all_ = made.in_force.partition("/")
    if done == all_:
        return ""
    pending = made.content.get("pending", ()) if isinstance(made.content, dict) else ()
    more = f": {'; '.join(pending)}" if pending else ": see the overview"
    return f"it is in force on {done} of {all_} servers only{more}"


def check_state(change: Change) -> None:
    """Raises Refusal 409 where somebody else was faster."""
    if change.etag and answer(f"GET {change.path}").etag != change.etag:
        raise conflict(
            "config_edit_conflict",
            "somebody else has changed this since you opened it: open it again to see it as it is",
        )


def preview(change: Change) -> list[dict[str, Any]]:
    """What the change would do to each database that it is about. Raises Refusal."""
    if change.password and change.body is not None:  # any, since it does nothing to policies
        any_ = {"password": f"Aa1!{secrets.token_urlsafe(16)}"}
        change = replace(change, body=change.body | any_)
    try:
        found = ask("POST /v1/certauth/preview", {"changes": change.calls})
    except Refusal as error:
        text = ABOUT.sub("", error.description, count=1)
        raise Refusal(error.status, error.error_code, text) from error
    databases: list[dict[str, Any]] = found["databases"]
    return databases


def digest_of(change: Change, found: Sequence[Mapping[str, Any]]) -> str:
    """Of the change, and of what it does to policies. Sessions come and go by themselves."""
    lines = [(one["bdb_uid"], one["added"], one["removed"]) for one in found]
    text = json.dumps([change.calls, lines], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def asked(
    change: Change,
    carried: Mapping[str, str],
    found: Sequence[Mapping[str, Any]],
    digest: str,
    error: Refusal | None = None,
) -> Any:
    page = render_template(
        "preview.html", change=change, carried=carried, databases=found, digest=digest, error=error,
        refused=refusing(found), remarks=remarks(change.body or {}), cuts=cuts(found),
        grave=is_grave(found), word=word_of(change), fields=differing(change),
    )  # fmt: skip
    return page, error.status if error else HTTPStatus.OK


def remarks(body: Item) -> list[str]:
    """How names in a change were read, where they can be read the other way round as well: who
    agrees to it has seen that."""
    subjects = [body.get("certificate_subject_line", "")]
    subjects += [one.get("subject", "") for one in body.get("certificate_identities", ())]
    found = dict[str, None]()
    for subject in filter(None, subjects):
        with suppress(core.CoreError):  # which the preview has refused
            found[pasted.name(subject).remark] = None
    return [f"The name was {remark}." for remark in found if remark]


def differing(change: Change) -> list[tuple[str, str, str]]:
    """Of an object that is changed: the labels of its fields, what they are, and what they become.
    Of a new one, what it is to be."""
    sent = change.body or {}
    return [
        (one.label, one.told(change.was.get(one.name)), one.told(sent[one.name]))
        for one in change.fields
        if one.name in sent
    ]


def make(change: Change, meant: bool) -> Answer:
    """What comes first, too: where a later call is refused, what was made before is taken back.
    `meant`: its name was typed, so that others are trusted than so far was read."""
    undo: list[Call] = []
    stays = 0
    try:
        for one in change.first:
            answer(f"{one.method} {one.path}", one.body)
            undo += [one.undo] if one.undo else []
            stays += one.undo is None
        try:
            return make_last(change, "trust_grows" in request.form)
        except Refusal as error:
            if error.error_code != "trust_grows" or not meant:
                raise
            return make_last(change, trust_grows=True)
    except Refusal as error:
        for one in reversed(undo):
            with suppress(Refusal):  # somebody else uses it by now: it stays
                ask(f"{one.method} {one.path}", one.body)
        if stays:
            done = f"{stays} of {len(change.calls)} were done before that"
            raise Refusal(error.status, error.error_code, f"{error.description}: {done}") from error
        raise


def make_last(change: Change, trust_grows: bool) -> Answer:
    body = change.body
    if change.password and body is not None:
        body = body | {"password": request.form.get("password", "")}
    if trust_grows and body is not None:
        body = body | {"trust_grows": True}
    call = f"{change.method} {change.path}"
    wanted = {"wait_for_sync": WAIT, "force": "force" in request.form}
    query = {name: value for name, value in wanted.items() if name in takes(call)}
    headers = {"If-Match": f'"{change.etag}"'} if change.etag else {}
    return answer(call, body, query=query, headers=headers)


def problems(error: Refusal, labels: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What is wrong, by field: its id, its label and the text; without a field, only the text."""
    code = error.error_code.removesuffix("_already_exists")
    if code in labels:
        return [(code, labels[code], error.description)]
    found: list[tuple[str, str, str]] = []
    for part in error.description.split("; "):
        named = FIELD.fullmatch(part)
        if named and named[1] in labels:
            found.append((named[1], labels[named[1]], named[2]))
        elif found:
            id, label, text = found[-1]
            found[-1] = (id, label, f"{text}; {part}")
        else:
            found.append(("", "", part))
    return found
