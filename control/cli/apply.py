"""The declared state of a control plane: read from YAML and from the API, in one form.

Everything is called by name here, and gets its uid only when it is sent."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import click
import yaml

from control.api import models
from control.api.bdb_models import BdbBody
from control.api.cluster import ClusterBody, PolicyBody
from control.api.identities import IdentityBody
from control.api.issuers import IssuerBody
from control.api.issuing import ProfileBody
from control.api.patterns import PatternBody
from control.api.redis_acls import RedisAclBody
from control.api.responders import ResponderBody
from control.api.revocation import CrlBody, RevokeBody
from control.api.roles import RoleBody
from control.api.users import UserBody
from control.cli import files, issuers, loading
from control.cli.client import Client
from control.cli.output import IDENTITIES, clean
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
    """`single` are those that there is one of. `known` are the fields that an object may have.
    `stays`: nothing of it is ever deleted by a file, whatever the file has; `by`: what an object is
    called by, where it has no name."""

    path: str
    known: frozenset[str]
    single: bool = False
    stays: bool = False
    by: Literal["name", "line", "url"] = "name"


def _of(model: type[models.Body], *more: str, without: Iterable[str] = ()) -> frozenset[str]:
    names = (one.alias or name for name, one in model.model_fields.items())
    return frozenset(names).union(more).difference(without)


CA, PATTERNS, ISSUERS, RESPONDERS = "trusted_ca", "patterns", "issuers", "responders"
PROFILES, REVOCATIONS, CRLS = "certificate_profiles", "revocations", "crls"
CLIENT_CERTS, PINS = "authentication_ssl_client_certs", "pinned_certificates"
# In the order in which they are made, since each may name what comes before; the settings are last,
# for they may shut out who is not there yet. Deleted in the other order.
SECTIONS = {
    CA: Section("/v1/cluster/certificates", frozenset({"pem"}), single=True),
    "redis_acls": Section("/v1/redis_acls", _of(RedisAclBody)),
    "roles": Section("/v1/roles", _of(RoleBody, without=["resources"])),
    PROFILES: Section("/v1/certauth/profiles", _of(ProfileBody, "roles", without=["role_uids"])),
    "users": Section(
        "/v1/users",
        _of(UserBody, "roles", "password_file", without=["role", "role_uids", "password"]),
    ),
    PATTERNS: Section("/v1/certauth/patterns", _of(PatternBody, "roles", without=["role_uids"])),
    ISSUERS: Section("/v1/certauth/issuers", _of(IssuerBody)),
    "bdbs": Section("/v1/bdbs", _of(BdbBody)),
    RESPONDERS: Section("/v1/certauth/responders", _of(ResponderBody)),
    # What is revoked stays revoked: a file is older than the revocation that it does not have.
    REVOCATIONS: Section(
        "/v1/certauth/revocations",
        _of(RevokeBody, without=["certificate", "user_uid"]),
        stays=True,
        by="line",
    ),
    CRLS: Section("/v1/certauth/crls", _of(CrlBody), stays=True, by="url"),
    "cluster": Section(
        "/v1/cluster", _of(ClusterBody, without=["min_data_TLS_version"]), single=True
    ),
    "cluster_policy": Section("/v1/cluster/policy", _of(PolicyBody), single=True),
}
KEPT = {
    "roles": {one.name for one in BUILTIN_ROLES},
    "redis_acls": {one.name for one in FIRST_ACLS},
    PROFILES: {"default"},
}
ONCE = {"password_file", "reason"}  # only when an object is made

# ---- The file ------------------------------------------------------------------------------------

STDIN = Path("-")


def read_all(files_: Iterable[Path]) -> State:
    """What several files declare together: each object in one of them only. Raises
    PolicyFileError."""
    state: State = {}
    whose: dict[tuple[str, str], Path] = {}
    for file in files_:
        for section, objects in read(file).items():
            for name in objects:
                if other := whose.get((section, name)):
                    one = f"'{name}' in {section}" if name else section
                    raise PolicyFileError(f"{file}: {one} is declared in {other} already")
                whose[section, name] = file
            state.setdefault(section, {}).update(objects)
    return state


def files_of(given: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and those of folders (*.yaml, *.yml) by name. Raises
    PolicyFileError."""
    for one in given:
        if not one.is_dir():
            yield one
            continue
        found = sorted(file for file in one.iterdir() if file.suffix in (".yaml", ".yml"))
        if not found:
            raise PolicyFileError(f"{one}: there is no *.yaml in it")
        yield from found


def read(file: Path) -> State:
    """The state that a file declares; - is standard input. Relative names of files in it are
    relative to it. Raises PolicyFileError."""
    try:
        content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
        found = yaml.load(files.decoded(content), loading.Loader)  # noqa: S506 (a SafeLoader)
        return parse(found, file.parent)
    except (PolicyFileError, yaml.YAMLError, OSError, ValueError) as error:
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
        try:
            return {"": normal(name, {"pem": _pem(found, folder)})}
        except ValueError as error:
            raise PolicyFileError(f"{CA}: {error}") from error
    if SECTIONS[name].single:
        return {"": _object(name, name, found, folder)}
    if not isinstance(found, list):
        raise PolicyFileError(f"{name}: not a list")
    objects: Objects = {}
    for index, one in enumerate(found):
        key = called(name, one) if isinstance(one, dict) else None
        if not isinstance(key, str) or not key:
            raise PolicyFileError(f"{name}.{index}: it has no {CALLED[SECTIONS[name].by]}")
        if key in objects:
            raise PolicyFileError(f"{name}: '{key}' is there twice")
        objects[key] = _object(name, f"{name} '{key}'", one, folder)
    return objects


CALLED = {"name": "name", "url": "url", "line": "one of cert, key, or ca and serial"}


def called(section: str, one: Mapping[str, Any]) -> Any:
    """What tells an object of a section from the others; None where it says nothing of the kind."""
    by = SECTIONS[section].by
    if by != "line":
        return one.get(by)
    if "line" in one:
        return one["line"]
    ways = one.keys() & {"cert", "key", "ca", "serial"}
    try:
        if ways == {"ca", "serial"}:
            ca, serial = pasted.fingerprint(one["ca"]), pasted.serial(str(one["serial"]))
            return core.canonical(f"revoke serial {ca} {serial}")
        if len(ways) == 1 and (way := ways.pop()) in ("cert", "key"):
            return core.canonical(f"revoke {way} {pasted.fingerprint(one[way])}")
    except (ValueError, AttributeError, TypeError) as error:
        raise PolicyFileError(f"{section}: {error}") from error
    return None


def _revocation(line: str) -> Fields:
    """The fields of a request that makes this line."""
    _, way, *values = line.split(" ")
    names = ("ca", "serial") if way == "serial" else (way,)
    return dict(zip(names, values, strict=True))


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
        made = normal(section, fields)
        _tell(where, fields)
        return made
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
    """The sections of a file that declares this. Passwords are not in it: nobody can read them; nor
    revocation lists that came as files: the API does not give them out."""
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
        fields["certificate_subject_line"] = _name(fields["certificate_subject_line"])
    if IDENTITIES in fields:
        fields[IDENTITIES] = in_order(map(identity, fields[IDENTITIES]))
        subjects = {one.get("subject", "") for one in fields[IDENTITIES]}
        if fields.get("certificate_subject_line", "") not in subjects | {""}:
            raise ValueError(f"certificate_subject_line is not among the {IDENTITIES}")
    if "roles" in fields:
        fields["roles"] = sorted(set(fields["roles"]))
    if section == REVOCATIONS:
        reason = {"reason": found["reason"]} if found.get("reason") else {}
        fields = {**_revocation(str(called(section, found))), **reason}
    if "key_usage" in fields:
        fields["key_usage"] = sorted(set(fields["key_usage"]))
    if section == PATTERNS:
        fields = _pattern(fields)
    if section == ISSUERS:
        fields = issuers.normal(fields)
    for name in ("pem", "tls_server_ca"):
        if name in fields:
            fields[name] = "".join(sorted(certificates_of(fields[name])))
    for name in ("mtls_authorized_subjects", "authorized_subjects"):
        if name in fields:
            fields[name] = [{k: v for k, v in one.items() if v} for one in fields[name]]
    if "endpoints" in fields:
        fields["endpoints"] = [_endpoint(one) for one in fields["endpoints"]]
    if CLIENT_CERTS in fields:
        certs = "\n".join(one["client_cert"] for one in fields[CLIENT_CERTS])
        fields[CLIENT_CERTS] = [{"client_cert": one} for one in sorted(certificates_of(certs))]
    if PINS in fields:
        fields[PINS] = _pins(fields)
    if "roles_permissions" in fields:
        given = {(one["role"], one["redis_acl"]) for one in fields["roles_permissions"]}
        fields["roles_permissions"] = [{"role": r, "redis_acl": a} for r, a in sorted(given)]
    return fields


MOST = 1_000_000  # spellings that are kept


@lru_cache(MOST)
def _read_name(text: str) -> pasted.Name:
    return pasted.name(text)


def _name(text: str) -> str:
    """A subject in its canonical spelling. Raises core.CoreError."""
    return _read_name(text).text


def _tell(where: str, fields: Fields) -> None:
    """How subjects were read that can be read in two ways: what the API gets is canonical. Raises
    whatever comes of fields of another form."""
    subjects = [fields.get("certificate_subject_line")]
    subjects += [one.get("subject") for one in fields.get(IDENTITIES, ())]
    for subject in filter(None, subjects):
        if remark := _read_name(subject).remark:
            click.echo(clean(f"warning: {where}: the subject was {remark}"), err=True)


def identity(found: Any) -> Fields:
    """As `_identity`, which is asked once for what the file and the API spell alike: of 100,000
    users most have not changed. Raises ValueError."""
    if isinstance(found, dict) and len(found) == 1:
        ((kind, value),) = found.items()
        if isinstance(value, str):
            return dict(_of_one_field(kind, value))
    return _identity(found)


@lru_cache(MOST)
def _of_one_field(kind: str, value: str) -> Fields:
    return _identity({kind: value})


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
    rest = sorted((one for one in found if one is not line), key=brief)
    return ([line] if line else []) + rest


def brief(value: Any) -> str:
    """A field's value in a plan: JSON, or how many certificates it has."""
    text = json.dumps(value, ensure_ascii=False)
    certificates = text.count("-----BEGIN CERTIFICATE-----")
    return f"({certificates} certificates)" if certificates else text


def _endpoint(found: Mapping[str, Any]) -> Fields:
    return {"addr": [], "dns_name": "", **{k: v for k, v in found.items() if k != "uid"}}


def certificates_of(pem: str) -> Iterator[str]:
    """Each certificate once, in one spelling; none that the API leaves out. Raises ValueError."""
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
    found[CRLS] = [one for one in found[CRLS] if one["url"]]
    for one in (*found["users"], *found[PATTERNS], *found[PROFILES]):
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
        else {called(name, one): normal(name, one) for one in content}
        for name, content in found.items()
    }
