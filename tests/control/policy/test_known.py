"""control/policy/known.py: the table of commands and categories is what the servers say."""

import pytest
import redis

from control.policy import known
from tests.kit.node import Start
from tests.kit.servers import Server

COMMANDS = known.FIRST.union(*(new for later in known.LATER.values() for new in later.values()))


def takes(admin: redis.Redis, rule: str) -> bool:
    try:
        return bool(admin.execute_command("ACL", "SETUSER", "x", "reset", rule))
    except redis.ResponseError:
        return False


def test_the_table_is_what_each_server_takes(server_kind: Server, start: Start) -> None:
    """Every command and subcommand of every version, and every category."""
    server = start(server_kind)
    admin, software = server.admin(), f"{server_kind.name} {server_kind.version}"
    for one in sorted(COMMANDS):
        rule = f"+{one}"
        assert (known.stranger(rule, software) == "") == takes(admin, rule), (rule, software)
    assert set(admin.execute_command("ACL", "CAT")) == known.CATEGORIES
    for rule in ("+select|0", "-@all", "+@all", "+config|get"):
        assert known.stranger(rule, software) == ""
        assert takes(admin, rule)
    for rule in ("+gett", "-@dangeros", "+config|gett", "+gett|x"):
        assert known.stranger(rule, software) == rule
        assert not takes(admin, rule)


@pytest.mark.parametrize(
    ("rules", "software", "found"),
    [
        ("on ~+gett %R~x:+gett &+gett +get", "redis 7.0.15", ""),
        ('on "(+hexpire ~*)"', "redis 7.0.15", "+hexpire"),
        ('on "(+hexpire ~*)"', "redis 7.4.1", ""),
        ("on +HEXPIRE", "valkey 8.1.1", "+HEXPIRE"),
        ("on +hexpire", "", ""),
        ("on +ft.search +@search", "redis 7.0.15", ""),
        ("on +new", "redis 99.0.0", ""),  # a version that came after this table
        ("on +new", "valkey 9.1.7", "+new"),
        ("on +new", "keydb 6", "+new"),
        ("on +new", "redis ?", "+new"),
    ],
)
def test_what_a_version_does_not_know(rules: str, software: str, found: str) -> None:
    """The first rule of which the version is too old, also within a selector; patterns are no
    commands."""
    assert known.stranger(rules, software) == found
