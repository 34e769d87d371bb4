"""What `redis-certauth` does on this machine by itself."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from control import service
from control.cli import files, quickstart
from control.cli.certificates import ca_group
from control.cli.helping import Group
from control.cli.options import FILE, host_and_port
from control.cli.table import main as main
from control.pki.kinds import KEY_TYPES, KeyType


@contextmanager
def reported() -> Iterator[None]:
    """What stops a command, as one line on standard error and exit code 1."""
    try:
        yield
    except (service.ServiceError, quickstart.QuickstartError) as error:
        raise click.ClickException(str(error)) from error


@main.command("quickstart")
@click.option("--home", default=".certauth", type=click.Path(path_type=Path), show_default=True,
              help="Folder for all files.")  # fmt: skip
@click.option("--redis-port", default=6380, show_default=True, type=click.IntRange(1, 65535))
@click.option("--api-port", default=9443, show_default=True, type=click.IntRange(1, 65535),
              help="Port of the REST API.")  # fmt: skip
@click.option("--ui-port", default=8443, show_default=True, type=click.IntRange(1, 65535),
              help="Port of the web page.")  # fmt: skip
@click.option("--server", default="redis-server", show_default=True,
              help="A Redis or Valkey server, 7.0.6 or later, with TLS.")  # fmt: skip
def quickstart_command(
    home: Path, redis_port: int, api_port: int, ui_port: int, server: str
) -> None:
    """Start a demo server that authenticates clients by certificate, and print commands to try."""
    with reported():
        quickstart.run(quickstart.Options(home, redis_port, api_port, ui_port, server))


@main.command()
@click.option("--home", required=True, type=click.Path(path_type=Path),
              help="The control plane's folder; certauth.toml may be there.")  # fmt: skip
@click.option("--name", default="redis-certauth", show_default=True,
              help="Name of the cluster, and organisation in its certificates.")  # fmt: skip
@click.option(
    "--admin", default="admin", show_default=True, help="Name of the first administrator."
)
@click.option("--api-name", "api_names", multiple=True,
              help="A DNS name or IP address by which the REST API is reached; may be given again. "
              "Default: localhost, 127.0.0.1, ::1 and this machine's name.")  # fmt: skip
@click.option("--password-stdin", is_flag=True,
              help="Read the administrator's password from a line of standard input.")  # fmt: skip
def init(
    home: Path, name: str, admin: str, api_names: tuple[str, ...], password_stdin: bool
) -> None:
    """Make a control plane: its own CA, its certificates, its first administrator."""
    names = api_names or ("localhost", "127.0.0.1", "::1", socket.gethostname())
    with reported():
        made = service.load_config(home)
        service.init(made, name, admin, password_of(admin, password_stdin), names)
    click.echo(NEXT.format(home=made.home, admin=admin, module=quickstart.MODULE, host=names[0],
                           port=made.port))  # fmt: skip


def password_of(admin: str, from_stdin: bool) -> str:
    """From a prompt, twice, or from one line of standard input; never from the command line, which
    every process can read."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    prompted: str = click.prompt(
        f"Password of {admin}", hide_input=True, confirmation_prompt="The same again"
    )
    return prompted


NEXT = """\
In {home} there is now a control plane with the administrator '{admin}'.

1. Give each Redis or Valkey server the file {home}/bootstrap, and in its redis.conf:
     loadmodule {module} journal certauth bootstrap /path/to/bootstrap
     tls-ca-cert-dir certauth/ca
   Both folders are below the server's `dir`: mkdir -p certauth/ca
   Its own certificate comes from {home}/ca.crt, or from a CA that you name as
   `tls_server_ca` when you register the database.

2. Start it:
     redis-certauth serve --home {home}

3. Install the CA of your clients, and register databases and users:
     curl --cacert {home}/ca.crt -u {admin} https://{host}:{port}/v1/cluster
"""


@main.command()
@click.option("--home", required=True, help="The folder that `init` has made.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
def serve(home: Path) -> None:
    """Run the control plane, the REST API and the sync of all databases, until SIGTERM or Ctrl-C.

    Settings: HOME/certauth.toml, or the environment, such as CERTAUTH_PORT. Logs go to standard
    error, or to log_file. SIGHUP reads the settings of the log again, and opens its file again.
    """
    with reported():
        service.serve(service.load_config(home))


@main.command("health")
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--live", is_flag=True, help="Only check that it answers.")
def health_command(home: Path, live: bool) -> None:
    """Exit with 0 if the control plane on this machine works, else say what is wrong."""
    if problem := service.fault(home, "/livez" if live else "/readyz"):
        raise click.ClickException(problem)


@main.group("config", cls=Group)
def config_group() -> None:
    """The settings of this machine's control plane."""


@config_group.command("check")
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
def check_config(home: Path) -> None:
    """Show each setting, where it comes from, and what is wrong. Changes nothing."""
    with reported():
        found = service.load_config(home)
        for line in service.rendered_settings(found):
            click.echo(line)
        problems = service.check_settings(found)
    for line in found.warnings:
        click.echo(f"warning: {line}", err=True)
    if problems:
        raise click.ClickException("\n".join(problems))


REPLACE = click.option("--replace", is_flag=True, help="Replace the CA that exists.")


@ca_group.command("create")
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@click.option(
    "--name",
    default="",
    help="Organisation name in the CA's certificate (default: the cluster's name).",
)
@click.option("--key-type", default="ec", show_default=True, type=click.Choice(KEY_TYPES),
              help="Key type of the CA.")  # fmt: skip
@REPLACE
def ca_create(home: Path, name: str, key_type: KeyType, replace: bool) -> None:
    """Create a CA for clients' certificates. Run this on the control plane's machine."""
    with reported():
        service.create_ca(service.load_config(home), name, key_type, replace)


@ca_group.command("import")
@click.argument("certificates", type=FILE)
@click.argument("key_file", type=FILE)
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@REPLACE
def ca_import(certificates: Path, key_file: Path, home: Path, replace: bool) -> None:
    """Issue certificates with a CA of yours. CERTIFICATES (PEM) holds its certificate and all
    CAs above it, up to a root."""
    with reported():
        config = service.load_config(home)
        chain, key = files.certificates(certificates), files.private_key(key_file)
        service.import_ca(config, chain, key, replace)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
def backup(file: Path, home: Path) -> None:
    """Write rows, CA and keys into FILE, which must not exist yet. The control plane may run."""
    with reported():
        service.backup(service.load_config(home), file)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--home", required=True, type=click.Path(path_type=Path),
              help="A folder without a control plane; certauth.toml may be there.")  # fmt: skip
@click.option("--api-name", "api_names", multiple=True,
              help="A DNS name or IP address by which the REST API is reached from now on; may be "
              "given again. Default: those that it had.")  # fmt: skip
@click.option("--dry-run", is_flag=True,
              help="Compare with what the servers hold, and show which changes would be "
                   "lost.")  # fmt: skip
def restore(file: Path, home: Path, api_names: tuple[str, ...], dry_run: bool) -> None:
    """Restore a control plane from the backup FILE. It writes nothing to the servers until you run
    `release`."""
    with reported():
        config = service.load_config(home)
        click.echo(
            service.would_restore(config, file)
            if dry_run
            else service.restore(config, file, api_names)
        )


@main.command()
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@click.option("--force", is_flag=True,
              help="Proceed although a server was not checked: it stays on hold.")  # fmt: skip
def release(home: Path, force: bool) -> None:
    """After a restore, let the control plane write to the servers again. You need not stop it."""
    with reported():
        service.release(service.load_config(home), force)


@main.command()
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
def allow_passwords(home: Path) -> None:
    """Allow logins to the REST API by password again. You need not stop the control plane."""
    with reported():
        service.allow_passwords(service.load_config(home))


@main.command()
@click.argument("name")
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@click.option("--password-stdin", is_flag=True,
              help="Read the password from a line of standard input.")  # fmt: skip
def set_password(name: str, home: Path, password_stdin: bool) -> None:
    """Replace all passwords of the user NAME by a new one, and unlock the user."""
    with reported():
        config = service.load_config(home)
        service.set_password(config, name, password_of(name, password_stdin))


@main.group(cls=Group)
def node() -> None:
    """Redis and Valkey servers."""


@node.command()
@click.argument("address", metavar="HOST:PORT", callback=host_and_port)
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@click.option("--config", "conf", help="Write the lines into this redis.conf of the server.",
              type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--db", "database", default="",
              help="Name of the database: let its other nodes accept this server's "
                   "key.")  # fmt: skip
@click.option("--module", default=lambda: quickstart.MODULE, type=click.Path(path_type=Path),
              show_default="the one of this installation",
              help="Path of certauth.so on the server.")  # fmt: skip
@click.option("--journal", type=click.Path(path_type=Path),
              help="Path of the module's journal (default: certauth in the server's "
                   "`dir`).")  # fmt: skip
@click.option("--bootstrap", type=click.Path(path_type=Path),
              help="Path of the bootstrap file (default: certauth-bootstrap next to "
                   "redis.conf).")  # fmt: skip
@click.option("--keep-default", is_flag=True,
              help="Do not switch the user `default` off.")  # fmt: skip
def enrol(address: tuple[str, int], home: Path, **options: Any) -> None:
    """Say what makes the server at HOST:PORT a node of this control plane, or write it into its
    redis.conf. The control plane may run; the server has to be restarted."""
    with reported():
        enrolment = service.Enrolment(*address, **options)
        click.echo(service.enrol(service.load_config(home), enrolment))


@node.command("take")
@click.argument("address", metavar="HOST:PORT", callback=host_and_port)
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def take_node(address: tuple[str, int], home: Path, yes: bool) -> None:
    """Take over the server at HOST:PORT, which is registered here, from a control plane that is no
    more. Its policy becomes what is known here as soon as `serve` runs."""
    named = f"{address[0]}:{address[1]}"
    if not yes:
        click.confirm(f"Is the control plane of {named} gone for good?", abort=True, err=True)
    with reported():
        click.echo(service.take_node(service.load_config(home), named))


@main.group(cls=Group)
def sentinel() -> None:
    """Sentinels, which tell clients and the control plane where the master is."""


@sentinel.command("enrol")
@click.argument("address", metavar="HOST:PORT", callback=host_and_port)
@click.option("--home", required=True, help="Folder of the control plane.",
              type=click.Path(path_type=Path))  # fmt: skip
@click.option("--config", "conf", help="The Sentinel's configuration, to write into.",
              type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
def enrol_sentinel(address: tuple[str, int], home: Path, conf: Path | None) -> None:
    """Say what lets nobody but administrators change what the Sentinel at HOST:PORT does, or write
    it into its configuration. The Sentinel must not run meanwhile."""
    with reported():
        click.echo(service.enrol_sentinel(service.load_config(home), *address, conf))
