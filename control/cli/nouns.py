"""The commands of the API's objects, out of one table: `redis-certauth user list` and the like."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from control.cli import client, files
from control.cli.client import Client
from control.cli.identities import (
    SUBJECT,
    fields_of,
    given_identities,
    identity_group,
    with_identities,
)
from control.cli.options import (
    DRY_RUN,
    FILE,
    NO_WAIT,
    Command,
    ask_password,
    change,
    choice,
    connected,
)
from control.cli.output import AS_JSON, IDENTITIES, echo
from control.records import (
    AuthMethod,
    Enforcement,
    KeyUsage,
    Management,
    MinTls,
    PatternKind,
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
        return click.option(
            f"--{self.option}", self.parameter, type=self.kind, multiple=self.multiple,
            help=self.help,
        )  # fmt: skip


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
)  # fmt: skip


NOUNS = (
    Noun(
        "user", "/v1/users", "People and programs, by certificate or by password.",
        (
            Field("auth-method", "auth_method", "How it logs in.", kind=choice(AuthMethod)),
            Field("email", "email", "Its e-mail address."),
            Field("role", "role_uids", "A role by name; give all of them. The role None gives no "
                  "rights in this API.", several(uid_in(ROLES)), multiple=True, needed=True),
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
            Field("role", "role_uids", "A role by name; give all of them.",
                  several(uid_in(ROLES)), multiple=True),
            Field("issued-by", "ca", "Only below this trusted CA: a name, SHA-256 or key id."),
            Field("from", "from", "A network that they come from; give all of them.",
                  several(as_is), multiple=True),
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
            Field("endpoint", "endpoints", "host:port; give all of them.",
                  several(endpoint), multiple=True),
            Field("grant", "roles_permissions", "ROLE=ACL by names; give all of them.",
                  several(grant), multiple=True),
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
                  several(as_is), multiple=True),
            Field("key-usage", "key_usage", "May be given again.",
                  several(as_is), kind=choice(KeyUsage), multiple=True),
            Field("role", "role_uids", "Only for users with this role; may be given again.",
                  several(uid_in(ROLES)), multiple=True),
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
        "cluster", "/v1/cluster", "The list_settings of the control plane itself.",
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


def with_fields(noun: Noun) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for field in reversed(noun.fields):
            command = field.declare()(command)
        return with_identities(command) if noun.identities else command

    return add


def body(ask: Client, noun: Noun, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the command line has, as the request has them."""
    identities = given_identities({**given})
    values = {field: given[field.parameter] for field in noun.fields}
    there = {field: one for field, one in values.items() if one not in (None, ())}
    return fields_of(identities) | {
        field.name: field.read(ask, one)
        for field, one in there.items()
        if one is not False or field.kind is bool
    }


def update_body(ask: Client, noun: Noun, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The body of an update. Raises click.UsageError where it would be empty."""
    found = body(ask, noun, given) | ({"name": name} if name else {})
    if not found:
        raise click.UsageError("nothing to change: give an option")
    return found


def one_of_a_kind(noun: Noun, group: click.Group) -> None:
    """show, update."""

    @group.command()
    @AS_JSON
    @connected
    def show(ask: Client, as_json: bool) -> None:
        """Show all of it."""
        echo(ask("GET", noun.path), as_json)

    @group.command()
    @with_fields(noun)
    @DRY_RUN
    @NO_WAIT
    @AS_JSON
    @connected
    def update(ask: Client, dry_run: bool, as_json: bool, **given: Any) -> None:
        """Change what the options say, and show what it is then."""
        sent = update_body(ask, noun, given, "")
        echo(change(ask, dry_run, "PUT", noun.path, sent), as_json)


def collection(noun: Noun, group: click.Group) -> None:
    """list, show, create, update, delete."""

    def path_of(ask: Client, name: str) -> str:
        return client.item(noun.path, ask.named(noun.path, name)["uid"])

    @group.command("list")
    @AS_JSON
    @connected
    def list_all(ask: Client, as_json: bool) -> None:
        """List all."""
        echo(ask("GET", noun.path), as_json, noun.columns)

    @group.command()
    @click.argument("name")
    @AS_JSON
    @connected
    def show(ask: Client, name: str, as_json: bool) -> None:
        """Show one, by name or uid."""
        echo(ask("GET", path_of(ask, name)), as_json)

    @group.command()
    @click.argument("name")
    @with_fields(noun)
    @DRY_RUN
    @NO_WAIT
    @AS_JSON
    @connected
    def create(ask: Client, name: str, dry_run: bool, as_json: bool, **given: Any) -> None:
        """Make one, and show it."""
        for field in noun.fields:
            if field.needed and not given[field.parameter]:
                raise click.UsageError(f"which {field.option}? --{field.option}: {field.help}")
        sent = {"name": name, **body(ask, noun, given)}
        if sent.keys() & {IDENTITIES, SUBJECT}:
            sent.setdefault("auth_method", "certificate")
        echo(change(ask, dry_run, "POST", noun.path, sent), as_json)

    @group.command()
    @click.argument("name")
    @click.option("--rename", default="", help="Its new name.")
    @with_fields(noun)
    @DRY_RUN
    @NO_WAIT
    @AS_JSON
    @connected
    def update(
        ask: Client, name: str, rename: str, dry_run: bool, as_json: bool, **given: Any
    ) -> None:
        """Change what the options say, and show it."""
        path, sent = path_of(ask, name), update_body(ask, noun, given, rename)
        echo(change(ask, dry_run, "PUT", path, sent), as_json)

    @group.command()
    @click.argument("name")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @DRY_RUN
    @NO_WAIT
    @connected
    def delete(ask: Client, name: str, yes: bool, dry_run: bool) -> None:
        """Delete one, by name or uid."""
        path = path_of(ask, name)
        if not yes and not dry_run:
            click.confirm(f"Delete {noun.name} '{name}'?", abort=True, err=True)
        change(ask, dry_run, "DELETE", path)


def group_of(noun: Noun) -> click.Group:
    group = click.Group(noun.name, help=noun.help)
    (collection if noun.columns else one_of_a_kind)(noun, group)
    if noun.identities:
        group.add_command(identity_group)
    return group


GROUPS = tuple(group_of(noun) for noun in NOUNS)
