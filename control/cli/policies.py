"""`redis-certauth policy`: a policy file, checked here, and loaded into a server that has no
control plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from control.cli import files
from control.cli.explain import numbered_lines, read_policy
from control.cli.helping import Group
from control.cli.options import FILE, host_and_port
from control.cli.output import clean
from control.nodes import alone, client
from control.policy import core, taking


@click.group("policy", cls=Group)
def policy_group() -> None:
    """Check a policy file, and load it into a server without a control plane."""


@policy_group.command("check")
@click.argument("file", type=FILE)
def check_command(file: Path) -> None:
    """Check the policy lines in FILE, and report each wrong line by its number. Contacts no server.

    Exits with 1 where a line is wrong.
    """
    policy = checked(file, numbered_lines(file))
    click.echo(f"{file}: {described(policy)}")


@policy_group.command("load")
@click.argument("file", type=FILE)
@click.argument("address", metavar="HOST:PORT", callback=host_and_port)
@click.option("--server-ca", type=FILE,
              help="PEM file of the CA that the server's certificate is from. Default: the CAs "
              "that this system trusts.")  # fmt: skip
@click.option("--cert", required=True, type=FILE, help="PEM file of your certificate.")
@click.option("--key", required=True, type=FILE, help="PEM file of your certificate's private key.")
@click.option("--force", is_flag=True,
              help="Load the policy even if it shuts out your own certificate, has no lines, or "
              "replaces the policy of a control plane.")  # fmt: skip
def load_command(
    file: Path, address: tuple[str, int], server_ca: Path | None, cert: Path, key: Path, force: bool
) -> None:
    """Make the lines in FILE the whole policy of the server at HOST:PORT, all of them or none.

    Checks FILE first, as `policy check` does. Returns when the policy is on the server's disk and
    in force. Exits with 1 where it is not; then the old policy stays.
    """
    lines = numbered_lines(file)
    policy = checked(file, lines)
    server = f"{address[0]}:{address[1]}"
    try:
        access = client.Access(*address, files.certificates(server_ca) if server_ca else "")
        found = alone.load(access, client.Identity(cert, key), lines, policy.digest, force)
    except client.NodeError as error:
        raise click.ClickException(clean(f"{server}: {error}")) from error
    closed = "it was before" if found.closed is None else f"connections closed: {found.closed}"
    click.echo(f"{server}: generation {found.generation} is in force ({closed})")
    click.echo(f"{file}: {described(policy)}")
    for warning in found.warnings:
        click.echo(clean(f"warning: {server}: {warning}"), err=True)


def checked(file: Path, lines: Mapping[int, str]) -> core.Policy:
    """The policy of these lines, after warnings. Raises click.ClickException with every problem."""
    try:
        policy = read_policy(lines)
    except core.PolicyError as error:
        found = [f"{file}:{number}: {text}" if number else f"{file}: {text}"
                 for number, text in error.problems]  # fmt: skip
        if error.count > len(found):
            found.append(f"{file}: {error.count - len(found)} more lines are wrong")
        raise click.ClickException(clean("\n".join(found))) from error
    for warning in doubts(policy.lines):
        click.echo(clean(f"warning: {file}: {warning}"), err=True)
    return policy


def described(policy: core.Policy) -> str:
    """What a policy is, in one line."""
    return f"{len(policy.lines)} lines, {enforcement(policy.lines)}, digest {policy.digest}"


def enforcement(lines: tuple[str, ...]) -> str:
    """The `set enforce` line in force."""
    return next((line for line in lines if line.startswith("set enforce ")), "set enforce off")


def doubts(lines: tuple[str, ...]) -> Iterator[str]:
    """What a policy says that its author may not mean: it is taken all the same."""
    if enforcement(lines) != "set enforce on":
        yield "without the line `set enforce on`, the policy admits and refuses nobody"
    if not any(line.startswith(("ca ", "pin ")) for line in lines):
        yield "without a `ca` or `pin` line, no certificate becomes a user"
    known = {taking.user_of(line) for line in lines if line.startswith("user ")}
    for line in lines:
        if line.startswith(("bind ", "pattern ")):
            for user in taking.users_of(line):
                if user not in known and not taking.is_peer(user):
                    yield f"no `user` line for '{user}': a server without that user refuses it"
