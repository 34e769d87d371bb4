"""What help says beside options: groups of commands, an example of each; and the variable in the
environment that each option may come from. Manual pages (control/cli/manual.py) say the same."""

from collections.abc import Iterator

import click

PROGRAM = "redis-certauth"
PREFIX = "CERTAUTH"
LONGEST = 150  # characters of a command in a list: its first sentence, on two lines or three

SECTIONS = {
    "Who may do what": ("user", "role", "acl", "db", "pattern"),
    "Certificates": ("ca", "trust-source", "cert", "cert-profile", "issuer", "crl",
                     "responder"),
    "What happens": ("status", "session", "lock", "log", "explain", "forecast"),
    "As a file": ("apply", "export", "import"),
    "A server without a control plane": ("policy",),
    "The control plane": ("cluster", "lockout", "whoami", "context", "completion"),
    "On the control plane's own machine": (
        "quickstart", "init", "serve", "health", "config", "node", "sentinel", "backup", "restore",
        "release", "allow-passwords", "set-password",
    ),
}  # fmt: skip

# By command, what one types behind the program's name.
EXAMPLES = {
    "quickstart": ("quickstart --home /tmp/certauth",),
    "init": ("init --home /var/lib/redis-certauth --name acme --api-name control.example",),
    "serve": ("serve --home /var/lib/redis-certauth",),
    "health": ("health --home /var/lib/redis-certauth",),
    "config check": ("config check --home /var/lib/redis-certauth",),
    "ca create": ("ca create --home /var/lib/redis-certauth --name acme",),
    "ca import": ("ca import chain.pem issuing.key --home /var/lib/redis-certauth",),
    "backup": ("backup /srv/backup/monday --home /var/lib/redis-certauth",),
    "restore": ("restore /srv/backup/monday --home /var/lib/redis-certauth --dry-run",),
    "release": ("release --home /var/lib/redis-certauth",),
    "allow-passwords": ("allow-passwords --home /var/lib/redis-certauth",),
    "set-password": ("set-password admin --home /var/lib/redis-certauth",),
    "policy check": ("policy check policy",),
    "policy load": (
        "policy load policy localhost:6379 --server-ca ca.crt --cert admin.crt --key admin.key",
    ),
    "node enrol": (
        "node enrol 10.0.0.5:6379 --home /var/lib/redis-certauth",
        "node enrol 127.0.0.1:6379 --home /var/lib/redis-certauth --config /etc/redis/redis.conf",
    ),
    "node take": ("node take 10.0.0.5:6379 --home /var/lib/redis-certauth",),
    "sentinel enrol": ("sentinel enrol 10.0.0.5:26379 --home /var/lib/redis-certauth",),
    "user list": ("user list", "user list -o name"),
    "user show": ("user show alice -o yaml",),
    "user create": (
        "user create alice --subject CN=alice,O=acme --role readers",
        "user create cart --uri spiffe://acme/cart --role writers --dry-run",
    ),
    "user update": (
        "user update alice --add-role writers --dry-run",
        "user update alice --remove-role writers",
    ),
    "user delete": ("user delete alice",),
    "user identity add": ("user identity add alice --certificate alice.crt --by key-id",),
    "user identity remove": ("user identity remove alice --cn alice",),
    "role list": ("role list",),
    "role show": ("role show readers",),
    "role create": ("role create readers --management none",),
    "role update": ("role update readers --rename orders-readers",),
    "role delete": ("role delete readers",),
    "acl list": ("acl list -o wide",),
    "acl show": ("acl show orders-read",),
    "acl create": ("acl create orders-read --rules '+@read ~orders:*'",),
    "acl update": ("acl update orders-read --rules '+@read ~orders:* ~carts:*' --dry-run",),
    "acl delete": ("acl delete orders-read",),
    "db list": ("db list",),
    "db show": ("db show orders -o yaml",),
    "db create": (
        "db create orders --endpoint 10.0.0.5:6379 --server-ca servers.pem --tls-mode enabled "
        "--grant readers=orders-read",
    ),
    "db update": (
        "db update orders --add-grant writers=orders-write",
        "db update orders --enforcement refuse --dry-run",
    ),
    "db delete": ("db delete orders --dry-run",),
    "pattern list": ("pattern list",),
    "pattern show": ("pattern show devices",),
    "pattern create": (
        "pattern create devices --kind cn --template 'dev-{id}' --user 'device:{id}' "
        "--role readers",
    ),
    "pattern update": ("pattern update devices --add-from 10.1.0.0/16",),
    "pattern delete": ("pattern delete devices",),
    "cert-profile list": ("cert-profile list",),
    "cert-profile show": ("cert-profile show default",),
    "cert-profile create": (
        "cert-profile create services --lifetime 3600 --subject 'CN={name},O=acme'",
    ),
    "cert-profile update": ("cert-profile update services --lifetime 86400",),
    "cert-profile delete": ("cert-profile delete services",),
    "cluster show": ("cluster show",),
    "cluster update": ("cluster update --certificates",),
    "lockout show": ("lockout show",),
    "lockout update": ("lockout update --threshold 5 --duration 1800",),
    "ca show": ("ca show >trusted.pem",),
    "ca list": ("ca list",),
    "ca add": ("ca add clients.pem --dry-run",),
    "ca remove": ("ca remove 'CN=Acme Clients CA 1'",),
    "ca set": ("ca set clients.pem --dry-run",),
    "ca delete": ("ca delete --dry-run",),
    "trust-source list": ("trust-source list",),
    "trust-source show": ("trust-source show mesh",),
    "trust-source create": ("trust-source create mesh --location /etc/certauth/mesh.pem --most 0",),
    "trust-source update": ("trust-source update mesh --interval 600",),
    "trust-source accept": ("trust-source accept mesh",),
    "trust-source delete": ("trust-source delete mesh",),
    "responder list": ("responder list",),
    "responder show": ("responder show corporate",),
    "responder create": (
        "responder create corporate --issued-by 'CN=Acme Clients CA 1' "
        "--ocsp-url http://ocsp.acme.example/",
    ),
    "responder update": ("responder update corporate --stale refuse",),
    "responder delete": ("responder delete corporate",),
    "cert show": ("cert show",),
    "cert set": ("cert set api.crt api.key",),
    "cert rotate": ("cert rotate",),
    "cert request": ("cert request --user alice", "cert request --user alice --out alice-laptop"),
    "cert renew": ("cert renew --cert alice.crt --key alice.key --daemon",),
    "cert list": ("cert list --user alice", "cert list --expiring -o wide"),
    "cert revoke": (
        "cert revoke lost.crt --reason keyCompromise",
        "cert revoke --fingerprint 1f0c33d09be27a14",
    ),
    "cert revoked": ("cert revoked",),
    "cert unrevoke": ("cert unrevoke 7",),
    "issuer list": ("issuer list",),
    "issuer show": ("issuer show cluster-1 -o yaml",),
    "issuer create": (
        "issuer create staff --issuer-url https://login.acme.example --audience redis-certauth "
        "--rule 'user:{preferred_username} groups=dba lifetime:28800'",
        "issuer create sensors --manufacturer-ca acme-devices.pem --renewable "
        "--rule 'uri:urn:acme:device:{subject.serialNumber} subject.O=Acme'",
    ),
    "issuer update": ("issuer update cluster-1 --jwks jwks.json",),
    "issuer delete": ("issuer delete cluster-1",),
    "crl list": ("crl list",),
    "crl import": ("crl import --from http://pki.acme.example/acme.crl --stale refuse",),
    "crl update": ("crl update 3 --interval 600",),
    "crl delete": ("crl delete 3",),
    "status": ("status", "status --wait 60"),
    "session list": ("session list --user alice", "session list --db orders -o wide"),
    "session end": ("session end 10.0.0.5:6379 4711", "session end --user alice"),
    "lock list": ("lock list",),
    "lock create": (
        "lock create --user alice --for 8h --reason 'laptop lost'",
        "lock create --network 10.1.0.0/16 --dry-run",
    ),
    "lock delete": ("lock delete 7",),
    "forecast": ("forecast", "forecast --days 14"),
    "log": (
        "log --type client_refused --db orders",
        "log --follow --user alice",
        "log --since 2026-12-24T18:00:00 --until 2026-12-25T06:00:00 --json",
    ),
    "explain": ("explain alice.crt --db orders",),
    "apply": (
        "apply -f policy.yaml --dry-run",
        "apply -f policy/ -f users.yaml --prune",
        "apply -f - --dry-run --detailed-exitcode <policy.yaml",
    ),
    "export": ("export >policy.yaml",),
    "import acl": ("import acl users.acl --certificates certificates/ >users.yaml",),
    "import pg-ident": ("import pg-ident pg_ident.conf --subject 'CN={},O=acme' >users.yaml",),
    "import enterprise": ("import enterprise --profile enterprise >declared.yaml",),
    "whoami": ("whoami",),
    "context list": ("context list",),
    "context show": ("context show production",),
    "context set": (
        "context set production --url https://control.example:9443 --ca ca.crt --cert me.crt "
        "--key me.key",
    ),
    "context use": ("context use production",),
    "context delete": ("context delete staging",),
    "completion": ("completion bash >/etc/bash_completion.d/redis-certauth",),
}  # fmt: skip


class Lines(click.types.StringParamType):
    """A text that may be given again: in a variable, a line for each, since names have blanks."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """An environment variable holds one value in each line."""
        return rv.splitlines()


LINES = Lines()


class Group(click.Group):
    """Lists its commands in SECTIONS; gives each one its examples, and its options variables."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, with its examples and the environment variables of its options."""
        found = super().get_command(ctx, cmd_name)
        if found is not None and not isinstance(found, click.Group):
            prepare(found, [*words_of(ctx), cmd_name])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Under the headings of SECTIONS, where this is the whole program."""
        helps = self.short_helps(ctx)
        for title, names in self.sections(helps):
            with formatter.section(title):
                formatter.write_dl([(name, helps[name]) for name in names])

    def short_helps(self, ctx: click.Context) -> dict[str, str]:
        """By command, what help lists; not of hidden ones."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        there = [(name, one) for name, one in found.items() if one is not None and not one.hidden]
        return {name: one.get_short_help_str(LONGEST) for name, one in there}

    @staticmethod
    def sections(names: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
        """Titles of the help's sections, and the commands of each."""
        if "serve" not in names:
            yield "Commands", list(names)
            return
        for title, some in SECTIONS.items():
            yield title, [name for name in some if name in names]
        told = {name for some in SECTIONS.values() for name in some}
        if rest := [name for name in names if name not in told]:
            yield "Commands", rest


def words_of(context: click.Context) -> list[str]:
    """The groups that lead to a command, without the program's own name."""
    above: list[str] = []
    while context.parent is not None:
        above.insert(0, context.info_name or "")
        context = context.parent
    return above


def prepare(command: click.Command, words: list[str]) -> None:
    """Once: its variables and its examples."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.envvar:
            option.envvar = variable(words, option)
            if option.multiple and option.type is click.STRING:
                option.type = LINES
    examples = EXAMPLES.get(" ".join(words), ())
    if examples and not command.epilog:
        told = "\n".join(f"  {PROGRAM} {one}" for one in examples)
        command.epilog = f"\b\nExample{'s' if len(examples) > 1 else ''}:\n{told}"


def variable(words: list[str], option: click.Option) -> str:
    """CERTAUTH_USER_CREATE_ROLE for `user create --role`."""
    names = [*words, option.opts[0].lstrip("-")]
    return "_".join([PREFIX, *names]).upper().replace("-", "_")
