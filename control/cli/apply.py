"""The declared state of a control plane: read from YAML, compared, made so.

Everything is called by name here, and gets its uid only when it is sent. `plan` is pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from control.api import models
from control.api.bdb_models import BdbBody
from control.api.cluster import ClusterBody, PolicyBody
from control.api.identities import IdentityBody
from control.api.issuers import IssuerBody
from control.api.patterns import PatternBody
from control.api.redis_acls import RedisAclBody
from control.api.roles import RoleBody
from control.api.users import UserBody
from control.cli import files, issuers
from control.cli.client import Client
from control.cli.output import IDENTITIES
from control.pki import trust
from control.pki.guarded import CertificateError
from control.pki.reading import certificates_in, render_all
from control.pki.uploads import read_bundle
from control.policy import bindings, core, pasted, patterns
from control.records import BUILTIN_ROLES, FIRST_ACLS, Pattern

Fields = dict[str, Any]
Objects = dict[str, Fields]  # by name; a thing that there is only one of has the name ""
State = dict[str, Objects]  # by section of the file


class PolicyFileError(Exception):
    """What is wrong in the file, for anyone who wrote it."""


@dataclass(frozen=True)
class Section:
    """`single` are those that there is one of. `known` are the fields that an object may have."""

    path: str
    known: frozenset[str]
    single: bool = False


def _of(model: type[models.Body], *more: str, without: Iterable[str] = ()) -> frozenset[str]:
    names = (one.alias or name for name, one in model.model_fields.items())
    return frozenset(names).union(more).difference(without)


CA, PATTERNS, ISSUERS = "trusted_ca", "patterns", "issuers"
CLIENT_CERTS, PINS = "authentication_ssl_client_certs", "pinned_certificates"
# In the order in which they are made, since each may name what comes before; the settings are last,
# for they may shut out who is not there yet. Deleted in the other order.
SECTIONS = {
    CA: Section("/v1/cluster/certificates", frozenset({"pem"}), single=True),
    "redis_acls": Section("/v1/redis_acls", _of(RedisAclBody)),
    "roles": Section("/v1/roles", _of(RoleBody, without=["resources"])),
    "users": Section(
        "/v1/users",
        _of(UserBody, "roles", "password_file", without=["role", "role_uids", "password"]),
    ),
    PATTERNS: Section("/v1/certauth/patterns", _of(PatternBody, "roles", without=["role_uids"])),
    ISSUERS: Section("/v1/certauth/issuers", _of(IssuerBody)),
    "bdbs": Section("/v1/bdbs", _of(BdbBody)),
    "cluster": Section(
        "/v1/cluster", _of(ClusterBody, without=["min_data_TLS_version"]), single=True
    ),
    "cluster_policy": Section("/v1/cluster/policy", _of(PolicyBody), single=True),
}
KEPT = {
    "roles": {one.name for one in BUILTIN_ROLES},
    "redis_acls": {one.name for one in FIRST_ACLS},
}
ONCE = {"password_file"}  # only when an object is made: it cannot be compared


# ---- The file ------------------------------------------------------------------------------------


if TYPE_CHECKING:
    SafeLoader = yaml.SafeLoader
else:  # libyaml's parser, where it is: it takes a tenth of the time
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(SafeLoader):
    """A key that is there twice is an error: one of the two would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice",
                                                    node.start_mark)  # fmt: skip
        return found


def read(file: Path) -> State:
    """The state that a file declares. Relative names of files in it are relative to it. Raises
    PolicyFileError."""
    try:
        found = yaml.load(files.decoded(file.read_bytes()), _Loader)  # noqa: S506 (a SafeLoader)
        return parse(found, file.parent)
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise PolicyFileError(f"{file}: {error}") from error
    except PolicyFileError as error:
        raise PolicyFileError(f"{file}: {error}") from error


def parse(found: Any, folder: Path) -> State:
    """Raises PolicyFileError, OSError."""
    if not isinstance(found, dict):
        raise PolicyFileError(f"no sections; there are {', '.join(SECTIONS)}")
    for name in found:
        if name not in SECTIONS:
            raise PolicyFileError(f"no section '{name}'; there are {', '.join(SECTIONS)}")
    return {name: _section(name, found[name], folder) for name in SECTIONS if name in found}


def _section(name: str, found: Any, folder: Path) -> Objects:
    if name == CA:
        if not isinstance(found, str):
            raise PolicyFileError(f"{CA}: give PEM, or the name of a file of it")
        return {"": normal(name, {"pem": _pem(found, folder)})}
    if SECTIONS[name].single:
        return {"": _object(name, name, found, folder)}
    if not isinstance(found, list):
        raise PolicyFileError(f"{name}: not a list")
    objects: Objects = {}
    for index, one in enumerate(found):
        key = one.get("name") if isinstance(one, dict) else None
        if not isinstance(key, str) or not key:
            raise PolicyFileError(f"{name}.{index}: it has no name")
        if key in objects:
            raise PolicyFileError(f"{name}: '{key}' is there twice")
        objects[key] = _object(name, f"{name} '{key}'", one, folder)
    return objects


def _object(section: str, where: str, found: Any, folder: Path) -> Fields:
    if not isinstance(found, dict):
        raise PolicyFileError(f"{where}: no fields")
    known = SECTIONS[section].known
    for name, value in found.items():
        if name not in known:
            there = ", ".join(sorted(known))
            raise PolicyFileError(f"{where}: no field '{name}'; there are {there}")
        if value is None:
            raise PolicyFileError(f"{where}: '{name}' is empty; leave it out, or say \"\"")
    fields = dict(found)
    for name in ("tls_server_ca", "password_file"):
        if name in fields and not isinstance(fields[name], str):
            raise PolicyFileError(f"{where}: '{name}' is not text")
    if "tls_server_ca" in fields:
        fields["tls_server_ca"] = _pem(fields["tls_server_ca"], folder)
    if section == ISSUERS:
        fields |= issuers.from_files(fields, folder, _pem)
    if "password_file" in fields:
        fields["password_file"] = str(folder / fields["password_file"])
    try:
        return normal(section, fields)
    except (core.CoreError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise PolicyFileError(f"{where}: a field has the wrong form: {error}") from error


def _pem(text: str, folder: Path) -> str:
    """PEM, or that of a file. Raises PolicyFileError, OSError."""
    if not text or "-----BEGIN" in text:
        return text
    try:
        return render_all(certificates_in((folder / text).read_bytes()))
    except CertificateError as error:
        raise PolicyFileError(f"{text}: {error}") from error


def exported(state: State) -> dict[str, Any]:
    """The sections of a file that declares this. Passwords are not in it: nobody can read them."""
    found: dict[str, Any] = {}
    for name, objects in state.items():
        if name == CA:
            found |= {CA: objects[""]["pem"]} if objects[""]["pem"] else {}
        elif SECTIONS[name].single:
            found[name] = {key: one for key, one in objects[""].items() if one is not None}
        else:
            found[name] = [_declared(one) for one in objects.values()]
    return found


def _declared(one: Fields) -> Fields:
    """Without what says nothing, and without a subject line, which is among the identities."""
    empty = {name for name in one if one[name] is None}
    empty |= {name for name in (IDENTITIES, "email") if not one.get(name)}
    return {name: one[name] for name in one if name not in empty | {"certificate_subject_line"}}


def dump(state: Mapping[str, Any]) -> str:
    """A file that declares this: sections with lists of objects, or with one."""
    return yaml.dump(dict(state), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """PEM stays readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


# ---- One form for what is declared and what is there ---------------------------------------------


def normal(section: str, found: Mapping[str, Any]) -> Fields:
    """An object's fields in the form in which two that mean the same are equal. Raises whatever
    comes of fields of another form."""
    fields = {name: found[name] for name in found if name in SECTIONS[section].known}
    if fields.get("certificate_subject_line"):
        fields["certificate_subject_line"] = pasted.name(fields["certificate_subject_line"]).text
    if IDENTITIES in fields:
        fields[IDENTITIES] = in_order(map(_identity, fields[IDENTITIES]))
        subjects = {one.get("subject", "") for one in fields[IDENTITIES]}
        if fields.get("certificate_subject_line", "") not in subjects | {""}:
            raise ValueError(f"certificate_subject_line is not among the {IDENTITIES}")
    if "roles" in fields:
        fields["roles"] = sorted(set(fields["roles"]))
    if section == PATTERNS:
        fields = _pattern(fields)
    if section == ISSUERS:
        fields = issuers.normal(fields)
    for name in ("pem", "tls_server_ca"):
        if name in fields:
            fields[name] = "".join(sorted(_certificates(fields[name])))
    for name in ("mtls_authorized_subjects", "authorized_subjects"):
        if name in fields:
            fields[name] = [{k: v for k, v in one.items() if v} for one in fields[name]]
    if "endpoints" in fields:
        fields["endpoints"] = [_endpoint(one) for one in fields["endpoints"]]
    if CLIENT_CERTS in fields:
        certs = "\n".join(one["client_cert"] for one in fields[CLIENT_CERTS])
        fields[CLIENT_CERTS] = [{"client_cert": one} for one in sorted(_certificates(certs))]
    if PINS in fields:
        fields[PINS] = _pins(fields)
    if "roles_permissions" in fields:
        given = {(one["role"], one["redis_acl"]) for one in fields["roles_permissions"]}
        fields["roles_permissions"] = [{"role": r, "redis_acl": a} for r, a in sorted(given)]
    return fields


def _identity(found: Any) -> Fields:
    """An identity in its canonical spelling; its CA, which the trusted ones tell, as it is. Raises
    ValueError."""
    said = IdentityBody.model_validate(found).said()
    ca = said.pop("ca", "")
    shown = bindings.shown(bindings.read(said | {"from": sorted(said.get("from", ()))}))
    return shown | ({"ca": ca} if ca else {})


def _pattern(found: Fields) -> Fields:
    """A pattern in its canonical spelling; its CA as it is. Raises ValueError."""
    missing = [name for name in ("kind", "template", "user") if not found.get(name)]
    if missing:
        raise ValueError(f"a pattern has a {missing[0]}")
    PatternBody.model_validate({name: one for name, one in found.items() if name != "roles"})
    said = Pattern(0, "", found["kind"], found["template"], found["user"],
                   networks=tuple(sorted(found.get("from", ()))),
                   session=found.get("session", ""))  # fmt: skip
    made = patterns.spelled(said)
    spelled = {"template": made.template, "user": made.user, "from": list(made.networks)}
    return {**found, **{name: one for name, one in spelled.items() if name in found}}


def _pins(found: Fields) -> list[str]:
    """The SHA-256 of clients' own certificates: of those that are not CAs, which need not be said,
    and of those that were said. Raises ValueError."""
    if CLIENT_CERTS not in found:
        raise ValueError(f"{PINS} stands beside the {CLIENT_CERTS} that it names")
    pem = "".join(one["client_cert"] for one in found[CLIENT_CERTS])
    return sorted({*trust.leaves(pem), *(one.lower() for one in found[PINS])})


def in_order(identities: Iterable[Fields]) -> list[Fields]:
    """The first plain subject, which is the subject line; then the others in an order that does not
    depend on who wrote them."""
    found = list(identities)
    line = next((one for one in found if one.keys() == {"subject"}), None)
    rest = sorted((one for one in found if one is not line), key=_brief)
    return ([line] if line else []) + rest


def _endpoint(found: Mapping[str, Any]) -> Fields:
    shown = {name: value for name, value in found.items() if name != "uid"}
    return {"addr": [], "dns_name": "", **shown}


def _certificates(pem: str) -> Iterator[str]:
    """Each certificate of a text once, in one spelling; not those that the API leaves out. Raises
    ValueError."""
    if pem.strip():
        yield from read_bundle(pem).pem


def fetch(ask: Client) -> State:
    """What is there. Raises ApiError."""
    found = {name: ask("GET", one.path) for name, one in SECTIONS.items()}
    roles = {one["uid"]: one["name"] for one in found["roles"]}
    acls = {one["uid"]: one["name"] for one in found["redis_acls"]}
    for role in found["roles"]:
        # Which databases a role is for is not in a file: without that it must not be for all.
        role["management"] = "none" if role.get("resources") else role["management"]
    for one in (*found["users"], *found[PATTERNS]):
        one["roles"] = [roles[uid] for uid in one["role_uids"] if uid in roles]
    for database in found["bdbs"]:
        database["roles_permissions"] = [
            {"role": roles[one["role_uid"]], "redis_acl": acls[one["redis_acl_uid"]]}
            for one in database["roles_permissions"]
        ]
    found[CA] = {"pem": found[CA].get("mtls_trusted_ca_cert", "")}
    return {
        name: {"": normal(name, content)}
        if SECTIONS[name].single
        else {one["name"]: normal(name, one) for one in content}
        for name, content in found.items()
    }


# ---- The plan ------------------------------------------------------------------------------------


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
        return " ".join((self.action, self.section, f"'{self.name}'" if self.name else "")).strip()

    def __str__(self) -> str:
        """The title, and a line for each field."""
        lines = [self.title]
        for name, value in self.fields.items():
            if name != "name":
                was = f"{_brief(self.old[name])} -> " if name in self.old else ""
                lines.append(f"    {name}: {was}{_brief(value)}")
        return "\n".join(lines)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    certificates = text.count("-----BEGIN CERTIFICATE-----")
    return f"({certificates} certificates)" if certificates else text


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
        if prune and section in wanted and not SECTIONS[section].single
        for name in found[section]
        if name not in wanted[section] and name not in _kept(section, me)
    ]
    _check_names(wanted, found, {(step.section, step.name) for step in doomed})
    return steps + doomed


def _with_key_ids(wanted: State, found: State) -> State:
    """With the key id of each CA that an identity or a pattern names. One that will not be trusted
    stays as it is, and the API says so."""
    pem = wanted.get(CA, found[CA]).get("", {}).get("pem", "")
    try:
        trusted = [core.identity(one.encode()) for one in _certificates(pem)]
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
    named = {name: key_id(one) for name, one in wanted.get(PATTERNS, {}).items()}
    more = {"users": users, PATTERNS: named}
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

    for section in ("users", PATTERNS):
        for name, one in wanted.get(section, {}).items():
            for role in one.get("roles", []):
                check("roles", role, f"{section} '{name}'")
    for name, database in wanted.get("bdbs", {}).items():
        for given in database.get("roles_permissions", []):
            check("roles", given["role"], f"bdbs '{name}'")
            check("redis_acls", given["redis_acl"], f"bdbs '{name}'")
