"""The API's objects as the command line has them: their fields, and what options say of each."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from control.cli import files
from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.options import (
    FILE,
    ask_password,
    choice,
)
from control.cli.output import IDENTITIES
from control.words import (
    AuthMethod,
    Enforcement,
    KeyUsage,
    Management,
    MinTls,
    PatternKind,
    SeveralNames,
    Switch,
    TlsMode,
    TokenAlgorithm,
    Validation,
)

Read = Callable[[Client, Any], Any]


def as_is(_: Client, value: Any) -> Any:
    return value


def several(read: Read) -> Read:
    return lambda ask, values: [read(ask, value) for value in values]


def uid_in(path: str) -> Read:
    return lambda ask, name: ask.named(path, name)["uid"]


def contents(_: Client, file: Path) -> str:
    return files.certificates(file)


def text_of(_: Client, file: Path) -> str:
    return files.text(file)


def rule(_: Client, text: str) -> dict[str, Any]:
    """An identity, conditions (path=value), and lifetime: and profile: of the certificate."""
    identity, *words = shlex.split(text) or [""]
    found: dict[str, Any] = {"identity": identity, "claims": {}}
    for word in words:
        name, colon, said = word.partition(":")
        path, equals, value = word.partition("=")
        if colon and name == "lifetime" and said.isdecimal():
            found["lifetime"] = int(said)
        elif colon and name == "profile":
            found["profile"] = said
        elif equals and path:
            found["claims"][path] = value
        else:
            raise click.UsageError(f"--rule: '{word}' is not like path=value or lifetime:900")
    return found


def endpoint(_: Client, text: str) -> dict[str, Any]:
    host, _colon, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise click.UsageError(f"--endpoint: '{text}' is not like host:6379")
    host = host.removeprefix("[").removesuffix("]")
    return {"addr": [host], "port": int(port)}


def grant(ask: Client, text: str) -> dict[str, int]:
    role, equals, acl = text.partition("=")
    if not equals:
        raise click.UsageError(f"--grant: '{text}' is not like ROLE=ACL")
    return {"role_uid": uid_in(ROLES)(ask, role), "redis_acl_uid": uid_in(ACLS)(ask, acl)}


def typed_password(_: Client, wanted: bool) -> str:
    return ask_password("New password", twice=True)


def several_or_none(_: Client, values: tuple[str, ...]) -> list[str]:
    """'' is none of them."""
    return [value for value in values if value]


ROLES, ACLS = "/v1/roles", "/v1/redis_acls"


@dataclass(frozen=True)
class Field:
    """An option of `create` and `update`, and the field that it is in a request."""

    option: str
    name: str
    help: str
    read: Read = as_is
    kind: Any = str
    multiple: bool = False
    flag: bool = False
    needed: bool = False  # to create one
    of: str = ""  # the collection of the API that it names one of
    edited: bool = False  # a list of things, which `update` adds to and removes from as well

    @property
    def parameter(self) -> str:
        """What a command calls it: unlike any option that all commands have, such as --ca."""
        return f"field_{self.option.replace('-', '_')}"

    def declare(self) -> Callable[[Any], Any]:
        if self.flag and self.kind is bool:
            option = f"--{self.option}/--no-{self.option}"
            return click.option(option, self.parameter, default=None, help=self.help)
        if self.flag:
            return click.option(f"--{self.option}", self.parameter, is_flag=True, help=self.help)
        return self._option("--{}", "{}", self.help)

    def _option(self, option: str, parameter: str, text: str) -> Callable[[Any], Any]:
        return click.option(
            option.format(self.option), parameter.format(self.parameter), type=self.kind,
            multiple=self.multiple, help=text,
            shell_complete=names_of(self.of) if self.of else None,
        )  # fmt: skip

    def declare_edits(self) -> tuple[Callable[[Any], Any], ...]:
        """--add-… and --remove-…, which leave the rest of the list as it is."""
        return (
            self._option("--add-{}", "add_{}", "One more."),
            self._option("--remove-{}", "remove_{}", "Without this one."),
        )


def switch(option: str, name: str, text: str) -> Field:
    return Field(option, name, text, kind=bool, flag=True)


@dataclass(frozen=True)
class Noun:
    """What the API has one or many of. Without columns there is only one."""

    name: str
    path: str
    help: str
    fields: tuple[Field, ...]
    columns: tuple[str, ...] = ()
    identities: bool = False  # whether certificates are one


DEMANDS = (
    Field("max-lifetime", "max_certificate_lifetime",
          "Of clients' certificates, in seconds; 0: any.", kind=int),
    Field("require-eku", "required_extended_key_usages",
          "That they have: a name or an OID; may be given again; '': none.",
          several_or_none, multiple=True),
    Field("require-policy", "required_certificate_policies",
          "That they have: an OID; may be given again; '': none.",
          several_or_none, multiple=True),
    Field("min-key-bits", "min_key_bits", "Of their keys, as of RSA; 0: any.", kind=int),
    Field("min-tls", "min_tls_version", "Of clients' connections; '': any.", kind=choice(MinTls)),
    Field("several-names", "several_names", "Of a kind of which lines name one; same: taken where "
          "all that are known are one user's.", kind=choice(SeveralNames)),
)  # fmt: skip


NOUNS = (
    Noun(
        "user", "/v1/users", "People and programs, by certificate or by password.",
        (
            Field("auth-method", "auth_method", "How it logs in.", kind=choice(AuthMethod)),
            Field("email", "email", "Its e-mail address."),
            Field("role", "role_uids", "A role by name; may be given again. The role None gives no "
                  "rights in this API.", several(uid_in(ROLES)), of=ROLES, multiple=True,
                  needed=True, edited=True),
            Field("password", "password", "Ask for a password, or read a line of standard input.",
                  typed_password, flag=True),
        ),
        ("uid", "name", "auth_method", IDENTITIES, "role", "status"),
        identities=True,
    ),
    Noun(
        "pattern", "/v1/certauth/patterns",
        "Many certificates by one line: each a user of its own, or all of them one.",
        (
            Field("kind", "kind", "What of a certificate the template is for.",
                  kind=choice(PatternKind), needed=True),
            Field("template", "template", "Like 'CN={id},OU=devices,O=acme'.", needed=True),
            Field("user", "user", "Like 'device:{id}'; without a placeholder, a certificate user.",
                  needed=True),
            Field("role", "role_uids", "A role by name; may be given again.",
                  several(uid_in(ROLES)), of=ROLES, multiple=True, edited=True),
            Field("issued-by", "ca", "Only below this trusted CA: a name, SHA-256 or key id."),
            Field("from", "from", "A network that they come from; may be given again.",
                  several(as_is), multiple=True, edited=True),
            Field("session", "session", "How long a connection may last, like 8h."),
            Field("comment", "comment", "For people."),
        ),
        ("uid", "name", "kind", "template", "user", "role_uids"),
    ),
    Noun(
        "role", ROLES, "What users may do in this API, and what rights are given to.",
        (Field("management", "management", "Rights in this API.", kind=choice(Management)),),
        ("uid", "name", "management"),
    ),
    Noun(
        "acl", ACLS, "Rights on a database, in Redis's ACL syntax.",
        (Field("rules", "acl", "Like '+@read ~orders:*'"),),
        ("uid", "name", "acl"),
    ),
    Noun(
        "db", "/v1/bdbs", "The Redis and Valkey deployments whose users are managed here.",
        (
            Field("endpoint", "endpoints", "host:port; may be given again.",
                  several(endpoint), multiple=True, edited=True),
            Field("grant", "roles_permissions", "ROLE=ACL by names; may be given again.",
                  several(grant), of=ROLES, multiple=True, edited=True),
            Field("tls-mode", "tls_mode", "For clients.", kind=choice(TlsMode)),
            Field("client-certificates", "enforce_client_authentication",
                  "Whether clients must show one.", kind=choice(Switch)),
            Field("validation", "client_cert_subject_validation_type",
                  "Of clients' subjects.", kind=choice(Validation)),
            Field("server-ca", "tls_server_ca", "PEM file of the CA of the servers' certificates.",
                  contents, kind=FILE),
            switch("default-user", "default_user", "Whether the user `default` stays on."),
            Field("enforcement", "enforcement", "The step on the way from passwords.",
                  kind=choice(Enforcement)),
            switch("adopt-users", "adopt_users", "Take over users that a server has already."),
            *DEMANDS,
        ),
        ("uid", "name", "status", "status_text", "generation", "tls_mode"),
    ),
    Noun(
        "cert-profile", "/v1/certauth/profiles", "What certificates that are issued here are like.",
        (
            Field("lifetime", "lifetime", "In seconds: an hour to a year.", kind=int),
            Field("subject", "subject", "Like 'CN={name},O=acme'; else the user's own."),
            Field("san", "sans", "Like 'uri:spiffe://acme/{name}'; may be given again.",
                  several(as_is), multiple=True, edited=True),
            Field("key-usage", "key_usage", "May be given again.",
                  several(as_is), kind=choice(KeyUsage), multiple=True, edited=True),
            Field("role", "role_uids", "Only for users with this role; may be given again.",
                  several(uid_in(ROLES)), of=ROLES, multiple=True, edited=True),
        ),
        ("uid", "name", "lifetime", "subject", "sans", "role_uids"),
    ),
    Noun(
        "issuer", "/v1/certauth/issuers", "Whose tokens enrol workloads and people.",
        (
            Field("issuer-url", "url", "As its tokens have it in iss.", needed=True),
            Field("audience", "audiences", "That a token has to be for; may be given again.",
                  several(as_is), multiple=True, needed=True),
            Field("algorithm", "algorithms", "That it signs with; may be given again.",
                  several(as_is), kind=choice(TokenAlgorithm), multiple=True),
            Field("skew", "clock_skew", "How many seconds the clocks may differ.", kind=int),
            Field("jwks", "jwks", "File of its keys (JWKS), which are then never fetched.",
                  text_of, kind=FILE),
            Field("jwks-url", "jwks_url", "Where its keys are, if discovery does not say it."),
            Field("issuer-ca", "ca", "PEM file of the CA of its https; else those of the system.",
                  contents, kind=FILE),
            Field("interval", "interval", "Seconds between two fetches of its keys.", kind=int),
            Field("rule", "rules", "Like 'uri:spiffe://acme/{sub} namespace=shop lifetime:900 "
                  "profile:default'; give all of them, in their order.",
                  several(rule), multiple=True),
        ),
        ("uid", "name", "url", "audiences", "keys", "fetched", "problem"),
    ),
    Noun(
        "trust-source", "/v1/certauth/trust_sources", "CAs that are followed.",
        (
            Field("location", "location", "A file there, or an https URL; it stays what it is."),
            Field("bdb", "bdb_uid", "The database whose CAs they are; else the cluster's.",
                  uid_in("/v1/bdbs")),
            Field("source-ca", "ca", "PEM file of the CA of its https; else those of the system.",
                  contents, kind=FILE),
            Field("interval", "interval", "Seconds between two looks.", kind=int),
            Field("most", "most", "CAs that may come, or go, at once by themselves.", kind=int),
            Field("trust-grows", "trust_grows", "Also where clients could come from more CAs.",
                  flag=True),
        ),
        ("uid", "name", "location", "bdb_uid", "fetched", "problem"),
    ),
    Noun(
        "cluster", "/v1/cluster", "The settings of the control plane itself.",
        (
            switch("certificates", "mtls_certificate_authentication", "Logins by certificate."),
            switch("passwords", "control_plane_basic_authentication", "Logins by password."),
            Field("validation", "mtls_client_cert_subject_validation_type",
                  "Of clients' subjects.", kind=choice(Validation)),
            switch("complexity", "password_complexity", "Rules for passwords."),
            Field("min-length", "password_min_length", "Of passwords.", kind=int),
            Field("expiration", "password_expiration_duration", "Of passwords, in days.", kind=int),
            *DEMANDS,
        ),
    ),
    Noun(
        "lockout", "/v1/cluster/policy", "When wrong passwords lock a user.",
        (
            Field("threshold", "login_lockout_threshold", "Wrong passwords.", kind=int),
            Field("reset-after", "login_lockout_counter_reset_after", "In seconds.", kind=int),
            Field("duration", "login_lockout_duration", "In seconds.", kind=int),
        ),
    ),
)  # fmt: skip
