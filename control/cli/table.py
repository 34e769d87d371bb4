"""The commands of `redis-certauth`, by name: where each is, and what it is for.

A command's module is loaded when somebody types the command. The program's own help is printed from
this table: it loads none of them. A test holds the table's sentences to the commands' own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from typing import NamedTuple

import click

from control.cli.helping import Group


class Entry(NamedTuple):
    """`where` is MODULE:NAME, of a command or of a function that makes the one of a name; `more`
    are modules that put commands into the group, or MODULE:NAME of such commands; `help` is the
    first sentence of its help."""

    where: str
    help: str
    more: tuple[str, ...] = ()


HERE, NOUN = "control.cli.main", "control.cli.nouns:named"
TABLE = {
    "acl": Entry(NOUN, "Rights on a database, in Redis's ACL syntax."),
    "allow-passwords": Entry(
        f"{HERE}:allow_passwords", "Allow logins to the REST API by password again."
    ),
    "apply": Entry("control.cli.applying:apply_command", "Apply the state declared in FILE."),
    "backup": Entry(
        f"{HERE}:backup", "Write rows, CA and keys into FILE, which must not exist yet."
    ),
    "ca": Entry(
        "control.cli.certificates:ca_group",
        "The CAs that may issue clients' certificates.", (HERE,)
    ),
    "cert": Entry(
        "control.cli.certificates:cert_group", "Clients' certificates, and the API's own.",
        ("control.cli.revocations",),
    ),
    "cert-profile": Entry(NOUN, "Templates for the certificates that the control plane issues."),
    "cluster": Entry(NOUN, "The settings of the control plane itself."),
    "completion": Entry(
        "control.cli.completing:completion_command",
        "Print the completion script for SHELL.",
    ),
    "config": Entry(f"{HERE}:config_group", "The settings of this machine's control plane."),
    "context": Entry(
        "control.cli.contexts:context_group",
        "Profiles in config.toml: which API to use, and how to log in.",
    ),
    "crl": Entry("control.cli.revocations:crl_group", "The revocation lists of CAs."),
    "db": Entry(NOUN, "The Redis and Valkey deployments whose users are managed here."),
    "explain": Entry(
        "control.cli.explain:explain_command", "Show which user CERTIFICATE would be, and why."
    ),
    "export": Entry(
        "control.cli.applying:export_command",
        "Print the current state as a file for `apply`.",
    ),
    "forecast": Entry(
        "control.cli.forecast:forecast_command",
        "Show who will lose access in the coming days, as far as certificates are known.",
    ),
    "health": Entry(
        f"{HERE}:health_command",
        "Exit with 0 if the control plane on this machine works, else say what is wrong.",
    ),
    "import": Entry(
        "control.cli.imports:import_group",
        "Create a file for `apply` from another system's configuration, and report what could "
        "not be converted.",
    ),
    "init": Entry(
        f"{HERE}:init",
        "Make a control plane: its own CA, its certificates, its first administrator.",
    ),
    "issuer": Entry(
        NOUN,
        "Issuers of tokens (OpenID Connect), or of devices' birth certificates, that may be "
        "exchanged for certificates.",
    ),
    "lock": Entry("control.cli.locks:lock_group", "Locks, which shut clients out for a time."),
    "lockout": Entry(NOUN, "How many wrong passwords lock a user, and for how long."),
    "log": Entry(
        "control.cli.status:log_command",
        "Show what happened, the newest last: changes, logins and refusals, here and on all nodes.",
    ),
    "node": Entry(f"{HERE}:node", "Redis and Valkey servers."),
    "pattern": Entry(
        NOUN, "Patterns: one line maps many certificates, each to its own user or all to one user."
    ),
    "policy": Entry(
        "control.cli.policies:policy_group", "Check a policy file, and load it into a server "
                                             "without a control plane."
    ),
    "quickstart": Entry(
        f"{HERE}:quickstart_command",
        "Start a demo server that authenticates clients by certificate, and print commands to try.",
    ),
    "release": Entry(
        f"{HERE}:release", "After a restore, let the control plane write to the servers again."
    ),
    "responder": Entry(
        NOUN, "OCSP responders that are asked about the certificates of a trusted CA."
    ),
    "restore": Entry(f"{HERE}:restore", "Restore a control plane from the backup FILE."),
    "role": Entry(NOUN, "Roles: what their users may do in this API, and who gets which ACL on a "
                        "database."),
    "sentinel": Entry(
        f"{HERE}:sentinel",
        "Sentinels, which tell clients and the control plane where the master is.",
    ),
    "serve": Entry(
        f"{HERE}:serve",
        "Run the control plane, the REST API and the sync of all databases, until SIGTERM or "
        "Ctrl-C.",
    ),
    "session": Entry(
        "control.cli.sessions:session_group",
        "Clients that are connected to the servers now, and their certificates.",
    ),
    "set-password": Entry(
        f"{HERE}:set_password",
        "Replace all passwords of the user NAME by a new one, and unlock the user.",
    ),
    "status": Entry(
        "control.cli.status:status_command",
        "Show how far each server has followed, and how many seconds ago that was seen.",
    ),
    "trust-source": Entry(
        NOUN, "Trust sources: files and URLs from which trusted CAs are read again and again.", (
            "control.cli.following:accept_command",)
    ),
    "user": Entry(NOUN, "People and programs, by certificate or by password."),
    "whoami": Entry(
        "control.cli.sessions:whoami_command",
        "Show how the API sees you: which user, which rights, and how you logged in.",
    ),
}  # fmt: skip


class Commands(MutableMapping[str, click.Command]):
    """The commands of TABLE, each loaded when it is looked up first."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            self._loaded[name] = self._load(name, TABLE[name])
        return self._loaded[name]

    @staticmethod
    def _load(name: str, entry: Entry) -> click.Command:
        module, _, attribute = entry.where.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        command: click.Command = found if isinstance(found, click.Command) else found(name)
        for one in entry.more:
            module, _, attribute = one.partition(":")
            more = importlib.import_module(module)
            if attribute and isinstance(command, click.Group):
                command.add_command(getattr(more, attribute))
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("the table of commands is fixed")

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)


class Program(Group):
    """The whole program, whose help loads no command."""

    def short_helps(self, ctx: click.Context) -> dict[str, str]:
        """The short help of each command, without loading it."""
        return {name: TABLE[name].help for name in self.list_commands(ctx)}


@click.group(
    cls=Program,
    commands=Commands(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="redis-certauth")
def main() -> None:
    """Certificate-based authentication for Redis and Valkey.

    Each option may come from the environment: --url from CERTAUTH_URL, --role of `user create` from
    CERTAUTH_USER_CREATE_ROLE.
    """
