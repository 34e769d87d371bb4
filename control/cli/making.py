"""The steps of a plan of `apply`, sent to the REST API; and what they would change, before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from control.cli.apply import (
    CA,
    CLIENT_CERTS,
    CRLS,
    PINS,
    SECTIONS,
    Fields,
    PolicyFileError,
)
from control.cli.client import Client, item
from control.cli.planning import Step


def with_password(step: Step) -> Step:
    """A step with the password itself instead of its file. Raises PolicyFileError."""
    fields = dict(step.fields)
    if "password_file" in fields:
        file = Path(fields.pop("password_file"))
        try:
            fields["password"] = file.read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise PolicyFileError(f"{step.title}: password_file: {error}") from error
    return replace(step, fields=fields)


class Asks(Protocol):
    """What steps need of a client."""

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a call of the API."""

    def named(self, path: str, name: str) -> dict[str, Any]:
        """The object of that name at `path`."""


class Names:
    """The uids of a collection by name, asked for once: a plan of 10,000 changes names many."""

    def __init__(self, ask: Client) -> None:
        self._ask = ask
        self._known: dict[str, dict[str, int]] = {}

    def find(self, path: str, name: str) -> dict[str, Any]:
        """Raises ApiError."""
        if path not in self._known:
            self._known[path] = {one["name"]: one["uid"] for one in self._ask("GET", path)}
        uid = self._known[path].get(name)
        return {"uid": uid, "name": name} if uid else self._ask.named(path, name)

    def made(self, path: str, body: Any, answer: Any) -> None:
        """What was made is one of those."""
        if path in self._known and body and "name" in body and "uid" in answer:
            self._known[path][body["name"]] = answer["uid"]


class Rehearsal:
    """Takes requests down, for a preview, and does none but GET. What they would make has a uid
    already, for those behind to name."""

    def __init__(self, ask: Client) -> None:
        self.changes: list[Fields] = []
        self._ask, self._names = ask, Names(ask)
        self._made: dict[tuple[str, str], int] = {}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """What reads is asked; what changes something is kept, and answered as if it were done."""
        if method == "GET":
            return self._ask(method, path)
        if method == "POST" and "name" in body:
            uid = LAST_UID - len(self._made)
            body = {**body, "uid": uid}
            self._made[path, body["name"]] = uid
        change = {"method": method, "path": path}
        self.changes.append(change if body is None else {**change, "body": body})
        return body

    def named(self, path: str, name: str) -> dict[str, Any]:
        """The object of that name, also one that would have been made."""
        made = self._made.get((path, name))
        return {"uid": made, "name": name} if made else self._names.find(path, name)

    def preview(self) -> list[Fields]:
        """What they would do. Raises ApiError."""
        if not self.changes:
            return []
        sent = {"changes": self.changes}
        found: list[Fields] = self._ask("POST", "/v1/certauth/preview", sent)["databases"]
        return found


class Changes:
    """A client for whom no change waits; `moved`: one of them is for servers to follow.
    `warnings`: what the API has said of those that it made."""

    def __init__(self, ask: Client) -> None:
        self._ask, self._names, self.moved = ask, Names(ask), False
        self.warnings: list[str] = []

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a call, which waits for no server; its warnings are kept."""
        if method == "GET":
            return self._ask(method, path)
        found = self._ask(method, f"{path}?wait_for_sync=0", body)
        self.warnings += [*found.get("warnings", ()), *filter(None, [found.get("note")])]
        self.moved = self.moved or "in_force" in found
        if method == "POST":
            self._names.made(path, body, found)
        return found

    def named(self, path: str, name: str) -> dict[str, Any]:
        """The object of that name at `path`."""
        return self._names.find(path, name)


MOST = 1000  # changes in one preview
UNFORETOLD = {CRLS}  # sections whose changes a preview cannot make: it fetches nothing
FETCHED = "/v1/certauth/trust_sources"  # nor those of what is there


LAST_UID = 2**31 - 1


def carry_out(ask: Asks, step: Step) -> None:
    """Raises ApiError."""
    section = SECTIONS[step.section]
    if step.section == CA:
        _trust(ask, step.fields["pem"])
    elif section.single:
        ask("PUT", section.path, step.fields)
    elif step.section == CRLS:
        ask("POST", section.path, {**step.old, **step.fields, "url": step.name})
    elif step.action == "create":
        ask("POST", section.path, sent(ask, step.fields))
    else:
        path = item(section.path, ask.named(section.path, step.name)["uid"])
        if step.action == "delete":
            ask("DELETE", path)
        else:
            ask("PUT", path, sent(ask, step.fields))


def _trust(ask: Asks, pem: str) -> None:
    path = SECTIONS[CA].path
    if pem:
        entry = {"name": "mtls_trusted_ca", "certificate": pem, "trust_grows": True}
        ask("PUT", path, {"certificates": [entry]})
    else:
        ask("DELETE", f"{path}/mtls_trusted_ca")


def sent(ask: Asks, fields: Fields) -> Fields:
    """The fields of a request: uids instead of names. What the file says to trust is agreed to."""
    sent = dict(fields)
    if sent.keys() & {CLIENT_CERTS, PINS}:
        sent["trust_grows"] = True
    if "roles" in sent:
        sent["role_uids"] = [_uid(ask, "roles", name) for name in sent.pop("roles")]
    if "roles_permissions" in sent:
        sent["roles_permissions"] = [
            {
                "role_uid": _uid(ask, "roles", one["role"]),
                "redis_acl_uid": _uid(ask, "redis_acls", one["redis_acl"]),
            }
            for one in sent["roles_permissions"]
        ]
    return sent


def _uid(ask: Asks, section: str, name: str) -> int:
    return int(ask.named(SECTIONS[section].path, name)["uid"])
