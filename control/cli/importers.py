"""From other systems to the file that `apply` takes. Pure: texts and answers go in; what is
declared comes out, and a note for whatever could not be carried over, with why.

* An ACL file of a Redis or Valkey that logs clients in by certificate itself
  (`tls-auth-clients-user`): the user is the CN, or a URI, of the certificate.
* A pg_ident.conf: maps the CN or the whole subject to a user.
* A Redis Enterprise cluster, as its REST API answers.

A URI is an identity of a user here too. A CN alone is not taken for one: the user is the whole
subject, which is more. It comes from the certificates themselves, where they are at hand, or from a
template such as `CN={},O=acme`. Several lines for one user are several identities.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Literal

from control.pki.guarded import CertificateError
from control.pki.reading import certificates_in
from control.policy import bindings, core, pasted
from control.policy import lines as policy
from control.records import BUILTIN_ROLES, FIRST_ACLS

Fields = dict[str, Any]
Subjects = Callable[[str], str | None]  # the CN that a certificate logs in by → its subject
Of = Literal["CN", "URI"]


@dataclass
class Import:
    """What is declared, by section of the file, and what of the other system is not in it."""

    state: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, section: str, one: Fields) -> None:
        self.state.setdefault(section, []).append(one)

    def note(self, where: str, what: str) -> None:
        self.notes.append(f"{where}: {what}")


# ---- Subjects ------------------------------------------------------------------------------------


def subjects_of(
    certificates: Iterable[tuple[str, bytes]], template: str, notes: Import
) -> Subjects:
    """The subjects of certificates (name and content) by their CN; then, where none has it, by the
    template."""
    found: dict[str, str] = {}
    for name, content in certificates:
        try:
            leaves = [core.identity(der) for der in certificates_in(content)]
        except (core.CoreError, CertificateError) as error:
            notes.note(name, f"no certificate: {error}")
            continue
        # Behind the first one there may be its CAs, or other clients.
        for leaf in [leaves[0], *(one for one in leaves[1:] if not one.ca)]:
            if not leaf.subject:
                notes.note(name, "its subject is empty: what it holds else can be an identity")
            for login in core.common_names(leaf.subject):
                if found.setdefault(login, leaf.subject) != leaf.subject:
                    notes.note(name, f"'{login}' has two subjects; {found[login]} is taken")
    return lambda login: found.get(login) or template.replace("{}", _escaped(login)) or None


def _escaped(value: str) -> str:
    """As a value in a distinguished name's text (RFC 4514, 2.4): it cannot add an attribute."""
    text = re.sub(r'([,+"\\<>;=#])', r"\\\1", value)
    return re.sub(r"^ | $", r"\\ ", text)


def _subject(out: Import, where: str, login: str, subjects: Subjects) -> str | None:
    """Canonical; None, and a note, where there is none."""
    text = subjects(login)
    if text is None:
        out.note(where, f"no certificate given has '{login}': give it, or a --subject template")
        return None
    try:
        return pasted.name(text).text
    except core.CoreError as error:
        out.note(where, f"'{text}' is no subject: {error}")
        return None


# ---- An ACL file ---------------------------------------------------------------------------------

# What is so here anyway, or is told of elsewhere.
SILENT = {"sanitize-payload", "skip-sanitize-payload", "resetpass", "nopass", "on", "off"}
SAME = {"allkeys": "~*", "allchannels": "&*", "allcommands": "+@all", "nocommands": "-@all"}


def from_acl_file(text: str, subjects: Subjects | None) -> Import:
    """`text` is an aclfile, or what ACL LIST prints, or the `user` lines of a redis.conf. Without
    `subjects`, names are URIs of certificates."""
    out = Import()
    names: dict[str, str] = {}  # ACL text → its name
    for number, line in enumerate(text.splitlines(), 1):
        words = _words(line)
        if not words or words[0].lower() != "user":
            continue
        where = f"line {number}, user '{words[1]}'" if len(words) > 1 else f"line {number}"
        if len(words) < 2:
            out.note(where, "there is no name in it")
        elif words[1] == "default":
            _default(out, where, words[2:])
        else:
            _acl_user(out, where, words[1], words[2:], names, subjects)
    return out


def _words(line: str) -> list[str]:
    """A selector, which has blanks in it, is one word."""
    return [one for one in policy.words(line) if one]


def _default(out: Import, where: str, rules: list[str]) -> None:
    if "off" in rules:
        out.note(where, "is off, as it is here unless a database says default_user: true")
    else:
        out.note(where, "is on: say default_user: true in the database, or it will be off")


def _acl_user(
    out: Import, where: str, name: str, rules: list[str], names: dict[str, str],
    subjects: Subjects | None,
) -> None:  # fmt: skip
    identity = _identity(out, where, name, subjects)
    acl = _acl(out, where, rules)
    if identity is None or acl is None:
        return
    if "off" in rules:
        out.note(where, "is off: it is left out, and whoever has its certificate is nobody")
        return
    if not _is_name(out, where, name, identity):
        return
    if acl not in names:
        role = names[acl] = _object_name(name, names.values())
        out.add("redis_acls", {"name": role, "acl": acl})
        out.add("roles", {"name": role, "management": "none"})
    out.add("users", {**_user(name, [identity]), "roles": [names[acl]]})


def _object_name(user: str, taken: Iterable[str]) -> str:
    """Of a role or an ACL, after a user; their names hold fewer characters (models.ObjectName)."""
    base = re.sub(r"[^a-zA-Z0-9_ \[\]()@,.;#-]+", "-", user)
    numbered = (f"{base}-{number}" for number in count(2))
    return next(name for name in chain([base], numbered) if name not in {*taken})


def _identity(out: Import, where: str, login: str, subjects: Subjects | None) -> Fields | None:
    if subjects is None:
        return {"uri": login}
    subject = _subject(out, where, login, subjects)
    return {"subject": subject} if subject is not None else None


def _user(name: str, identities: Sequence[Fields]) -> Fields:
    """A user of a file; with one subject, as it is in one of Redis Enterprise."""
    user = {"name": name, "auth_method": "certificate"}
    if len(identities) == 1 and "subject" in identities[0]:
        return {**user, "certificate_subject_line": identities[0]["subject"]}
    return {**user, "certificate_identities": list(identities)}


def _is_name(out: Import, where: str, name: str, identity: Fields) -> bool:
    try:
        policy.check_name(name)
        core.canonical(bindings.line_of(bindings.read(identity), [name]))
    except core.CoreError as error:
        out.note(where, f"cannot be a user here: {error}")
        return False
    return True


def _acl(out: Import, where: str, rules: list[str]) -> str | None:
    """The ACL of a user, in our words; None, and a note, where there is none."""
    kept: list[str] = []
    passwords = sum(rule[0] in ">#" and rule != f"#{policy.MARK}" for rule in rules)
    if passwords:
        out.note(where, f"its {passwords} passwords are left out: it logs in by certificate alone")
    if "nopass" in rules:
        out.note(where, "nopass is left out: whoever had no certificate could be it")
    for rule in rules:
        if rule.lower() == "reset":
            kept.clear()
        elif rule[0] in ">#<!" or rule.lower() in SILENT:
            continue
        else:
            kept.append(SAME.get(rule.lower(), rule))
    try:
        return " ".join(policy.split_acl(" ".join(kept or ["-@all"])))
    except ValueError as error:
        out.note(where, str(error))
        return None


# ---- pg_ident.conf -------------------------------------------------------------------------------


def from_pg_ident(text: str, subjects: Subjects) -> Import:
    """Users without rights yet: PostgreSQL's are in the database."""
    out = Import()
    taken: dict[str, list[str]] = {}  # user → subjects
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            out.note(f"line {number}", str(error))
            continue
        if words:
            _ident(out, f"line {number}", words, taken, subjects)
    for name, subjects_of_it in taken.items():
        out.add("users", _user(name, [{"subject": one} for one in subjects_of_it]))
    if out.state:
        out.note("rights", "PostgreSQL keeps them in its databases: give the users roles here")
    return out


def _ident(
    out: Import, where: str, words: list[str], taken: dict[str, list[str]], subjects: Subjects
) -> None:
    if words[0].startswith("include"):
        out.note(where, f"{words[0]} is not followed: import that file too")
        return
    if len(words) != 3:
        out.note(where, "a map has three words: its name, the certificate's, the user's")
        return
    _, login, user = words
    if login.startswith("/"):
        out.note(where, f"{login} is a regular expression: an identity here is exact")
        return
    if user == "all" or user[0] in "+/":
        out.note(where, f"'{user}' stands for several users: a certificate here is one user")
        return
    subject = login if "=" in login else _subject(out, where, login, subjects)
    _mapped(out, where, user, subject, taken)


def _mapped(
    out: Import, where: str, user: str, subject: str | None, taken: dict[str, list[str]]
) -> None:
    if subject is None:
        return
    try:
        subject = pasted.name(subject).text
    except core.CoreError as error:
        out.note(where, f"'{subject}' is no subject: {error}")
        return
    owner = next((name for name, those in taken.items() if subject in those), None)
    if owner and owner != user:
        out.note(where, f"{subject} is '{owner}' already: a certificate here is one user")
    elif not owner and _is_name(out, where, user, {"subject": subject}):
        taken.setdefault(user, []).append(subject)


# ---- Redis Enterprise ----------------------------------------------------------------------------

Known = Mapping[str, frozenset[str]]  # the fields that each section of a file takes


def from_enterprise(found: Mapping[str, Any], known: Known) -> Import:
    """`found`: what GET answers for `roles`, `redis_acls`, `users`, `bdbs`, `cluster`,
    `cluster_policy` and (as `certificates`) /v1/cluster/certificates. Lists that clients are judged
    by and settings come over as they are."""
    out = Import()
    _trusted(out, found["certificates"])
    roles = {one["uid"]: one["name"] for one in found["roles"]}
    acls = {one["uid"]: one["name"] for one in found["redis_acls"]}
    for section, first in (("redis_acls", FIRST_ACLS), ("roles", BUILTIN_ROLES)):
        names = {one.name for one in first}
        for one in found[section]:
            if one["name"] not in names:
                out.add(section, _kept(out, section, one, known))
    for one in found["users"]:
        _enterprise_user(out, one, roles, known)
    for one in found["bdbs"]:
        _enterprise_bdb(out, one, roles, acls, known)
    for section in ("cluster", "cluster_policy"):
        out.state[section] = _kept(out, section, found[section], known)
    return out


def _trusted(out: Import, certificates: Mapping[str, str]) -> None:
    pem = certificates.get("mtls_trusted_ca_cert", "")
    if pem:
        out.state["trusted_ca"] = pem
    for name in sorted(certificates):
        if name.endswith("_key"):
            out.note("certificates", f"{name} is left out: it is of Redis Enterprise's own servers")


SHOWN_ONLY = {
    "uid", "action_uid", "ignored", "generation", "nodes", "not_synced", "refused", "status",
    "created_time", "last_login", "off_on", "password_issue_date", "role", "role_uids", "name",
}  # fmt: skip


def _kept(out: Import, section: str, one: Mapping[str, Any], known: Known) -> Fields:
    """The fields that mean something here; the others are told of, where they say something."""
    kept = {name: value for name, value in one.items() if name in known[section]}
    lost = sorted(n for n, v in one.items() if n not in kept and n not in SHOWN_ONLY and v)
    if lost:
        where = f"{section} '{one['name']}'" if "name" in one else section
        out.note(where, f"nothing here is like {', '.join(lost)}")
    return {name: value for name, value in kept.items() if value is not None}


def _enterprise_user(
    out: Import, one: Mapping[str, Any], roles: Mapping[int, str], known: Known
) -> None:
    where, method = f"users '{one['name']}'", one.get("auth_method", "regular")
    if method != "certificate":
        why = {"regular": "its password cannot be read: make it here with a new one"}
        out.note(where, why.get(method, f"auth_method {method} is none here"))
        return
    user = _kept(out, "users", one, known)
    user["roles"] = [roles[uid] for uid in one["role_uids"] if uid in roles]
    out.add("users", user)


def _enterprise_bdb(
    out: Import, one: Mapping[str, Any], roles: Mapping[int, str], acls: Mapping[int, str],
    known: Known,
) -> None:  # fmt: skip
    where = f"bdbs '{one['name']}'"
    database = _kept(out, "bdbs", one, known)
    database["endpoints"] = [
        {"addr": end.get("addr", []), "dns_name": end.get("dns_name") or "", "port": end["port"]}
        for end in one.get("endpoints", [])
    ]
    out.note(where, "its endpoints are Redis Enterprise's own servers: put the new ones there")
    permissions = database.pop("roles_permissions", [])
    database["roles_permissions"] = [
        {"role": roles[given["role_uid"]], "redis_acl": acls[given["redis_acl_uid"]]}
        for given in permissions
        if given["role_uid"] in roles and given["redis_acl_uid"] in acls
    ]
    out.add("bdbs", database)


def lines(notes: Iterable[str]) -> Iterator[str]:
    yield from (f"not carried over: {note}" for note in notes)
