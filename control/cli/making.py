"""The steps of a plan of `apply`, sent to the REST API; and what they would change, before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from control.cli.apply import CA, CLIENT_CERTS, PINS, SECTIONS, Fields, PolicyFileError, Step
from control.cli.client import Client, item


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

    def __call__(self, method: str, path: str, body: Any = None) -> Any: ...
    def named(self, path: str, name: str) -> dict[str, Any]: ...


class Rehearsal:
    """Takes requests down, for a preview, and does none but GET. What they would make has a uid
    already, for those behind to name."""

    def __init__(self, ask: Client) -> None:
        self.changes: list[Fields] = []
        self._ask = ask
        self._made: dict[tuple[str, str], int] = {}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
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
        made = self._made.get((path, name))
        return {"uid": made, "name": name} if made else self._ask.named(path, name)

    def preview(self) -> list[Fields]:
        """What they would do. Raises ApiError."""
        sent = {"changes": self.changes}
        found: list[Fields] = self._ask("POST", "/v1/certauth/preview", sent)["databases"]
        return found


class Changes:
    """A client for whom no change waits; `moved`: one of them is for servers to follow."""

    def __init__(self, ask: Client) -> None:
        self._ask, self.moved = ask, False
        self._named: dict[tuple[str, str], dict[str, Any]] = {}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        if method == "GET":
            return self._ask(method, path)
        found = self._ask(method, f"{path}?wait_for_sync=0", body)
        self.moved = self.moved or "in_force" in found
        return found

    def named(self, path: str, name: str) -> dict[str, Any]:
        """Roles and ACLs, which many steps name, are asked for once."""
        if path not in OFTEN_NAMED:
            return self._ask.named(path, name)
        if (path, name) not in self._named:
            self._named[path, name] = self._ask.named(path, name)
        return self._named[path, name]


OFTEN_NAMED = (SECTIONS["roles"].path, SECTIONS["redis_acls"].path)
MOST = 1000  # changes in one preview


LAST_UID = 2**31 - 1


def carry_out(ask: Asks, step: Step) -> None:
    """Raises ApiError."""
    section = SECTIONS[step.section]
    if step.section == CA:
        _trust(ask, step.fields["pem"])
    elif section.single:
        ask("PUT", section.path, step.fields)
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
