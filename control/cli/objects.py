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
    Stale,
    Switch,
    TlsMode,
    TokenAlgorithm,
    Validation,
)

Read = Callable[[Client, Any], Any]


def as_is(_: Client, value: Any) -> Any:
    """What was typed."""
    return value


def several(read: Read) -> Read:
    """A reader of an option that may be given several times."""
    return lambda ask, values: [read(ask, value) for value in values]


def uid_in(path: str) -> Read:
    """A reader of names: the uid that an object at `path` has."""
    return lambda ask, name: ask.named(path, name)["uid"]


def contents(_: Client, file: Path) -> str:
    """PEM of the certificates in a file, of whatever kind it is."""
    return files.certificates(file)


def text_of(_: Client, file: Path) -> str:
    """The text of a file."""
    return files.text(file)


def rule(_: Client, text: str) -> dict[str, Any]:
    """An identity, conditions (path=value), lifetime: and profile: of the certificate, and
    every-token."""
    identity, *words = shlex.split(text) or [""]
    found: dict[str, Any] = {"identity": identity, "claims": {}}
    for word in words:
        name, colon, said = word.partition(":")
        path, equals, value = word.partition("=")
        if colon and name == "lifetime" and said.isdecimal():
            found["lifetime"] = int(said)
        elif colon and name == "profile":
            found["profile"] = said
        elif word == "every-token":
            found["every_token"] = True
        elif equals and path:
            found["claims"][path] = value
        else:
            raise click.UsageError(f"--rule: '{word}' is not like path=value or lifetime:900")
    return found


def endpoint(_: Client, text: str) -> dict[str, Any]:
    """HOST:PORT as the API has endpoints. Raises UsageError."""
    host, _colon, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise click.UsageError(f"--endpoint: '{text}' is not like host:6379")
    host = host.removeprefix("[").removesuffix("]")
    return {"addr": [host], "port": int(port)}


def grant(ask: Client, text: str) -> dict[str, int]:
    """ROLE=ACL as the API has a grant. Raises UsageError."""
    role, equals, acl = text.partition("=")
    if not equals:
        raise click.UsageError(f"--grant: '{text}' is not like ROLE=ACL")
    return {"role_uid": uid_in(ROLES)(ask, role), "redis_acl_uid": uid_in(ACLS)(ask, acl)}


def typed_password(_: Client, wanted: bool) -> str:
    """A password, asked for twice on the terminal."""
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
        """The option of this field, as a decorator of click's."""
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
            self._option("--add-{}", "add_{}", "Add this entry."),
            self._option("--remove-{}", "remove_{}", "Remove this entry."),
        )


def switch(option: str, name: str, text: str) -> Field:
    """A field with `--option` and `--no-option`."""
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
          "Longest lifetime of clients' certificates, in seconds; 0: no limit.", kind=int),
    Field("require-eku", "required_extended_key_usages",
          "Extended key usage (name or OID) that clients' certificates must have; you can repeat "
          "this option; '': none.",
          several_or_none, multiple=True),
    Field("require-policy", "required_certificate_policies",
          "Certificate policy (OID) that clients' certificates must have; you can repeat this "
          "option; '': none.",
          several_or_none, multiple=True),
    Field("min-key-bits", "min_key_bits",
          "Smallest key of clients' certificates, in RSA bits; 0: any.", kind=int),
    Field("min-tls", "min_tls_version",
          "Oldest TLS version of clients' connections; '': any.", kind=choice(MinTls)),
    Field("several-names", "several_names", "What to do if a certificate has several names of "
          "one kind; same: accept it if all known names belong to one "
          "user.", kind=choice(SeveralNames)),
)  # fmt: skip


NOUNS = (
    Noun(
        "user", "/v1/users", "People and programs, by certificate or by password.",
        (
            Field("auth-method", "auth_method", "How the user logs in.", kind=choice(AuthMethod)),
            Field("email", "email", "E-mail address of the user."),
            Field("role", "role_uids",
                  "Name of a role; you can repeat this option. The role None gives no rights in "
                  "this API.", several(uid_in(ROLES)), of=ROLES, multiple=True,
                  needed=True, edited=True),
            Field("password", "password", "Ask for a password, or read a line of standard input.",
                  typed_password, flag=True),
        ),
        ("uid", "name", "auth_method", IDENTITIES, "role", "status"),
        identities=True,
    ),
    Noun(
        "pattern", "/v1/certauth/patterns",
        "Patterns: one line maps many certificates, each to its own user or all to one user.",
        (
            Field("kind", "kind", "Part of the certificate that the template matches.",
                  kind=choice(PatternKind), needed=True),
            Field("template", "template",
                  "Template, such as 'CN={id},OU=devices,O=acme'.", needed=True),
            Field("user", "user",
                  "User, such as 'device:{id}'; without a placeholder, the name of a certificate "
                  "user.",
                  needed=True),
            Field("role", "role_uids", "Name of a role; you can repeat this option.",
                  several(uid_in(ROLES)), of=ROLES, multiple=True, edited=True),
            Field("issued-by", "ca",
                  "Only certificates below this trusted CA (name, SHA-256 or key id)."),
            Field("from", "from", "Only clients from this network; you can repeat this option.",
                  several(as_is), multiple=True, edited=True),
            Field("session", "session", "Longest duration of a connection, such as 8h."),
            Field("comment", "comment", "Note for people who read the pattern."),
        ),
        ("uid", "name", "kind", "template", "user", "role_uids"),
    ),
    Noun(
        "role", ROLES, "Roles: what their users may do in this API, and who gets which ACL on a "
                       "database.",
        (Field("management", "management", "Rights of the role's users in this "
                                           "API.", kind=choice(Management)),),
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
            Field("endpoint", "endpoints", "Server as host:port; you can repeat this option.",
                  several(endpoint), multiple=True, edited=True),
            Field("grant", "roles_permissions",
                  "Give ROLE the rights of ACL (names) on this database, as ROLE=ACL; you can "
                  "repeat this option.",
                  several(grant), of=ROLES, multiple=True, edited=True),
            Field("tls-mode", "tls_mode", "For clients.", kind=choice(TlsMode)),
            Field("client-certificates", "enforce_client_authentication",
                  "Whether clients must present a certificate.", kind=choice(Switch)),
            Field("validation", "client_cert_subject_validation_type",
                  "How to check clients' subjects.", kind=choice(Validation)),
            Field("server-ca", "tls_server_ca",
                  "PEM file of the CA that issued the servers' certificates.",
                  contents, kind=FILE),
            switch("default-user", "default_user", "Whether the user `default` stays on."),
            Field("enforcement", "enforcement",
                  "What servers do with their decisions: nothing (shadow), or refuse clients.",
                  kind=choice(Enforcement)),
            switch("adopt-users", "adopt_users", "Take over ACL users that a server already has."),
            *DEMANDS,
        ),
        ("uid", "name", "status", "status_text", "generation", "tls_mode"),
    ),
    Noun(
        "cert-profile", "/v1/certauth/profiles",
        "Templates for the certificates that the control plane issues.",
        (
            Field("lifetime", "lifetime",
                  "Lifetime in seconds, from one hour to one year.", kind=int),
            Field("subject", "subject",
                  "Subject, such as 'CN={name},O=acme' (default: the user's subject)."),
            Field("san", "sans",
                  "SAN, such as 'uri:spiffe://acme/{name}'; you can repeat this option.",
                  several(as_is), multiple=True, edited=True),
            Field("key-usage", "key_usage", "May be given again.",
                  several(as_is), kind=choice(KeyUsage), multiple=True, edited=True),
            Field("role", "role_uids", "Only for users with this role; you can repeat this option.",
                  several(uid_in(ROLES)), of=ROLES, multiple=True, edited=True),
        ),
        ("uid", "name", "lifetime", "subject", "sans", "role_uids"),
    ),
    Noun(
        "issuer", "/v1/certauth/issuers",
        "Issuers of tokens (OpenID Connect), or of devices' birth certificates, that may be "
        "exchanged for certificates.",
        (
            Field("issuer-url", "url", "URL of the issuer, as its tokens have it in `iss`."),
            Field("audience", "audiences",
                  "Audience that a token must have; you can repeat this option.",
                  several(as_is), multiple=True),
            Field("algorithm", "algorithms",
                  "Signature algorithm that it uses; you can repeat this option.",
                  several(as_is), kind=choice(TokenAlgorithm), multiple=True),
            Field("skew", "clock_skew",
                  "Allowed difference between the clocks, in seconds.", kind=int),
            Field("jwks", "jwks", "File with its keys (JWKS); the keys are then never fetched.",
                  text_of, kind=FILE),
            Field("jwks-url", "jwks_url",
                  "URL of its keys, if its discovery document does not name it."),
            Field("issuer-ca", "ca",
                  "PEM file of the CA for its https URL (default: the system's CAs).",
                  contents, kind=FILE),
            Field("interval", "interval", "Seconds between fetches of its keys.", kind=int),
            Field("rule", "rules", "Like 'uri:spiffe://acme/{sub} namespace=shop lifetime:900 "
                  "profile:default'; repeat for each rule, in order.",
                  several(rule), multiple=True),
            Field("manufacturer-ca", "manufacturer_ca",
                  "PEM file of the CA of devices, whose birth certificates then enrol instead of "
                  "tokens.", contents, kind=FILE),
            switch("renewable", "renewable",
                   "Whether its certificates may renew themselves (EST)."),
        ),
        ("uid", "name", "url", "audiences", "keys", "fetched", "problem"),
    ),
    Noun(
        "trust-source", "/v1/certauth/trust_sources",
        "Trust sources: files and URLs from which trusted CAs are read again and again.",
        (
            Field("location", "location",
                  "File on the control plane's machine, or an https URL; it cannot be changed "
                  "later."),
            Field("bdb", "bdb_uid", "Database that trusts these CAs (default: the cluster).",
                  uid_in("/v1/bdbs")),
            Field("source-ca", "ca",
                  "PEM file of the CA for its https URL (default: the system's CAs).",
                  contents, kind=FILE),
            Field("interval", "interval", "Seconds between checks.", kind=int),
            Field("most", "most",
                  "How many CAs may be added or removed at once without an "
                  "administrator.", kind=int),
            Field("trust-grows", "trust_grows",
                  "Allow changes after which clients could come from more CAs.",
                  flag=True),
        ),
        ("uid", "name", "location", "bdb_uid", "fetched", "problem"),
    ),
    Noun(
        "responder", "/v1/certauth/responders",
        "OCSP responders that are asked about the certificates of a trusted CA.",
        (
            Field("issued-by", "ca", "The trusted CA (name, SHA-256 or key id).", needed=True),
            Field("ocsp-url", "url",
                  "URL of the responder (default: what each certificate names)."),
            Field("interval", "interval",
                  "Seconds until it is asked again about a certificate.", kind=int),
            Field("stale", "stale",
                  "What to do with a certificate when the next answer is overdue.",
                  kind=choice(Stale)),
            switch("nonce", "nonce", "Accept only answers that repeat the nonce of the question."),
        ),
        ("uid", "name", "good", "revoked", "unanswered", "overdue", "stale", "asked", "problem"),
    ),
    Noun(
        "cluster", "/v1/cluster", "The settings of the control plane itself.",
        (
            switch("certificates", "mtls_certificate_authentication", "Logins by certificate."),
            switch("passwords", "control_plane_basic_authentication", "Logins by password."),
            Field("validation", "mtls_client_cert_subject_validation_type",
                  "How to check clients' subjects.", kind=choice(Validation)),
            switch("complexity", "password_complexity", "Rules for passwords."),
            Field("min-length", "password_min_length", "Minimum length of passwords.", kind=int),
            Field("expiration", "password_expiration_duration",
                  "Days until a password expires.", kind=int),
            *DEMANDS,
        ),
    ),
    Noun(
        "lockout", "/v1/cluster/policy", "How many wrong passwords lock a user, and for how long.",
        (
            Field("threshold", "login_lockout_threshold",
                  "Number of wrong passwords that lock a user.", kind=int),
            Field("reset-after", "login_lockout_counter_reset_after", "In seconds.", kind=int),
            Field("duration", "login_lockout_duration", "In seconds.", kind=int),
        ),
    ),
)  # fmt: skip
