"""What is to be done to make a control plane what a file declares: a list of steps. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from control.cli.apply import (
    CA,
    KEPT,
    ONCE,
    PATTERNS,
    PROFILES,
    RESPONDERS,
    SECTIONS,
    Fields,
    PolicyFileError,
    State,
    brief,
    certificates_of,
    in_order,
)
from control.cli.output import IDENTITIES
from control.policy import bindings, core


@dataclass(frozen=True)
class Step:
    """One change of one object: `fields` are those that change, `old` what they were."""

    action: Literal["create", "update", "delete"]
    section: str
    name: str
    fields: Fields
    old: Fields

    @property
    def title(self) -> str:
        """What the step does, in one line."""
        return " ".join((self.action, self.section, f"'{self.name}'" if self.name else "")).strip()

    def __str__(self) -> str:
        """The title, and a line for each field; of a list, for what comes and goes."""
        lines = [f"{SIGNS[self.action]} {self.title}"]
        for name, value in self.fields.items():
            if name != SECTIONS[self.section].by:
                lines += self._field(name, value)
        return "\n".join(lines)

    def _field(self, name: str, value: Any) -> Iterator[str]:
        old = self.old.get(name)
        if isinstance(value, list) and isinstance(old, list):
            gone, come = ([one for one in these if one not in those]
                          for these, those in ((old, value), (value, old)))  # fmt: skip
            yield f"    {name}:{'' if gone or come else ' in another order'}"
            yield from (f"      - {brief(one)}" for one in gone)
            yield from (f"      + {brief(one)}" for one in come)
        else:
            was = f"{brief(old)} -> " if name in self.old else ""
            yield f"    {name}: {was}{brief(value)}"

    def data(self) -> Fields:
        """For programs."""
        return {"action": self.action, "section": self.section, "name": self.name,
                "fields": self.fields, "old": self.old}  # fmt: skip


SIGNS = {"create": "+", "update": "~", "delete": "-"}


def plan(wanted: State, found: State, me: str, prune: bool) -> list[Step]:
    """What is to be done, in order. With `prune`, what a list of the file does not have is deleted;
    not what a new control plane has, and not the user `me`. Raises PolicyFileError where something
    names what will not be there."""
    wanted = _with_key_ids(wanted, found)
    steps = [
        step
        for section in SECTIONS
        for name, fields in wanted.get(section, {}).items()
        if (step := _made(section, name, fields, found[section].get(name)))
    ]
    doomed = [
        Step("delete", section, name, {}, {})
        for section in reversed(SECTIONS)
        if prune and section in wanted and not (SECTIONS[section].single or SECTIONS[section].stays)
        for name in found[section]
        if name not in wanted[section] and name not in _kept(section, me)
    ]
    _check_names(wanted, found, {(step.section, step.name) for step in doomed})
    return steps + doomed


def _with_key_ids(wanted: State, found: State) -> State:
    """With the key id of each CA that an identity, a pattern or a responder names. One that will
    not be trusted stays as it is, and the API says so."""
    pem = wanted.get(CA, found[CA]).get("", {}).get("pem", "")
    try:
        trusted = [core.identity(one.encode()) for one in certificates_of(pem)]
    except core.CoreError as error:
        raise PolicyFileError(f"{CA}: {error}") from error

    def key_id(one: Fields) -> Fields:
        try:
            return {**one, "ca": bindings.ca_among(one["ca"], trusted)} if one.get("ca") else one
        except ValueError:
            return one

    users = {
        name: {**user, IDENTITIES: in_order(map(key_id, user[IDENTITIES]))}
        if IDENTITIES in user
        else user
        for name, user in wanted.get("users", {}).items()
    }
    more = {"users": users}
    for section in (PATTERNS, RESPONDERS):
        more[section] = {name: key_id(one) for name, one in wanted.get(section, {}).items()}
    return {**wanted, **{name: objects for name, objects in more.items() if objects}}


def _made(section: str, name: str, fields: Fields, there: Fields | None) -> Step | None:
    if there is None:
        return Step("create", section, name, fields, {})
    changes = {
        key: value
        for key, value in fields.items()
        if key not in ONCE and not _same(there.get(key), value)
    }
    old = {key: there[key] for key in changes if key in there}
    return Step("update", section, name, changes, old) if changes else None


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one type: 1 is not yes."""
    return type(one) is type(other) and bool(one == other)


def _kept(section: str, me: str) -> set[str]:
    return {me} if section == "users" else KEPT.get(section, set())


def _check_names(wanted: State, found: State, doomed: set[tuple[str, str]]) -> None:
    def check(section: str, name: str, where: str) -> None:
        there = name in found[section] and (section, name) not in doomed
        if not there and name not in wanted.get(section, {}):
            raise PolicyFileError(f"{where}: there will be no '{name}' in {section}")

    for section in ("users", PATTERNS, PROFILES):
        for name, one in wanted.get(section, {}).items():
            for role in one.get("roles", []):
                check("roles", role, f"{section} '{name}'")
    for name, database in wanted.get("bdbs", {}).items():
        for given in database.get("roles_permissions", []):
            check("roles", given["role"], f"bdbs '{name}'")
            check("redis_acls", given["redis_acl"], f"bdbs '{name}'")
