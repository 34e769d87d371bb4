"""What an operator on the machine itself may do: the way back when nobody can log in any more,
taking over a node, and the end of a restore."""

from dataclasses import replace

from control.domain.passwords import check_new, new_password
from control.errors import invalid, missing
from control.nodes.client import NodeError
from control.nodes.holding import HELD, TWICE, keep
from control.nodes.takeover import take
from control.nodes.tracked import where_of
from control.nodes.waiting import servers
from control.records import Database, User
from control.service.config import Config, ServiceError
from control.service.home import at_work


def take_node(config: Config, address: str) -> str:
    """Takes over a node whose policy belongs to a control plane that is gone. What was done, for
    a person. Raises ServiceError."""
    with at_work(config) as store:
        try:
            return take(store, config.identity, (config.home / "ca.crt").read_text(), address)
        except NodeError as error:
            raise ServiceError(f"{address}: {error}") from error


def allow_passwords(config: Config) -> None:
    """Switches control_plane_basic_authentication on again, for an administrator whose certificate
    does not come in any more. A running control plane follows at once."""
    with at_work(config) as store:
        store.settings.configure(lambda now: replace(now, control_plane_basic_authentication=True))


def set_password(config: Config, name: str, password: str) -> None:
    """Gives a password user this password instead of all others, and unlocks it."""
    with at_work(config) as store:
        user = store.objects.user_by_login(name)
        if user is None:
            raise missing(f"user '{name}'")
        if user.auth_method != "regular":
            raise invalid("invalid_param", f"'{user.name}' logs in by certificate")
        if not password:
            raise invalid("missing_field", "password: it must not be empty")
        check_new(password, replace(user, passwords=()), store.settings.cluster())
        made = new_password(password)
        store.objects.update(User, user.uid, lambda now: replace(now, passwords=(made,), locked=0))


def release(config: Config, force: bool) -> None:
    """Ends what `restore` began with, or that another control plane has outbid this one: from now
    on the servers are brought to what is known here. Raises ServiceError, also (unless by `force`)
    where a server was not looked at, or where somebody else goes on writing to it."""
    with at_work(config) as store:
        found = [(one, node) for one in store.objects.all(Database) for node in servers(store, one)]
        general = store.settings.cluster().hold
        seen = [one for one in store.holds.all() if one.state == "seen"]
        if not (general or seen or any(node.outbid for _, node in found)):
            raise ServiceError("it is not on hold: the servers are kept in step")
        unseen = [
            f"{node.address} of '{database.name}': {node.error}"
            for database, node in found
            if (general and node.error and not node.error.startswith(HELD))
            or node.outbid
            or node.error.startswith(TWICE)
        ]
        if unseen and not force:
            raise ServiceError("\n".join([UNSEEN, *unseen]))
        names = {database.uid: database.name for database, _ in found}
        for one in seen:
            where = where_of(one.bdb_uid, names.get(one.bdb_uid, ""), one.address)
            keep(store, one.lines, where)
        store.settings.release(force)


UNSEEN = (
    "what these servers hold was not seen, or somebody else writes to them; start `serve` and look "
    "at `status` first, or release all others by --force: a server that was not seen gets nothing "
    "before somebody has seen what it holds and says `release` again; a server that somebody else "
    "writes to is taken:"
)
