"""`redis-certauth user identity`, and the options that say which certificates a user is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from control.cli import client
from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.helping import Group
from control.cli.options import FILE, Command, connected, edit, is_terminal, makes_change
from control.cli.output import IDENTITIES, clean, echo, with_output
from control.pki.guarded import CertificateError
from control.pki.reading import certificates_in
from control.policy import bindings, core, pasted

Identity = dict[str, Any]  # as the API has it
USERS = "/v1/users"
SUBJECT = "certificate_subject_line"  # the field that Redis Enterprise has

# By option, since --key, --cert and --email are something else already.
KINDS = {
    "subject": ("subject", "Whole subject of the certificate: CN=alice,O=acme"),
    "cn": ("cn", "CN of the subject."),
    "uri": ("uri", "URI in the certificate, such as spiffe://acme/ns/shop/sa/cart"),
    "dns": ("dns", "DNS name in the certificate."),
    "email-san": ("email", "An e-mail address in the certificate."),
    "ip": ("ip", "An IP address in the certificate."),
    "upn": ("upn", "A Microsoft user principal name."),
    "key-id": ("key", "SHA-256 of the public key; stays the same if a renewal keeps the key."),
    "fingerprint": ("cert", "SHA-256 of the certificate."),
    "attributes": ("attributes", "Part of the subject: OU=analytics,O=acme"),
    "attribute-oid": ("attribute", "OID=VALUE of the subject: 2.5.4.5=12345"),
    "extension-oid": ("extension", "OID=VALUE of an extension."),
}
KINDS_OF_API = frozenset(kind for kind, _ in KINDS.values())
OF_LEAF = ("subject", "cn", "uri", "dns", "email-san", "ip", "upn", "key-id", "fingerprint")


def parameter(option: str) -> str:
    """The Python name of an option, which no other option of a user has."""
    return f"by_{option.replace('-', '_')}"


def with_identities(command: Command) -> Command:
    """Gives a command the options that `given_identities` reads."""
    declared = [
        click.option(f"--{option}", parameter(option), multiple=True, help=text)
        for option, (_, text) in KINDS.items()
    ]
    declared += [
        click.option("--certificate", type=FILE, help="A certificate of the user; --by chooses "
                                                      "which part of it identifies the user."),
        click.option("--by", type=click.Choice(OF_LEAF), help="Which part of --certificate "
                                                              "identifies the user."),
        click.option("--issued-by", default="", help="Only certificates below this trusted CA "
                     "(name, SHA-256 or key id)."),
        click.option("--from", "networks", multiple=True, help="Only from this address or "
                     "network; you can repeat this option."),
        click.option("--session", default="", help="Longest duration of a connection, such as 8h."),
        click.option("--shared", is_flag=True, help="Other users may have the same identity."),
        click.option("--comment", default="", help="Note for people who read the identity."),
    ]  # fmt: skip
    for option in reversed(declared):
        command = option(command)
    return command


def given_identities(given: dict[str, Any]) -> list[Identity]:
    """Takes these options out of those of a command. Raises click.UsageError."""
    found = [
        (kind, value)
        for option, (kind, _) in KINDS.items()
        for value in given.pop(parameter(option), ())
    ]
    file, by = given.pop("certificate", None), given.pop("by", None)
    options = {
        "ca": given.pop("issued_by", ""),
        "from": list(given.pop("networks", ())),
        "session": given.pop("session", ""),
        "shared": given.pop("shared", False),
        "comment": given.pop("comment", ""),
    }
    if file:
        found.append(named_by(file, by))
    said = {name: value for name, value in options.items() if value}
    if (said or by) and not found:
        raise click.UsageError("--issued-by, --from, --session, --shared, --comment and --by say "
                               "more of an identity: give one, such as --uri")  # fmt: skip
    for kind, value in found:
        if kind == "subject":
            ask_about(value)
    return [{kind: worded(kind, value), **said} for kind, value in found]


def ask_about(subject: str) -> None:
    """Where a name can be read in two ways, the person says whether it was read rightly; without a
    terminal, the API's answer says how it was. Raises click.Abort."""
    try:
        remark = pasted.name(subject).remark
    except core.CoreError:
        return  # the API says so
    if remark and is_terminal():
        click.confirm(clean(f"--subject was {remark}. Is that right?"), abort=True, err=True)


def worded(kind: str, value: str) -> Any:
    """A value as the API has it."""
    if kind not in bindings.BY_OID:
        return value
    oid, equals, text = value.partition("=")
    if not equals:
        raise click.UsageError(f"'{value}' is not like OID=VALUE")
    return {"oid": oid, "value": text}


def named_by(file: Path, by: str | None) -> tuple[str, str]:
    """The kind and value of a certificate that somebody chose, all of which are shown: what a user
    is known by is never guessed. Raises click.UsageError."""
    try:
        ders = certificates_in(file.read_bytes())
        leaf, *others = [core.identity(der) for der in ders]
    except (core.CoreError, CertificateError, OSError) as error:
        raise click.UsageError(f"{file}: {error}") from error
    if leaves := [other for other in others if not other.ca]:
        raise click.UsageError(f"{file} holds {len(leaves) + 1} clients' certificates: give one")
    choices = choices_of(leaf)
    click.echo(clean(f"{file} holds:"), err=True)
    for option, value in choices:
        click.echo(clean(f"  --by {option}: {value}"), err=True)
    if leaf.refusal:
        raise click.UsageError(f"{file}: it logs nobody in: {leaf.detail or leaf.refusal}")
    if by is None:
        there = ", ".join(dict.fromkeys(option for option, _ in choices))
        raise click.UsageError(f"by what of {file}? --by: one of {there}")
    values = [value for option, value in choices if option == by]
    if len(values) != 1:
        why = f"has several: name them with --{by}" if values else "has none that can be named"
        raise click.UsageError(f"--by {by}: {file} {why}, or choose another")
    return KINDS[by][0], values[0]


def choices_of(leaf: core.Identity) -> list[tuple[str, str]]:
    """What a user may be bound to, by option."""
    options = {KINDS[option][0]: option for option in OF_LEAF}
    return [(options[kind], value) for kind, value in bindings.choices(leaf) if kind in options]


def fields_of(identities: Sequence[Identity]) -> dict[str, Any]:
    """The fields of a request. A plain subject alone replaces the present one, as
    in Redis Enterprise; anything else takes the place of all identities."""
    if len(identities) == 1 and identities[0].keys() == {"subject"}:
        return {SUBJECT: identities[0]["subject"]}
    return {IDENTITIES: list(identities)} if identities else {}


# ---- user identity add | remove ------------------------------------------------------------------


@click.group("identity", cls=Group)
def identity_group() -> None:
    """Add and remove single identities; the others stay."""


Edit = Callable[[list[Identity]], list[Identity]]


def edit_identities(ask: Client, name: str, edited: Edit) -> Any:
    """Raises ApiError, click.ClickException."""
    path = client.item(USERS, ask.named(USERS, name)["uid"])
    return edit(ask, path, lambda user: {IDENTITIES: edited(user[IDENTITIES])})


def needed(given: dict[str, Any]) -> list[Identity]:
    """The identities that were given. Raises UsageError without one."""
    found = given_identities(given)
    if not found:
        raise click.UsageError("which identity? Give one, such as --uri")
    return found


@identity_group.command("add")
@click.argument("name", shell_complete=names_of(USERS))
@with_identities
@makes_change
@with_output
@connected
def add(ask: Client, name: str, **given: Any) -> None:
    """Add identities to a user; its other identities stay. Add networks to one that has some."""
    more = needed(given)
    echo(edit_identities(ask, name, lambda there: with_more(there, more)))


def with_more(there: Sequence[Identity], more: Sequence[Identity]) -> list[Identity]:
    """An identity that is there and has networks gets those of the same one that is given."""
    found = list(there)
    for one in more:
        said = one.keys() - {"ca", "from", *KINDS_OF_API}
        those = [at for at, other in enumerate(found) if is_meant(other, one) and "from" in other]
        if "from" not in one or said or len(those) != 1:
            found.append(one)
            continue
        (at,) = those
        found[at] = {**found[at], "from": list(dict.fromkeys([*found[at]["from"], *one["from"]]))}
    return found


@identity_group.command("remove")
@click.argument("name", shell_complete=names_of(USERS))
@with_identities
@makes_change
@with_output
@connected
def remove(ask: Client, name: str, **given: Any) -> None:
    """Take identities from a user; the last one stays."""
    gone = needed(given)
    echo(edit_identities(ask, name, lambda there: without(there, gone)))


def without(there: Sequence[Identity], gone: Sequence[Identity]) -> list[Identity]:
    """Raises click.ClickException where one is not there, or which one is not clear."""
    kept = list(there)
    for one in gone:
        those = [other for other in kept if is_meant(other, one)]
        text = clean(bindings.written(one))
        if not those:
            raise click.ClickException(f"it has no identity {text}")
        if len(those) > 1:
            cas = ", ".join(other.get("ca", "none") for other in those)
            raise click.ClickException(f"{text} has several CAs: name one with --issued-by: {cas}")
        kept.remove(those[0])
    return kept


def is_meant(there: Identity, given: Mapping[str, Any]) -> bool:
    """Whether both are of one kind and value, however it is spelled, and of the CA that is given
    (by its key id, which the API shows)."""
    try:
        wanted = bindings.read({**given, "ca": ""})
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    same = (wanted.kind, wanted.value) == (bindings.kind_of(there), bindings.value_of(there))
    return same and given.get("ca", "") in ("", there.get("ca", ""))
