"""docs/clients.md, "Rights that libraries and tools need": a server takes each line, and the
commands of the tool are allowed by it; what it has no need of is not."""

import pytest

from tests.kit.node import Start
from tests.kit.pages import blocks, section
from tests.kit.policies import OPERATOR
from tests.kit.servers import Server

NAME, TITLE = "docs/clients.md", "Rights that libraries and tools need"
# What each tool sends, by its documentation.
SENT = {
    "exporter": ["INFO", "CLIENT SETNAME x", "CONFIG GET maxmemory", "SLOWLOG LEN", "PING"],
    "insight": ["INFO", "SCAN 0", "HGETALL key", "MEMORY USAGE key", "PING"],
    "riot-source": ["SCAN 0", "DUMP key", "PTTL key", "TYPE key"],
    "riot-target": ["RESTORE key 0 x", "DEL key"],
}
DENIED = ["FLUSHALL", "CONFIG SET maxmemory 1", "ACL LIST", "SET key x"]


@pytest.mark.parametrize("name", SENT)
def test_a_tool_may_do_what_it_does(installed: Server, start: Start, name: str) -> None:
    (shown,) = (one for one in blocks(NAME, "policy") if one in section(NAME, TITLE))
    users = {line.split()[1]: line.split()[2:] for line in shown.splitlines()}
    assert set(users) == set(SENT)
    admin = start(installed, config=[f"user {OPERATOR} on >{OPERATOR} ~* &* +@all"]).admin(
        username=OPERATOR, password=OPERATOR
    )
    admin.execute_command("ACL", "SETUSER", name, *users[name])

    def may(command: str) -> bool:
        return bool(admin.acl_dryrun(name, *command.split()) in (b"OK", "OK"))

    assert [one for one in SENT[name] if not may(one)] == []
    assert [one for one in DENIED if may(one)] == []
