"""The commands that ask the REST API: `redis-certauth user list` and the like, one table of nouns;
and `apply`."""

import base64
import json
import logging
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import urlencode

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from control import service
from control.cli import apply, client, importers, renewal, tell
from control.cli.client import ApiError, Client, ProfileError
from control.pki.keys import KEY_TYPES, KeyType
from control.policy import core
from control.records import (
    AuthMethod,
    Enforcement,
    KeyUsage,
    Management,
    Reason,
    Stale,
    Switch,
    TlsMode,
    Validation,
)

Command = TypeVar("Command", bound=Callable[..., Any])
Read = Callable[[Client, Any], Any]
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


# ---- Asking --------------------------------------------------------------------------------------

CONNECTION = (
    click.option("--profile", envvar="CERTAUTH_PROFILE", help="A table of config.toml."),
    click.option("--url", help="Of the API: https://host:9443"),
    click.option("--ca", help="PEM file of the CA that the API's certificate is from."),
    click.option("--cert", help="PEM file of your certificate."),
    click.option("--key", help="PEM file of its key."),
    click.option("--username", help="Log in by password instead."),
)


@contextmanager
def reporting() -> Iterator[None]:
    """Exits with 1 where the API refuses, with 2 where the profile is wrong."""
    try:
        yield
    except (ProfileError, apply.PolicyFileError) as error:
        raise click.UsageError(str(error)) from error
    except (ApiError, renewal.RenewalError) as error:
        raise click.ClickException(clean(str(error))) from error


@contextmanager
def asking(profile: str | None, options: Mapping[str, str | None]) -> Iterator[Client]:
    """A client by the options of CONNECTION; exits as `reporting` does."""
    with reporting(), Client(chosen(profile, options)) as ask:
        yield ask


def connection(command: Command) -> Callable[..., Any]:
    """Gives a command the options of CONNECTION: `profile`, and the others as `options`."""

    @wraps(command)
    def run(profile: str | None, **arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in ("url", "ca", "cert", "key", "username")}
        command(profile, options, **arguments)

    for option in reversed(CONNECTION):
        run = option(run)
    return run


def connected(command: Command) -> Callable[..., Any]:
    """Gives a command a client as its first argument."""

    @wraps(command)
    def run(profile: str | None, options: Mapping[str, str | None], **arguments: Any) -> None:
        with asking(profile, options) as ask:
            command(ask, **arguments)
        if click.get_current_context().meta.get(BEHIND):
            sys.exit(NOT_IN_FORCE)

    return connection(run)


# ---- Changing ------------------------------------------------------------------------------------

WAIT = 5.0  # seconds for the servers, before it is said that they are still to follow
NOT_IN_FORCE = 3  # the exit status where a server does not hold a change then
BEHIND, HASTY = "certauth.behind", "certauth.hasty"  # in the context of a command


def hasty(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    context.meta[HASTY] = wanted


DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what it would do; change nothing.")
NO_WAIT = click.option(
    "--no-wait", is_flag=True, expose_value=False, callback=hasty,
    help=f"Do not wait for the servers. Else: {WAIT:g} seconds, and exit status {NOT_IN_FORCE} "
    "where one does not hold the change then.",
)  # fmt: skip


def change(ask: Client, dry_run: bool, method: str, path: str, sent: Any = None) -> Any:
    """Makes a change, waits for the servers, and returns the API's answer; or, of a dry run, says
    what it would do, and returns None."""
    if not dry_run:
        found = made(ask, method, path, sent)
        for warning in found.get("warnings", ()) if isinstance(found, dict) else ():
            click.echo(clean(f"warning: {warning}"), err=True)
        return found
    rehearsal = apply.Rehearsal(ask)
    rehearsal(method, path, sent)
    show_preview(rehearsal.preview())
    return None


def made(ask: Client, method: str, path: str, sent: Any = None) -> Any:
    """Makes a change and says on how many servers it is in force, and why not on others."""
    seconds = 0.0 if click.get_current_context().meta[HASTY] else WAIT
    with waiting():
        found = ask(method, waited(path, seconds), sent)
    follow(found.pop("in_force", ""), found.pop("pending", []))
    return found


def waited(path: str, seconds: float) -> str:
    return f"{path}{'&' if '?' in path else '?'}wait_for_sync={seconds:g}"


@contextmanager
def waiting() -> Iterator[None]:
    """A line that says so, where somebody looks at standard error."""
    console = Console(stderr=True)
    shown = console.status("until the servers hold it") if console.is_terminal else nullcontext()
    with shown:
        yield


def follow(in_force: str, pending: Sequence[str]) -> None:
    """Says on standard error how far the servers are with a change; what is pending decides about
    the exit status, unless nobody wanted to wait."""
    done, _, all_ = in_force.partition("/")
    if in_force not in ("", "0/0"):
        click.echo(f"in force on {done} of {all_} servers", err=True)
    for one in pending:
        click.echo(clean(f"pending: {one}"), err=True)
    meta = click.get_current_context().meta
    meta[BEHIND] = meta.get(BEHIND) or bool(pending and not meta[HASTY])


def show_preview(databases: Sequence[Mapping[str, Any]]) -> None:
    for line in tell.previewed(databases):
        click.echo(clean(line))


def chosen(name: str | None, options: Mapping[str, str | None]) -> client.Profile:
    """The profile by name, else `default` where there is one, under the options. The password of a
    user who has none in the profile is asked for."""
    file = client.config_file()
    found = client.load_profile(file, name or "default") if name or file.exists() else None
    profile = client.overridden(found or client.Profile(), options)
    if profile.username and not profile.cert and not profile.password:
        password = typed(f"Password of {profile.username}")
        if not password:
            raise click.UsageError(f"--username {profile.username}: a password is missing")
        return client.overridden(profile, {"password": password})
    return profile


def typed(prompt: str, twice: bool = False) -> str:
    """A password from a prompt, or from a line of standard input where that is no terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    found: str = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return found


# ---- Showing -------------------------------------------------------------------------------------

AS_JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


def clean(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(one if one.isprintable() or one == "\n" else escaped(one) for one in text)


def escaped(text: str) -> str:
    """Its bytes in hex, as RFC 4514 has them."""
    return "".join(f"\\{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def cell(value: Any) -> Text:
    """As people read it. A Text, since a string would be read as rich's markup."""
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list) and all(not isinstance(one, dict) for one in value):
        return Text(clean(", ".join(map(str, value))))
    if isinstance(value, list | dict):
        return Text(clean(json.dumps(value, ensure_ascii=False)))
    return Text(clean(str(value).strip()))


def echo(value: Any, as_json: bool, columns: tuple[str, ...] = ()) -> None:
    """An object as two columns, a list as rows of `columns`; or either of them as JSON. Nothing for
    None."""
    if value is None:
        return
    if as_json:
        click.echo(json.dumps(value, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=isinstance(value, list))
    if isinstance(value, list):
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for one in value:
            table.add_row(*(cell(one.get(column, "")) for column in columns))
    else:
        for name, content in value.items():
            table.add_row(Text(name), cell(content))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=1000)
    console.print(table, crop=False)


# ---- Nouns ---------------------------------------------------------------------------------------


def as_is(_: Client, value: Any) -> Any:
    return value


def several(read: Read) -> Read:
    return lambda ask, values: [read(ask, value) for value in values]


def uid_in(path: str) -> Read:
    return lambda ask, name: ask.named(path, name)["uid"]


def contents(_: Client, file: Path) -> str:
    return file.read_text()


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
    return typed("New password", twice=True)


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

    def declare(self) -> Callable[[Any], Any]:
        if self.flag and self.kind is bool:
            option = f"--{self.option}/--no-{self.option}"
            return click.option(option, self.name, default=None, help=self.help)
        if self.flag:
            return click.option(f"--{self.option}", self.name, is_flag=True, help=self.help)
        return click.option(
            f"--{self.option}", self.name, type=self.kind, multiple=self.multiple, help=self.help
        )


def choice(of: Any) -> click.Choice[str]:
    return click.Choice(get_args(of))


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


NOUNS = (
    Noun(
        "user", "/v1/users", "People and programs, by certificate or by password.",
        (
            Field("auth-method", "auth_method", "How it logs in.", kind=choice(AuthMethod)),
            Field("subject", "certificate_subject_line", "Of its certificate: CN=alice,O=acme"),
            Field("email", "email", "Its e-mail address."),
            Field("role", "role_uids", "A role by name; give all of them. The role None gives no "
                  "rights in this API.", several(uid_in(ROLES)), multiple=True, needed=True),
            Field("password", "password", "Ask for a password, or read a line of standard input.",
                  typed_password, flag=True),
        ),
        ("uid", "name", "auth_method", "certificate_subject_line", "role", "status"),
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
        ),
        ("uid", "name", "status", "generation", "tls_mode"),
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
        "cluster", "/v1/cluster", "The settings of the control plane itself.",
        (
            switch("certificates", "mtls_certificate_authentication", "Logins by certificate."),
            switch("passwords", "control_plane_basic_authentication", "Logins by password."),
            Field("validation", "mtls_client_cert_subject_validation_type",
                  "Of clients' subjects.", kind=choice(Validation)),
            switch("complexity", "password_complexity", "Rules for passwords."),
            Field("min-length", "password_min_length", "Of passwords.", kind=int),
            Field("expiration", "password_expiration_duration", "Of passwords, in days.", kind=int),
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
        return command

    return add


def body(ask: Client, noun: Noun, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the command line has, as the request has them."""
    values = {field: given[field.name] for field in noun.fields}
    there = {field: one for field, one in values.items() if one not in (None, ())}
    return {
        field.name: field.read(ask, one)
        for field, one in there.items()
        if one is not False or field.kind is bool
    }


def changed(ask: Client, noun: Noun, given: Mapping[str, Any], name: str) -> dict[str, Any]:
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
        sent = changed(ask, noun, given, "")
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
            if field.needed and not given[field.name]:
                raise click.UsageError(f"which {field.option}? --{field.option}: {field.help}")
        sent = {"name": name, **body(ask, noun, given)}
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
        path, sent = path_of(ask, name), changed(ask, noun, given, rename)
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
    return group


# ---- Certificates --------------------------------------------------------------------------------

CERTIFICATES = "/v1/cluster/certificates"


def show_certificate(ask: Client, name: str, as_json: bool) -> None:
    found = ask("GET", CERTIFICATES).get(f"{name}_cert", "")
    click.echo(json.dumps({name: found}) if as_json else clean(found).strip())


@click.group("ca")
def ca_group() -> None:
    """The CAs that clients are judged by."""


@ca_group.command("show")
@AS_JSON
@connected
def ca_show(ask: Client, as_json: bool) -> None:
    """Print them as PEM."""
    show_certificate(ask, "mtls_trusted_ca", as_json)


@ca_group.command("list")
@AS_JSON
@connected
def ca_list(ask: Client, as_json: bool) -> None:
    """List them, and how many users, certificates and live sessions depend on each, and who."""
    found = ask("GET", "/v1/certauth/ca")
    if as_json:
        echo(found, as_json)
        return
    for one in found["cas"]:
        one["use"] = "clients" if one["admits"] else "only above others"
        one["who"] = [f"{user['user']}{' (no other CA)' * user['only']}" for user in one["who"]]
    echo(
        found["cas"],
        as_json,
        ("subject", "use", "not_after", "users", "certificates", "sessions", "who"),
    )
    for gone in found["removed"]:
        click.echo(clean(f"taken away, and refused wherever it is brought along: {gone['ca']}"))
    for node in found["silent"]:
        click.echo(clean(f"{node} did not answer: its sessions are not counted"), err=True)


FORCE = click.option("--force", is_flag=True, help="Whoever is cut off by it.")


TRUST_GROWS = click.option(
    "--trust-grows", is_flag=True, help="Also where clients could come from more CAs than now."
)


def forced(path: str, force: bool) -> str:
    return f"{path}?force" if force else path


@ca_group.command("set")
@click.argument("file", type=FILE)
@FORCE
@TRUST_GROWS
@DRY_RUN
@NO_WAIT
@connected
def ca_set(ask: Client, file: Path, force: bool, trust_grows: bool, dry_run: bool) -> None:
    """Put those of FILE (PEM) in their place. One that is there already stays what it is, a CA that
    clients come from or only above others."""
    entry = {
        "name": "mtls_trusted_ca",
        "certificate": file.read_text(),
        "trust_grows": trust_grows,
    }
    change(
        ask, dry_run, "PUT", forced(CERTIFICATES, force and not dry_run), {"certificates": [entry]}
    )


@ca_group.command("delete")
@click.option("--yes", is_flag=True, help="Do not ask.")
@FORCE
@DRY_RUN
@NO_WAIT
@connected
def ca_delete(ask: Client, yes: bool, force: bool, dry_run: bool) -> None:
    """Trust no CA any more."""
    if not yes and not dry_run:
        click.confirm("Delete the CAs that clients are judged by?", abort=True, err=True)
    path = f"{CERTIFICATES}/mtls_trusted_ca"
    change(ask, dry_run, "DELETE", forced(path, force and not dry_run))


@click.group("cert")
def cert_group() -> None:
    """The certificate that the API shows."""


@cert_group.command("show")
@AS_JSON
@connected
def cert_show(ask: Client, as_json: bool) -> None:
    """Print the API's certificate as PEM."""
    show_certificate(ask, "api", as_json)


@cert_group.command("set")
@click.argument("certificate", type=FILE)
@click.argument("key_file", type=FILE)
@NO_WAIT
@connected
def cert_set(ask: Client, certificate: Path, key_file: Path) -> None:
    """Give the API another certificate and key (PEM)."""
    entry = {"name": "api", "certificate": certificate.read_text(), "key": key_file.read_text()}
    made(ask, "PUT", CERTIFICATES, {"certificates": [entry]})


@cert_group.command("rotate")
@connected
def cert_rotate(ask: Client) -> None:
    """Give the API a new certificate and key from the control plane's own CA."""
    ask("POST", f"{CERTIFICATES}/rotate", {"name": "api"})


# ---- explain -------------------------------------------------------------------------------------


@click.command("explain")
@click.argument("certificate", type=FILE)
@click.option("--policy", type=FILE, help="A file of policy lines: no API is asked.")
@click.option("--db", help="On this database, by name; else for the API.")
@click.option("--address", help="The client's IP address, for lines with from=.")
@click.option("--time", "when", type=click.DateTime(), help="Another time than now, in UTC.")
@AS_JSON
@connection
def explain_command(
    profile: str | None, options: Mapping[str, str | None], certificate: Path, policy: Path | None,
    db: str | None, address: str | None, when: datetime | None, as_json: bool,
) -> None:  # fmt: skip
    """Say who CERTIFICATE would be, and why. Exits with 1 where it would be nobody.

    CERTIFICATE is PEM, the leaf first, then its intermediate CAs; or the DER of a leaf.
    """
    now = int(when.replace(tzinfo=UTC).timestamp()) if when else None
    if policy:
        found = explained_by(policy, certificate, now, address)
    else:
        sent = {"certificate": pem_of(certificate), "address": address, "time": now}
        with asking(profile, options) as ask:
            sent["bdb_uid"] = ask.named("/v1/bdbs", db)["uid"] if db else None
            there = {name: value for name, value in sent.items() if value is not None}
            found = ask("POST", "/v1/certauth/explain", there)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(clean("\n".join(tell.explained(found))))
    sys.exit(0 if found["users"] else 1)


def pem_of(certificate: Path) -> str:
    content = certificate.read_bytes()
    is_pem = b"-----BEGIN" in content
    return content.decode(errors="replace") if is_pem else ssl.DER_cert_to_PEM_cert(content)


def explained_by(
    policy: Path, certificate: Path, now: int | None, address: str | None
) -> dict[str, Any]:
    """As the API explains, by a file."""
    try:
        decision = read_policy(policy).decide(certificate.read_bytes(), now, address)
    except (core.CoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{policy} is no text in UTF-8: {error}") from error
    return core.told(decision)


def read_policy(file: Path) -> core.Policy:
    """A file of policy lines. Comments and empty lines are none, but count where a line is named.
    Raises core.PolicyError."""
    lines = list(enumerate(file.read_text().splitlines(), 1))
    lines = [(number, line) for number, line in lines if line and line[0] != "#"]
    try:
        return core.Policy(line for _, line in lines)
    except core.PolicyError as error:
        problems = tuple((lines[index - 1][0], text) for index, text in error.problems)
        raise core.PolicyError(problems, error.count) from error


KIND = click.option(
    "--cert-profile", default="", help="What it is to be like; else as the one you log in with."
)


@cert_group.command("request")
@click.option("--user", default="", help="Whose it is to be; yours unless given.")
@click.option("--out", default="", help="The files are OUT.crt and OUT.key; USER unless given.")
@click.option(
    "--key-type", default="ec", show_default=True, type=click.Choice(KEY_TYPES), help="Of the key."
)
@KIND
@connected
def cert_request(ask: Client, user: str, out: str, key_type: KeyType, cert_profile: str) -> None:
    """Make a key here, which stays here, and have a certificate issued for it."""
    name = out or (user if "/" not in user else "")
    if not name:
        raise click.UsageError("say how the files are to be called: --out")
    files = renewal.Files(Path(f"{name}.crt"), Path(f"{name}.key"))
    renewal.request(ask, files, user, cert_profile, key_type)
    told(files)


@cert_group.command("renew")
@click.option("--daemon", is_flag=True, help="Stay, and renew at two thirds of its life.")
@KIND
@connection
def cert_renew(
    profile: str | None, options: Mapping[str, str | None], daemon: bool, cert_profile: str
) -> None:
    """Renew the certificate that you log in with, in its file, for the key that it has."""
    with reporting():
        login = chosen(profile, options)
        if not login.cert:
            raise click.UsageError("which certificate? Log in with it: --cert and --key")
        if daemon:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
            renewal.keep(login, cert_profile, service.stop_on_signal())
        else:
            told(renewal.renew(login, cert_profile))


def told(files: renewal.Files) -> None:
    click.echo(f"{files.certificate}: until {moment(renewal.end_of(files))}")


@cert_group.command("list")
@click.option("--user", help="Only those of this user.")
@click.option("--expiring", is_flag=True, help="Only those that end soon, without a successor.")
@click.option("--serves", is_flag=True, help="Only those that are not for clients alone.")
@AS_JSON
@connected
def cert_list(
    ask: Client, user: str | None, expiring: bool, serves: bool, as_json: bool
) -> None:
    """List the certificates of clients that were issued here or have logged in."""
    query = {"user": user} if user else {}
    query |= {"expiring": "1"} if expiring else {}
    query |= {"serves": "1"} if serves else {}
    found = ask("GET", f"/v1/certauth/certificates?{urlencode(query)}")
    if not as_json:
        for one in found:
            for name in ("not_after", "last_login"):
                one[name] = moment(one[name])
    columns = ("user", "subject", "not_after", "last_login", "node", "issued", "serves", "cert")
    echo(found, as_json, columns)


def moment(time: int) -> str:
    """Seconds since 1970 as people read them; 0 is not known."""
    return datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds") if time else ""


# ---- Revocation ----------------------------------------------------------------------------------

REVOCATIONS, CRLS = "/v1/certauth/revocations", "/v1/certauth/crls"
REVOKED = ("uid", "line", "reason", "time")
LISTED = ("uid", "issuer", "number", "entries", "next_update", "overdue", "stale", "url", "problem")


@cert_group.command("revoke")
@click.argument("certificate", type=FILE, required=False)
@click.option("--user", help="All good certificates of this user that are known.")
@click.option("--fingerprint", help="By the certificate's SHA-256.")
@click.option("--key-id", help="Every certificate with this key, by its SHA-256.")
@click.option("--reason", default="unspecified", show_default=True, type=choice(Reason),
              help="For the revocation list of our own CA.")  # fmt: skip
@DRY_RUN
@NO_WAIT
@AS_JSON
@connected
def cert_revoke(
    ask: Client, certificate: Path | None, user: str | None, fingerprint: str | None,
    key_id: str | None, reason: str, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Revoke CERTIFICATE (PEM), or what one of the options says: sessions end at once."""
    given = {"certificate": certificate and certificate.read_text(), "cert": fingerprint}
    given |= {"key": key_id, "user_uid": user and ask.named("/v1/users", user)["uid"]}
    body = {name: value for name, value in given.items() if value}
    if len(body) != 1:
        raise click.UsageError("say what: CERTIFICATE, --user, --fingerprint or --key-id")
    found = change(ask, dry_run, "POST", REVOCATIONS, {**body, "reason": reason})
    echo(found and found["revocations"], as_json, REVOKED)


@cert_group.command("revoked")
@AS_JSON
@connected
def cert_revoked(ask: Client, as_json: bool) -> None:
    """List what was revoked here, the newest first."""
    echo(ask("GET", REVOCATIONS), as_json, REVOKED)


@cert_group.command("unrevoke")
@click.argument("uid", type=int)
@DRY_RUN
@NO_WAIT
@connected
def cert_unrevoke(ask: Client, uid: int, dry_run: bool) -> None:
    """Take the revocation UID back."""
    change(ask, dry_run, "DELETE", f"{REVOCATIONS}/{uid}")


@click.group("crl")
def crl_group() -> None:
    """The revocation lists of CAs."""


@crl_group.command("list")
@AS_JSON
@connected
def crl_list(ask: Client, as_json: bool) -> None:
    """List those that were taken."""
    echo(ask("GET", CRLS), as_json, LISTED)


STALE = click.option("--stale", type=choice(Stale), help="What is done when it is overdue.")
INTERVAL = click.option("--interval", type=int, help="Seconds between two fetches.")


def settings(stale: str | None, interval: int | None, url: str | None) -> dict[str, Any]:
    given = {"stale": stale, "interval": interval, "url": url}
    return {name: value for name, value in given.items() if value is not None}


@crl_group.command("import")
@click.argument("file", type=FILE, required=False)
@click.option("--from", "crl_url", help="Fetch it from there, now and on time.")
@click.option("--authorities", type=FILE, help="PEM file of CAs up to one that is trusted.")
@STALE
@INTERVAL
@NO_WAIT
@AS_JSON
@connected
def crl_import(
    ask: Client, file: Path | None, crl_url: str | None, authorities: Path | None,
    stale: str | None, interval: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Take the list in FILE (PEM or DER), or at an address, in the place of the CA's last one."""
    body = settings(stale, interval, crl_url)
    if file:
        body["crl"] = base64.b64encode(file.read_bytes()).decode()
    if authorities:
        body["authorities"] = authorities.read_text()
    echo(made(ask, "POST", CRLS, body), as_json)


@crl_group.command("update")
@click.argument("uid", type=int)
@click.option("--from", "crl_url", help="Where it is fetched from; '' for nowhere.")
@STALE
@INTERVAL
@NO_WAIT
@AS_JSON
@connected
def crl_update(
    ask: Client, uid: int, crl_url: str | None, stale: str | None, interval: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Change what is done with the list UID."""
    body = settings(stale, interval, crl_url)
    if not body:
        raise click.UsageError("nothing to change: give an option")
    echo(made(ask, "PUT", f"{CRLS}/{uid}", body), as_json)


@crl_group.command("delete")
@click.argument("uid", type=int)
@click.option("--yes", is_flag=True, help="Do not ask.")
@NO_WAIT
@connected
def crl_delete(ask: Client, uid: int, yes: bool) -> None:
    """Forget the list UID: what only it has revoked is good again."""
    if not yes:
        click.confirm(f"Forget the revocation list {uid}, and all that it revokes?",
                      abort=True, err=True)  # fmt: skip
    made(ask, "DELETE", f"{CRLS}/{uid}")


# ---- status --------------------------------------------------------------------------------------

SERVERS = (
    "bdb_name", "address", "in_step", "age", "generation", "lag", "software", "module", "trust",
    "certificate_not_after", "error",
)  # fmt: skip
LOOK = 0.2  # seconds between two questions while waiting


@click.command("status")
@click.option("--wait", type=float, default=0.0, help="At most so many seconds, for all servers.")
@AS_JSON
@connected
def status_command(ask: Client, wait: float, as_json: bool) -> None:
    """Show how far each server has followed, and how many seconds ago that was seen. Exits with 1
    where one is behind or not known, where nothing is sent to them, or where the control plane does
    not do its work."""
    found = awaited(ask, wait)
    if as_json:
        echo(found, True)
    else:
        echo(found["nodes"], False, SERVERS)
    for fault in found["faults"]:
        click.echo(clean(fault), err=True)
    if hold := found["hold"]:
        raise click.ClickException(f"on hold: {clean(hold)}; see redis-certauth release")
    if behind := [one for one in found["nodes"] if not one["in_step"]]:
        raise click.ClickException(f"{len(behind)} of {len(found['nodes'])} servers are behind")
    if found["faults"]:
        raise click.ClickException("the control plane does not do its work")


def awaited(ask: Client, seconds: float) -> dict[str, Any]:
    """What the API says of the servers, once they are in step or the time is over; meanwhile a bar
    shows how many are, where somebody looks at standard error."""
    end = time.monotonic() + seconds
    console = Console(stderr=True)
    shown = console.is_terminal and seconds > 0
    with Progress(console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("servers in step")
        while True:
            found: dict[str, Any] = ask("GET", "/v1/certauth/nodes")
            done = sum(one["in_step"] for one in found["nodes"])
            progress.update(task, completed=done, total=len(found["nodes"]))
            if found["hold"] or done == len(found["nodes"]) or time.monotonic() >= end:
                return found
            time.sleep(LOOK)


# ---- log -----------------------------------------------------------------------------------------


@click.command("log")
@click.option("--type", "kinds", default="",
              help="Only of these types (with commas), or of all that begin so.")  # fmt: skip
@click.option("--since", help="A time of ISO 8601, in UTC.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1),
              help="The last ones.")  # fmt: skip
@AS_JSON
@connected
def log_command(ask: Client, kinds: str, since: str | None, limit: int, as_json: bool) -> None:
    """Show what happened, the newest last: changes, logins and refusals, here and on all nodes."""
    query = {"order": "desc", **({"stime": since} if since else {})}
    found = ask("GET", f"/v1/logs?{urlencode(query)}")
    begin = tuple(kinds.split(","))
    wanted = [one for one in found if one["type"].startswith(begin)][:limit][::-1]
    if as_json:
        click.echo(json.dumps(wanted, indent=2))
        return
    for line in tell.logged(wanted):
        click.echo(clean(line))


# ---- import --------------------------------------------------------------------------------------


@click.group("import")
def import_group() -> None:
    """Make a file for `apply` out of what another system has, and say what could not be."""


def carried(found: importers.Import) -> None:
    click.echo(apply.dump(found.state), nl=False)
    for line in importers.lines(found.notes):
        click.echo(clean(line), err=True)


def with_subjects(command: Command) -> Command:
    for option in (
        click.option("--subject", "template", default="",
                     help="Of all certificates, with {} where the name is: CN={},O=acme"),
        click.option("--certificates", type=FOLDER, help="Of PEM files: their subjects count."),
    ):  # fmt: skip
        command = option(command)
    return command


def subjects_from(
    folder: Path | None, of: importers.Of, template: str
) -> tuple[importers.Import, importers.Subjects]:
    files = sorted(one for one in folder.iterdir() if one.is_file()) if folder else []
    notes = importers.Import()
    contents_of = ((one.name, one.read_bytes()) for one in files)
    return notes, importers.subjects_of(contents_of, of, template, notes)


@import_group.command("acl")
@click.argument("file", type=FILE)
@click.option("--of", type=choice(importers.Of), default="CN", show_default=True,
              help="What tls-auth-clients-user says.")  # fmt: skip
@with_subjects
def import_acl(file: Path, of: importers.Of, certificates: Path | None, template: str) -> None:
    """FILE is the aclfile of a server with tls-auth-clients-user, or its ACL LIST."""
    notes, subjects = subjects_from(certificates, of, template)
    found = importers.from_acl_file(file.read_text(), subjects)
    carried(importers.Import(found.state, notes.notes + found.notes))


@import_group.command("pg-ident")
@click.argument("file", type=FILE)
@with_subjects
def import_pg_ident(file: Path, certificates: Path | None, template: str) -> None:
    """FILE is a pg_ident.conf whose maps are for certificates."""
    notes, subjects = subjects_from(certificates, "CN", template)
    found = importers.from_pg_ident(file.read_text(), subjects)
    carried(importers.Import(found.state, notes.notes + found.notes))


@import_group.command("enterprise")
@connected
def import_enterprise(ask: Client) -> None:
    """From a Redis Enterprise cluster, whose REST API the connection options name."""
    paths = {name: one.path for name, one in apply.SECTIONS.items() if name != apply.CA}
    answers = {name: ask("GET", path) for name, path in paths.items()}
    answers["certificates"] = ask("GET", apply.SECTIONS[apply.CA].path)
    known = {name: one.known for name, one in apply.SECTIONS.items()}
    carried(importers.from_enterprise(answers, known))


# ---- apply ---------------------------------------------------------------------------------------


@click.command("apply")
@click.option("--file", "-f", required=True, type=FILE, help="The declared state, YAML.")
@click.option("--dry-run", is_flag=True, help="Print the plan and what it would do, and end.")
@click.option("--prune", is_flag=True, help="Delete what the file's lists do not have.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@NO_WAIT
@connected
def apply_command(ask: Client, file: Path, dry_run: bool, prune: bool, yes: bool) -> None:
    """Make it so that the control plane is as FILE says. Prints the plan first, and changes nothing
    where the API or a server would refuse a part of it."""
    wanted = apply.read(file)
    steps = apply.plan(wanted, apply.fetch(ask), ask.whoami() if prune else "", prune)
    if not steps:
        click.echo("nothing to do")
        return
    for step in steps:
        click.echo(clean(str(step)))
    steps = [apply.with_password(step) for step in steps]
    rehearsal = apply.Rehearsal(ask)
    for step in steps:
        apply.carry_out(rehearsal, step)
    if dry_run:
        show_preview(rehearsal.preview())
        return
    rehearse(rehearsal)
    if not yes:
        click.confirm(f"Make these {len(steps)} changes?", abort=True, err=True)
    changes = apply.Changes(ask)
    for number, step in enumerate(steps):
        try:
            apply.carry_out(changes, step)
        except ApiError as error:
            where = f"{step.title}: {error.description}; {number} of {len(steps)} changes are made"
            raise ApiError(error.status, error.error_code, where) from error
    click.echo(f"{len(steps)} changes made")
    if changes.moved:
        follow_all(ask)


UNSEEN = ("preview_too_long", "insufficient_permissions")  # then each step is tried by itself


def rehearse(rehearsal: apply.Rehearsal) -> None:
    """Raises ApiError where the API would refuse a step, click.ClickException where a server
    would."""
    if len(rehearsal.changes) > apply.MOST:
        return
    try:
        found = rehearsal.preview()
    except ApiError as error:
        if error.error_code in UNSEEN:
            return
        text = f"{error.description}; nothing is changed"
        raise ApiError(error.status, error.error_code, text) from error
    nodes = (node for database in found for node in database["nodes"])
    texts = [text for node in nodes for text in tell.refused_by(node)]
    if texts:
        raise click.ClickException(clean("; ".join([*texts, "nothing is changed"])))


def follow_all(ask: Client) -> None:
    """Waits for all servers, after changes that are of several databases."""
    seconds = 0.0 if click.get_current_context().meta[HASTY] else WAIT
    try:
        servers = awaited(ask, seconds)["nodes"]
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        follow("", [f"how far the servers are is not yours to see: {error.description}"])
        return
    pending = [
        f"{one['address']}: {one['error'] or 'it has not followed yet'}"
        for one in servers
        if not one["in_step"]
    ]
    follow(f"{len(servers) - len(pending)}/{len(servers)}", pending)


GROUPS = tuple(group_of(noun) for noun in NOUNS)
COMMANDS = (
    *GROUPS, ca_group, cert_group, crl_group, status_command, explain_command, log_command,
    import_group,
    apply_command,
)  # fmt: skip
