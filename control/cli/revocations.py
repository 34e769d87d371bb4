"""Revoking certificates, and the revocation lists of other CAs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from control.cli import files
from control.cli.certificates import cert_group
from control.cli.client import Client
from control.cli.options import DRY_RUN, FILE, NO_WAIT, change, choice, connected, make_change
from control.cli.output import AS_JSON, echo
from control.records import Reason, Stale

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
    """Revoke CERTIFICATE (PEM, DER or PKCS#7; several clients' are all revoked), or what one of the
    options says: sessions end at once."""
    given = {"certificate": certificate and files.certificates(certificate), "cert": fingerprint}
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


def list_settings(stale: str | None, interval: int | None, url: str | None) -> dict[str, Any]:
    given = {"stale": stale, "interval": interval, "url": url}
    return {name: value for name, value in given.items() if value is not None}


@crl_group.command("import")
@click.argument("file", type=FILE, required=False)
@click.option("--from", "crl_url", help="Fetch it from there, now and on time.")
@click.option("--authorities", type=FILE, help="File of CAs up to one that is trusted.")
@STALE
@INTERVAL
@NO_WAIT
@AS_JSON
@connected
def crl_import(
    ask: Client, file: Path | None, crl_url: str | None, authorities: Path | None,
    stale: str | None, interval: int | None, as_json: bool,
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
    echo([made, *others] if others else made, as_json, LISTED if others else ())


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
    body = list_settings(stale, interval, crl_url)
    if not body:
        raise click.UsageError("nothing to change: give an option")
    echo(make_change(ask, "PUT", f"{CRLS}/{uid}", body), as_json)


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
    make_change(ask, "DELETE", f"{CRLS}/{uid}")
