"""How connections end, for an auditor: CERTAUTH.LOG tells it while somebody asks for ENDS."""

from typing import Any

import pytest
import redis

from tests.kit.node import mapping
from tests.kit.policies import LOGIN, Node, Start, make_node, policy_of
from tests.kit.servers import Server
from tests.kit.support import Pki, wait_until


def entries(node: Node, *options: str | int) -> list[dict[str, Any]]:
    """Of clients, whose log is asked for with these options."""
    told = mapping(node.call("CERTAUTH.LOG", "SINCE", 0, "COUNT", 1000, *options))
    return [one for one in map(mapping, told["entries"]) if one["client"]]


def ended(node: Node, client: int) -> list[dict[str, Any]]:
    return [
        one for one in entries(node) if (one["event"], one["client"]) == ("disconnected", client)
    ]


def test_the_end_of_a_connection_is_told_where_that_is_asked_for(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """With the user, address, port and key that its login had; of a client that was refused too.
    A reader that has not asked, or for no time, is told of logins alone."""
    node = make_node(start, server_kind, *policy_of(pki))
    assert node.outcome(pki.alice) == LOGIN
    entries(node, "ENDS", 0)
    with node.server.tls(pki.alice).connect():
        gone = next(one["client"] for one in entries(node))
        wait_until(lambda: len(entries(node)) >= 2, "the second login is told")
    assert ended(node, gone) == []
    entries(node, "ENDS", 3600)
    with node.server.tls(pki.alice).connect():
        login = entries(node)[-1]
        assert (login["event"], login["port"] > 0) == ("login", True)
    wait_until(lambda: len(ended(node, login["client"])) == 1, "its end is told")
    (end,) = ended(node, login["client"])
    same = ("user", "address", "port", "key", "cert", "reason")
    assert {name: end[name] for name in same} == {name: login[name] for name in same}
    assert end["seq"] > login["seq"]
    node.outcome(pki.ca.issue("CN=nobody"))
    refused = next(one for one in entries(node) if one["event"] == "refused")
    wait_until(lambda: len(ended(node, refused["client"])) == 1, "the end of the refused is told")


def test_ends_is_a_number_of_seconds_and_stands_last(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """What else stands there is refused by what is wrong with it."""
    node = make_node(start, server_kind, *policy_of(pki))
    for options, why in (
        (("ENDS", "soon"), "'soon' is not a number"),
        (("ENDS", -1), "'-1' is not a number"),
        (("ENDS",), "options come as a name and a value"),
        (("ENDS", 5, "COUNT", 1), "takes SINCE and COUNT"),
    ):
        with pytest.raises(redis.ResponseError, match=why):
            node.call("CERTAUTH.LOG", *options)
