"""Certificates: the CAs that clients are judged by, the API's own, and clients'."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from control import service
from control.cli import enrolling, files, renewal
from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.helping import Group
from control.cli.options import (
    FILE,
    NO_WAIT,
    asking,
    change,
    choose_address,
    choose_profile,
    connected,
    connection,
    make_change,
    makes_change,
    reporting,
)
from control.cli.output import as_data, clean, echo, echo_data, render_time, with_output
from control.pki import pem, uploads
from control.pki.kinds import KEY_TYPES, KeyType
from control.policy import bindings, core, pasted

CERTIFICATES, TRUSTED = "/v1/cluster/certificates", "mtls_trusted_ca"


def certificate_of(ask: Client, name: str) -> str:
    """PEM of a certificate of the cluster, by its name without `_cert`; "" where there is none."""
    found: str = ask("GET", CERTIFICATES).get(f"{name}_cert", "")
    return found


def show_certificate(ask: Client, name: str) -> None:
    """Prints a certificate of the cluster as PEM, or as data."""
    found = certificate_of(ask, name)
    if as_data():
        echo_data({name: found})
    else:
        click.echo(clean(found).strip())


@click.group("ca", cls=Group)
def ca_group() -> None:
    """The CAs that may issue clients' certificates."""


@ca_group.command("show")
@with_output
@connected
def ca_show(ask: Client) -> None:
    """Print the trusted CAs as PEM."""
    show_certificate(ask, TRUSTED)


@ca_group.command("list")
@with_output
@connected
def ca_list(ask: Client) -> None:
    """List them and what is pinned, and how many users, certificates and live sessions depend on
    each, and who."""
    found = ask("GET", "/v1/certauth/ca")
    if as_data():
        echo_data(found)
        return
    for one in found["cas"]:
        one["use"] = "clients" if one["admits"] else "only above others"
    for one in found["pins"]:
        one["use"] = "pinned, this certificate alone"
    for one in (*found["cas"], *found["pins"]):
        one["who"] = [f"{user['user']}{' (no other CA)' * user['only']}" for user in one["who"]]
    echo(
        [*found["cas"], *found["pins"]],
        ("subject", "use", "not_after", "users", "certificates", "sessions", "who"),
    )
    for gone in found["removed"]:
        click.echo(clean(f"removed, and refused even if a client sends it: {gone['ca']}"))
    for node in found["silent"]:
        click.echo(clean(f"{node} did not answer: its sessions are not counted"), err=True)


FORCE = click.option("--force", is_flag=True, help="Proceed even if clients are disconnected.")
TRUST_GROWS = click.option(
    "--trust-grows",
    is_flag=True,
    help="Allow the change even if clients could then come from more CAs than now.",
)


def with_force(path: str, force: bool) -> str:
    """The path of a call, with the flag by which the API goes on although somebody loses access."""
    return f"{path}?force" if force else path


def put_trusted(ask: Client, bundle: str, force: bool, **more: Any) -> None:
    """Makes these the trusted CAs, and says what each became. Scripts are not asked: the API itself
    refuses what cuts a client off, unless they say --force."""
    path = with_force(CERTIFICATES, force)
    entry = {"name": TRUSTED, "certificate": bundle, **more}
    made = change(ask, "PUT", path, {"certificates": [entry]}, scripts=True)
    for one in made["certificates"] if made else ():
        why = f": {one['why']}" if one["why"] else ""
        click.echo(clean(f"{one['subject']}: {BECAME[one['use']]}{why}"))


@ca_group.command("add")
@click.argument("file", type=FILE)
@TRUST_GROWS
@makes_change
@connected
def ca_add(ask: Client, file: Path, trust_grows: bool) -> None:
    """Trust the CAs of FILE (PEM, DER or PKCS#7) beside those that are trusted, and say what each
    became."""
    more = files.certificates(file)
    with reporting_certificates(file):
        together = uploads.merge_bundles(certificate_of(ask, TRUSTED), more)
    put_trusted(ask, together, False, trust_grows=trust_grows)


@ca_group.command("remove")
@click.argument(
    "authority", metavar="CA", shell_complete=names_of("/v1/certauth/ca", "subject", "cas")
)
@FORCE
@makes_change
@connected
def ca_remove(ask: Client, authority: str, force: bool) -> None:
    """Trust CA no more: its name (the subject, or the CN of it), SHA-256 or key id. The others
    stay."""
    blocks = {
        one: core.identity(one.encode()) for one in pem.split_pem(certificate_of(ask, TRUSTED))
    }
    try:
        gone = bindings.ca_among(authority, list(blocks.values()))
    except ValueError as error:
        raise click.ClickException(clean(str(error))) from error
    kept = [block for block, one in blocks.items() if one.key != gone]
    if kept:
        put_trusted(ask, "".join(kept), force)
    else:
        change(ask, "DELETE", with_force(f"{CERTIFICATES}/{TRUSTED}", force), scripts=True)


@contextmanager
def reporting_certificates(file: Path) -> Iterator[None]:
    """What cannot be read within is an error of the command, which names the file."""
    try:
        yield
    except pem.CertificateError as error:
        raise click.ClickException(f"{file}: {error}") from error


@ca_group.command("set")
@click.argument("file", type=FILE)
@click.option("--client-ca", "client_cas", multiple=True, metavar="KEY_ID",
              help="Key id of a CA that issues clients' certificates; repeat for each such CA. "
              "Default: each CA in FILE that did not issue another CA in FILE.")  # fmt: skip
@FORCE
@TRUST_GROWS
@makes_change
@connected
def ca_set(
    ask: Client, file: Path, force: bool, trust_grows: bool, client_cas: tuple[str, ...]
) -> None:
    """Put those of FILE (PEM, DER or PKCS#7) in place of all that are trusted, and say what
    each became; `ca add` leaves the others. One that is there already stays what it is, a CA that
    clients come from or only above others."""
    more = {"client_cas": [pasted_key(one) for one in client_cas]} if client_cas else {}
    put_trusted(ask, files.certificates(file), force, trust_grows=trust_grows, **more)


BECAME = {
    "clients": "clients come from it",
    "above": "only above others",
    "left_out": "left out",
}


def pasted_key(text: str) -> str:
    """SHA-256 of a CA's key, in hex, however `--client-ca` spells it."""
    try:
        return pasted.fingerprint(text)
    except ValueError as error:
        raise click.UsageError(f"--client-ca: {error}") from error


@ca_group.command("delete")
@FORCE
@makes_change
@connected
def ca_delete(ask: Client, force: bool) -> None:
    """Remove all trusted CAs."""
    question = "Delete the CAs that clients are judged by?"
    change(ask, "DELETE", with_force(f"{CERTIFICATES}/{TRUSTED}", force), question=question)


@click.group("cert", cls=Group)
def cert_group() -> None:
    """Clients' certificates, and the API's own."""


@cert_group.command("show")
@with_output
@connected
def cert_show(ask: Client) -> None:
    """Print the API's certificate as PEM."""
    show_certificate(ask, "api")


@cert_group.command("set")
@click.argument("certificate", type=FILE)
@click.argument("key_file", type=FILE)
@NO_WAIT
@connected
def cert_set(ask: Client, certificate: Path, key_file: Path) -> None:
    """Give the API another certificate and key (PEM or DER)."""
    shown, key = files.certificates(certificate), files.private_key(key_file)
    entry = {"name": "api", "certificate": shown, "key": key}
    make_change(ask, "PUT", CERTIFICATES, {"certificates": [entry]})


@cert_group.command("rotate")
@connected
def cert_rotate(ask: Client) -> None:
    """Give the API a new certificate and key from the control plane's own CA."""
    ask("POST", f"{CERTIFICATES}/rotate", {"name": "api"})


KIND = click.option(
    "--cert-profile",
    default="",
    help="Certificate profile; by default, that of the certificate you log in with.",
)


@cert_group.command("request")
@click.option("--user", default="", help="User to issue the certificate for; by default, you.")
@click.option("--out", default="", help="Write OUT.crt and OUT.key (default: the user's name).")
@click.option(
    "--key-type",
    default="ec",
    show_default=True,
    type=click.Choice(KEY_TYPES),
    help="Type of the key.",
)
@KIND
@click.option(
    "--token-file", type=click.Path(path_type=Path),
    help="Log in with the token (JWT) in this file; the rules of its issuer decide what the "
    "certificate names. Existing files are renewed.",
)  # fmt: skip
@click.option("--daemon", is_flag=True, help="With --token-file: keep running, and renew in time.")
@click.option(
    "--run", default="", help="With --token-file: a command to run after each new certificate."
)
@connection
def cert_request(
    profile: str | None, options: Mapping[str, str | None], user: str, out: str, key_type: KeyType,
    cert_profile: str, token_file: Path | None, daemon: bool, run: str,
) -> None:  # fmt: skip
    """Create a key on this machine, and request a certificate for it. The key never leaves this
    machine."""
    name = out or (user if "/" not in user else "")
    if not name:
        raise click.UsageError("name the files: --out")
    made = renewal.Files(Path(f"{name}.crt"), Path(f"{name}.key"))
    if token_file is None:
        if daemon or run:
            raise click.UsageError("--daemon and --run go with --token-file; else: cert renew")
        with asking(profile, options) as ask:
            renewal.request(ask, made, user, cert_profile, key_type)
        show_files(made)
        return
    if user or cert_profile:
        raise click.UsageError("--user, --cert-profile: the rules of the token's issuer say it")
    with reporting():
        where = choose_address(profile, options)
        command = tuple(shlex.split(run))
        wish = enrolling.Wish(where, token_file, made, key_type, command)
        if daemon:
            log_to_stderr()
            enrolling.keep(wish, service.stop_on_signal())
        else:
            show_files(enrolling.enrol(wish))


def log_to_stderr() -> None:
    """For the daemon: one line for each renewal, with its time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


@cert_group.command("renew")
@click.option(
    "--daemon", is_flag=True, help="Keep running, and renew when two thirds of its life are over."
)
@KIND
@connection
def cert_renew(
    profile: str | None, options: Mapping[str, str | None], daemon: bool, cert_profile: str
) -> None:
    """Renew the certificate that you log in with. The key stays, and the new certificate replaces
    the old one in its file."""
    with reporting():
        login = choose_profile(profile, options)
        if not login.cert:
            raise click.UsageError("which certificate? Log in with it: --cert and --key")
        if daemon:
            log_to_stderr()
            renewal.keep(login, cert_profile, service.stop_on_signal())
        else:
            show_files(renewal.renew(login, cert_profile))


def show_files(made: renewal.Files) -> None:
    """Says which file was written, and until when its certificate is good."""
    click.echo(f"{made.certificate}: until {render_time(renewal.end_of(made))}")


INVENTORY = "/v1/certauth/certificates"
COLUMNS = (
    "user", "subject", "sans", "not_after", "last_login", "node", "issued", "serves", "cert",
)  # fmt: skip


@cert_group.command("list")
@click.option(
    "--user", help="Only certificates of this user.", shell_complete=names_of("/v1/users")
)
@click.option(
    "--expiring", is_flag=True, help="Only certificates that end soon and have no successor."
)
@click.option(
    "--expires-before", help="Only certificates that end before this time (ISO 8601, UTC)."
)
@click.option(
    "--serves", is_flag=True, help="Only certificates that are not restricted to clients."
)
@click.option("--search", help="Only certificates with this text in the subject or a SAN.")
@with_output
@connected
def cert_list(
    ask: Client, user: str | None, expiring: bool, expires_before: str | None, serves: bool,
    search: str | None,
) -> None:  # fmt: skip
    """List the certificates of clients that were issued here or have logged in."""
    query = {"user": user, "search": search, "expires_before": expires_before}
    query |= {"expiring": "1" if expiring else None, "serves": "1" if serves else None}
    there = {name: value for name, value in query.items() if value}
    echo(ask("GET", f"{INVENTORY}?{urlencode(there)}"), COLUMNS)
