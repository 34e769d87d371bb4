"""Revoking certificates, and the revocation lists of other CAs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from control.cli import files
from control.cli.certificates import INVENTORY, cert_group
from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.helping import Group
from control.cli.options import (
    FILE,
    NO_WAIT,
    YES,
    change,
    choice,
    confirm,
    connected,
    make_change,
    makes_change,
)
from control.cli.output import SHORT, echo, with_output
from control.records import Reason, Stale

REVOCATIONS, CRLS = "/v1/certauth/revocations", "/v1/certauth/crls"
HASH = 64  # hex digits of a SHA-256
REVOKED = ("uid", "line", "reason", "time")
LISTED = ("uid", "issuer", "number", "entries", "next_update", "overdue", "stale", "url", "problem")


@cert_group.command("revoke")
@click.argument("certificate", type=FILE, required=False)
@click.option(
    "--user",
    help="All valid certificates of this user that the control plane knows.",
    shell_complete=names_of("/v1/users"),
)
@click.option(
    "--fingerprint",
    help="The certificate with this SHA-256, or with the short form that `cert list` shows.",
)
@click.option("--key-id", help="Every certificate with this public key (SHA-256).")
@click.option("--reason", default="unspecified", show_default=True, type=choice(Reason),
              help="Reason to put into the revocation list of the control plane's CA.")  # fmt: skip
@makes_change
@with_output
@connected
def cert_revoke(
    ask: Client, certificate: Path | None, user: str | None, fingerprint: str | None,
    key_id: str | None, reason: str,
) -> None:  # fmt: skip
    """Revoke CERTIFICATE (PEM, DER or PKCS#7; several clients' are all revoked), or what one of the
    options says: sessions end at once."""
    given = {
        "certificate": certificate and files.certificates(certificate),
        "cert": fingerprint and whole(ask, fingerprint),
    }
    given |= {"key": key_id, "user_uid": user and ask.named("/v1/users", user)["uid"]}
    body = {name: value for name, value in given.items() if value}
    if len(body) != 1:
        raise click.UsageError("say what: CERTIFICATE, --user, --fingerprint or --key-id")
    found = change(ask, "POST", REVOCATIONS, {**body, "reason": reason}, scripts=True)
    echo(found and found["revocations"], REVOKED)


def whole(ask: Client, fingerprint: str) -> str:
    """The SHA-256 that begins so, of the known certificates. Raises click.ClickException."""
    begin = "".join(fingerprint.split()).replace(":", "").lower()
    if len(begin) < SHORT or len(begin) >= HASH:
        return fingerprint
    found = [one["cert"] for one in ask("GET", INVENTORY) if one["cert"].startswith(begin)]
    if len(found) != 1:
        known = "no known certificate" if not found else f"{len(found)} known certificates"
        raise click.ClickException(f"--fingerprint: the SHA-256 of {known} begins with '{begin}'")
    return str(found[0])


@cert_group.command("revoked")
@with_output
@connected
def cert_revoked(ask: Client) -> None:
    """List the certificates that were revoked here, newest first."""
    echo(ask("GET", REVOCATIONS), REVOKED)


@cert_group.command("unrevoke")
@click.argument("uid", type=int)
@makes_change
@connected
def cert_unrevoke(ask: Client, uid: int) -> None:
    """Undo the revocation UID."""
    change(ask, "DELETE", f"{REVOCATIONS}/{uid}")


@click.group("crl", cls=Group)
def crl_group() -> None:
    """The revocation lists of CAs."""


@crl_group.command("list")
@with_output
@connected
def crl_list(ask: Client) -> None:
    """List the imported revocation lists."""
    echo(ask("GET", CRLS), LISTED)


STALE = click.option("--stale", type=choice(Stale), help="What to do when the list is overdue.")
INTERVAL = click.option("--interval", type=int, help="Seconds between fetches.")


def list_settings(stale: str | None, interval: int | None, url: str | None) -> dict[str, Any]:
    """The settings of a list that were given."""
    given = {"stale": stale, "interval": interval, "url": url}
    return {name: value for name, value in given.items() if value is not None}


@crl_group.command("import")
@click.argument("file", type=FILE, required=False)
@click.option("--from", "crl_url", help="URL to fetch the list from, now and whenever it is due.")
@click.option(
    "--authorities", type=FILE, help="File with the CAs between the list's issuer and a trusted CA."
)
@STALE
@INTERVAL
@NO_WAIT
@with_output
@connected
def crl_import(
    ask: Client, file: Path | None, crl_url: str | None, authorities: Path | None,
    stale: str | None, interval: int | None,
) -> None:  # fmt: skip
    """Import the revocation lists of FILE (PEM or DER) or of a URL; each replaces its CA's previous
    one."""
    body = list_settings(stale, interval, crl_url)
    if file:
        body["crl"] = files.lists(file)
    if authorities:
        body["authorities"] = files.certificates(authorities)
    made = make_change(ask, "POST", CRLS, body)
    others = made.pop("others", [])
    echo([made, *others] if others else made, LISTED if others else ())


@crl_group.command("update")
@click.argument("uid", type=int)
@click.option("--from", "crl_url", help="URL to fetch the list from; '': do not fetch it.")
@STALE
@INTERVAL
@NO_WAIT
@with_output
@connected
def crl_update(
    ask: Client, uid: int, crl_url: str | None, stale: str | None, interval: int | None,
) -> None:  # fmt: skip
    """Change the settings of the list UID."""
    body = list_settings(stale, interval, crl_url)
    if not body:
        raise click.UsageError("nothing to change: give an option")
    echo(make_change(ask, "PUT", f"{CRLS}/{uid}", body))


@crl_group.command("delete")
@click.argument("uid", type=int)
@YES
@NO_WAIT
@connected
def crl_delete(ask: Client, uid: int) -> None:
    """Delete the list UID. Certificates that only this list revoked become valid again."""
    confirm(f"Forget the revocation list {uid}, and all that it revokes?")
    make_change(ask, "DELETE", f"{CRLS}/{uid}")
