"""A Redis Enterprise cluster, as its REST API answers, to the file that `apply` takes. Pure, as
control/cli/importers.py is.

Nobody gets more rights than there: content decides, not names; what cannot be carried over is
narrower or left out, and a note says so."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from control.cli.importers import SAME, Fields, Import, is_name, object_name
from control.policy import lines as policy
from control.records import BUILTIN_ROLES, FIRST_ACLS

Known = Mapping[str, frozenset[str]]  # the fields that each section of a file takes


def from_enterprise(found: Mapping[str, Any], known: Known) -> Import:
    """`found`: what GET answers for `roles`, `redis_acls`, `users`, `bdbs`, `cluster`,
    `cluster_policy` and (as `certificates`) /v1/cluster/certificates. Lists that clients are judged
    by and settings come over as they are. Nobody gets more rights than there: what cannot be
    carried over is left out, or is narrower, and a note says so. Content decides, not names."""
    out = Import()
    _trusted(out, found["certificates"])
    acls = _enterprise_acls(out, found, known)
    roles = _enterprise_roles(out, found["roles"], known)
    for one in found["users"]:
        _enterprise_user(out, one, roles, known)
    for one in found["bdbs"]:
        _enterprise_bdb(out, one, roles, acls, known)
    for section in ("cluster", "cluster_policy"):
        out.state[section] = _kept(out, section, found[section], known)
    if found["cluster"].get("min_data_TLS_version") == "1.3":
        out.state["cluster"].setdefault("min_tls_version", "1.3")
    if found["cluster_policy"].get("acl_pubsub_default") == "allchannels":
        out.note("cluster_policy", "with acl_pubsub_default: allchannels every ACL that names no "
                 "channel has all of them, also of those that are here already")  # fmt: skip
    if "acl_pubsub_default" not in found["cluster_policy"]:
        out.note(
            "cluster_policy", "acl_pubsub_default is not said: ACLs without channels have none"
        )
    return out


# Commands that Redis Enterprise gives nobody, whatever an ACL says, and a server here does.
NOT_THERE = "-@admin"
TAKE_IT = frozenset({NOT_THERE, "-@dangerous", "-@all", "nocommands"})
# Categories without such a command, but for PFDEBUG, which shows nothing that GET does not. Every
# other rule that gives something may hold one.
HARMLESS = re.compile(
    r"\+@(keyspace|read|write|set|sortedset|list|hash|string|bitmap|hyperloglog|geo|stream|pubsub|"
    r"transaction|scripting|blocking|json|search|timeseries|bloom|cuckoo|cms|topk|tdigest)",
    re.IGNORECASE,
)
ADMIN = frozenset(
    policy.words(
        "acl bgrewriteaof bgsave client cluster config debug failover lastsave latency module "
        "monitor pfdebug pfselftest psync replconf replicaof save shutdown slaveof slowlog sync"
    )
)


def _enterprise_acls(out: Import, found: Mapping[str, Any], known: Known) -> dict[int, str]:
    """The names that ACLs have in the file, by uid. One of a built-in's name has that name only
    where it is the same."""
    first = {one.name: _rules(one.acl) for one in FIRST_ACLS}
    used = {given["redis_acl_uid"] for bdb in found["bdbs"] for given in _grants(bdb)}
    names = _new_names(found["redis_acls"], first)
    for one in found["redis_acls"]:
        acl, name = _within(one["acl"]), one["name"]
        if name in first and _rules(acl) == first[name]:
            names[one["uid"]] = name
            continue
        if name in first and one["uid"] not in used:
            continue
        where = f"redis_acls '{name}'"
        if names[one["uid"]] != name:
            out.note(where, f"is called '{names[one['uid']]}': its rules are not those of '{name}' "
                     "here")  # fmt: skip
        if acl != one["acl"]:
            out.note(
                where, f"{NOT_THERE} is added: Redis Enterprise lets nobody run those commands"
            )
        out.add("redis_acls", {**_kept(out, "redis_acls", one, known), "acl": acl}
                | {"name": names[one["uid"]]})  # fmt: skip
    return names


def _within(acl: str) -> str:
    """An ACL without what Redis Enterprise gives nobody; so is each of its selectors. The order of
    rules counts, and stays: the last of two that contradict each other holds."""
    return " ".join(
        _without(
            [
                f"({' '.join(_without(rule[1:-1].split()))})" if rule.startswith("(") else rule
                for rule in policy.words(acl)
            ]
        )
    )


def _without(rules: list[str]) -> list[str]:
    takers = [at for at, rule in enumerate(rules) if rule.lower() in TAKE_IT]
    since = max(takers, default=-1) + 1
    return [*rules, NOT_THERE] if any(map(_may_administer, rules[since:])) else rules


def _may_administer(rule: str) -> bool:
    if rule.lower() == "allcommands":
        return True
    if rule.startswith("+@"):
        return not HARMLESS.fullmatch(rule)
    return rule.startswith("+") and re.split(r"[|]", rule[1:].lower())[0] in ADMIN


def _rules(acl: str) -> tuple[str, ...]:
    return tuple(SAME.get(rule.lower(), rule.lower()) for rule in acl.split())


def _new_names(those: Iterable[Mapping[str, Any]], taken: Iterable[str]) -> dict[int, str]:
    """By uid: the name, or another one where it is taken here."""
    those = list(those)
    used = {*taken, *(one["name"] for one in those)}
    names = {}
    for one in those:
        name = one["name"]
        if name in {*taken}:
            name = object_name(f"{name} of Redis Enterprise", used)
        names[one["uid"]] = name
        used.add(name)
    return names


def _grants(bdb: Mapping[str, Any]) -> list[Mapping[str, int]]:
    return bdb.get("roles_permissions") or []


def _enterprise_roles(
    out: Import, those: Sequence[Mapping[str, Any]], known: Known
) -> dict[int, str]:
    """The names that roles have in the file, by uid. A built-in's name is that of the built-in only
    where it manages the same."""
    first = {one.name: one.management for one in BUILTIN_ROLES}
    names = _new_names(those, first)
    for one in those:
        name, management = one["name"], one.get("management", "none")
        where, scoped = f"roles '{name}'", bool(one.get("resources"))
        if first.get(name) == management and not scoped:
            names[one["uid"]] = name
            continue
        if scoped:
            out.note(where, f"manages nothing here: its resources limit {management} to some "
                     "databases, whose uids are others here: send resources again")  # fmt: skip
        elif management not in first.values():
            out.note(where, f"manages nothing here: there is no management '{management}'")
        if names[one["uid"]] != name:
            out.note(where, f"is called '{names[one['uid']]}': '{name}' here is another role")
        narrow = "none" if scoped or management not in first.values() else management
        out.add("roles", {"name": names[one["uid"]], "management": narrow})
    return names


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


# The auditor is configured first, and is not a part of a file for `apply`.
OF_AUDITORS = {"audit_settings", "db_conns_auditing"}
UNAUDITED = {"audit_mode": "disabled"}
ALERTS = ("cluster_certs_about_to_expire", "cluster_ca_cert_about_to_expire")


def _kept(out: Import, section: str, one: Mapping[str, Any], known: Known) -> Fields:
    """The fields that mean something here; the others are told of, where they say something."""
    kept = {n: v for n, v in one.items() if n in known[section] and n not in OF_AUDITORS}
    if "alert_settings" in kept:
        settings = kept["alert_settings"]
        kept["alert_settings"] = {name: settings[name] for name in ALERTS if name in settings}
    lost = sorted(
        n for n, v in one.items() if n not in kept and n not in SHOWN_ONLY and v and v != UNAUDITED
    )
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
    line = one.get("certificate_subject_line", "")
    identities = one.get("certificate_identities") or [{"subject": line}]
    if not all(is_name(out, where, one["name"], identity) for identity in identities):
        return
    if _is_forward(line):
        out.note(where, f"'{line}' begins with C and ends with CN: a certificate's subject is "
                 "written the other way round, and such a line is nobody's")  # fmt: skip
    user = _kept(out, "users", one, known)
    user["roles"] = [roles[uid] for uid in one.get("role_uids", []) if uid in roles]
    out.add("users", user)


def _is_forward(subject: str) -> bool:
    """Whether a subject line stands in the order of the certificate, which RFC 4514 turns round."""
    kinds = [one.partition("=")[0].strip().upper() for one in subject.split(",")]
    return len(kinds) > 1 and kinds[-1] == "CN" and kinds[0] in ("C", "O", "ST", "L", "DC")


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
    if one.get("disabled_commands"):
        out.note(where, "its roles_permissions are left out: they would give commands that are "
                 f"disabled there ({one['disabled_commands']})")  # fmt: skip
        permissions = []
    database["roles_permissions"] = [
        {"role": roles[given["role_uid"]], "redis_acl": acls[given["redis_acl_uid"]]}
        for given in permissions
        if given["role_uid"] in roles and given["redis_acl_uid"] in acls
    ]
    _narrow(out, where, one, database)
    out.add("bdbs", database)


def _narrow(out: Import, where: str, one: Mapping[str, Any], database: Fields) -> None:
    """What would let somebody in here whom it does not let in there."""
    if database.pop("default_user", False):
        out.note(where, "default_user is left out, so it is off: its password cannot be read; say "
                 "true once the servers' user `default` is what it should be")  # fmt: skip
    names = one.get("authorized_names")
    if names and one.get("client_cert_subject_validation_type", "disabled") != "disabled":
        out.note(where, "authorized_names are left out: authorized_subjects say who comes in")
    elif names:
        database["client_cert_subject_validation_type"] = "san_cn"
        database["authorized_subjects"] = [{"CN": name} for name in names]
        out.note(where, "authorized_names are authorized_subjects here, by san_cn")
    certs = one.get("authentication_ssl_client_certs")
    if one.get("tls_mode") == "enabled" and not certs:
        out.note(where, "it trusts no CA of clients there: here those of mtls_trusted_ca count for "
                 "it; send authentication_ssl_client_certs")  # fmt: skip
