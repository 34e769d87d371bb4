"""Certificates: the CAs that clients are judged by, the API's own, and clients'."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from control import service
from control.cli import enrolling, files, renewal
from control.cli.client import Client
from control.cli.options import (
    DRY_RUN,
    FILE,
    NO_WAIT,
    asking,
    change,
    choose_address,
    choose_profile,
    connected,
    connection,
    make_change,
    reporting,
)
from control.cli.output import AS_JSON, clean, echo, render_time
from control.pki.kinds import KEY_TYPES, KeyType
from control.policy import pasted

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
    """List them and what is pinned, and how many users, certificates and live sessions depend on
    each, and who."""
    found = ask("GET", "/v1/certauth/ca")
    if as_json:
        echo(found, as_json)
        return
    for one in found["cas"]:
        one["use"] = "clients" if one["admits"] else "only above others"
    for one in found["pins"]:
        one["use"] = "pinned, this certificate alone"
    for one in (*found["cas"], *found["pins"]):
        one["who"] = [f"{user['user']}{' (no other CA)' * user['only']}" for user in one["who"]]
    echo(
        [*found["cas"], *found["pins"]],
        as_json,
        ("subject", "use", "not_after", "users", "certificates", "sessions", "who"),
    )
    for gone in found["removed"]:
        click.echo(clean(f"taken away, and refused wherever it is brought along: {gone['ca']}"))
    for node in found["silent"]:
        click.echo(clean(f"{node} did not answer: its sessions are not counted"), err=True)


FORCE = click.option("--force", is_flag=True, help="Proceed even if clients are disconnected.")
TRUST_GROWS = click.option(
    "--trust-grows", is_flag=True, help="Also where clients could come from more CAs than now."
)


def with_force(path: str, force: bool) -> str:
    return f"{path}?force" if force else path


@ca_group.command("set")
@click.argument("file", type=FILE)
@click.option("--client-ca", "client_cas", multiple=True, metavar="KEY_ID",
              help="Clients come from this one, by its key id; give all of them. Default: those "
              "that issued no other CA of FILE.")  # fmt: skip
@FORCE
@TRUST_GROWS
@DRY_RUN
@NO_WAIT
@connected
def ca_set(
    ask: Client, file: Path, force: bool, trust_grows: bool, dry_run: bool,
    client_cas: tuple[str, ...],
) -> None:  # fmt: skip
    """Put those of FILE (PEM, DER or PKCS#7) in their place, and say what each became. One that is
    there already stays what it is, a CA that clients come from or only above others."""
    entry: dict[str, Any] = {
        "name": "mtls_trusted_ca",
        "certificate": files.certificates(file),
        "trust_grows": trust_grows,
    }
    if client_cas:
        entry["client_cas"] = [pasted_key(one) for one in client_cas]
    made = change(
        ask,
        dry_run,
        "PUT",
        with_force(CERTIFICATES, force and not dry_run),
        {"certificates": [entry]},
    )
    for one in made["certificates"] if made else ():
        why = f": {one['why']}" if one["why"] else ""
        click.echo(clean(f"{one['subject']}: {BECAME[one['use']]}{why}"))


BECAME = {
    "clients": "clients come from it",
    "above": "only above others",
    "left_out": "left out",
}


def pasted_key(text: str) -> str:
    try:
        return pasted.fingerprint(text)
    except ValueError as error:
        raise click.UsageError(f"--client-ca: {error}") from error


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
    change(ask, dry_run, "DELETE", with_force(path, force and not dry_run))


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
@click.option("--out", default="", help="The files are OUT.crt and OUT.key; USER unless given.")
@click.option(
    "--key-type", default="ec", show_default=True, type=click.Choice(KEY_TYPES), help="Of the key."
)
@KIND
@click.option(
    "--token-file", type=click.Path(path_type=Path),
    help="Log in by the token (JWT) in this file: the rules of its issuer say what the certificate "
    "is for. Files that are there are renewed.",
)  # fmt: skip
@click.option("--daemon", is_flag=True, help="With a token: stay, and renew in time.")
@click.option("--run", default="", help="With a token: a command to run after each certificate.")
@connection
def cert_request(
    profile: str | None, options: Mapping[str, str | None], user: str, out: str, key_type: KeyType,
    cert_profile: str, token_file: Path | None, daemon: bool, run: str,
) -> None:  # fmt: skip
    """Make a key here, which stays here, and have a certificate issued for it."""
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


@cert_group.command("renew")
@click.option("--daemon", is_flag=True, help="Stay, and renew at two thirds of its life.")
@KIND
@connection
def cert_renew(
    profile: str | None, options: Mapping[str, str | None], daemon: bool, cert_profile: str
) -> None:
    """Renew the certificate that you log in with, in its file, for the key that it has."""
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
    click.echo(f"{made.certificate}: until {render_time(renewal.end_of(made))}")


@cert_group.command("list")
@click.option("--user", help="Only those of this user.")
@click.option("--expiring", is_flag=True, help="Only those that end soon, without a successor.")
@click.option("--serves", is_flag=True, help="Only those that are not for clients alone.")
@click.option("--search", help="Only those with this in their subject or a SAN.")
@AS_JSON
@connected
def cert_list(
    ask: Client, user: str | None, expiring: bool, serves: bool, search: str | None, as_json: bool
) -> None:
    """List the certificates of clients that were issued here or have logged in."""
    query = {"user": user} if user else {}
    query |= {"expiring": "1"} if expiring else {}
    query |= {"serves": "1"} if serves else {}
    query |= {"search": search} if search else {}
    found = ask("GET", f"/v1/certauth/certificates?{urlencode(query)}")
    if not as_json:
        for one in found:
            for name in ("not_after", "last_login"):
                one[name] = render_time(one[name])
    columns = (
        "user",
        "subject",
        "sans",
        "not_after",
        "last_login",
        "node",
        "issued",
        "serves",
        "cert",
    )
    echo(found, as_json, columns)
