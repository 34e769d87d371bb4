"""The command `redis-certauth`."""

import sys
from pathlib import Path

import click

from control import core, quickstart


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="redis-certauth")
def main() -> None:
    """Certificate-based authentication for Redis and Valkey."""


@main.command("quickstart")
@click.option("--home", default=".certauth", type=click.Path(path_type=Path), show_default=True,
              help="Where everything is kept.")  # fmt: skip
@click.option("--redis-port", default=6380, show_default=True, type=click.IntRange(1, 65535))
@click.option("--api-port", default=9443, show_default=True, type=click.IntRange(1, 65535),
              help="Port of the REST API.")  # fmt: skip
@click.option("--server", default="redis-server", show_default=True,
              help="A Redis or Valkey server, 7.0.6 or later, with TLS.")  # fmt: skip
def quickstart_command(home: Path, redis_port: int, api_port: int, server: str) -> None:
    """Start a server that knows its clients by their certificates, and say what to try."""
    try:
        quickstart.run(quickstart.Options(home, redis_port, api_port, server))
    except quickstart.QuickstartError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", required=True, help="A file of policy lines.",
              type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--address", help="The client's IP address, for lines with from=.")
def explain(certificate: Path, policy: Path, address: str | None) -> None:
    """Say who CERTIFICATE would be under a policy, and why. Exits with 1 where it would be nobody.

    CERTIFICATE is PEM, the leaf first, then its intermediate CAs; or the DER of a leaf.
    """
    try:
        lines = [line for line in policy.read_text().splitlines() if line and line[0] != "#"]
        decision = core.Policy(lines).decide(certificate.read_bytes(), address=address)
    except (core.CoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(decision.trace))
    click.echo(f"decision: {decision.action} {' '.join(decision.users)}".rstrip())
    sys.exit(0 if decision.users else 1)
