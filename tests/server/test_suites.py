"""The servers' own test suites, with the module loaded."""

import tempfile
from pathlib import Path

import pytest

from tests.kit.policies import Start, make_node
from tests.kit.servers import Server
from tests.kit.suites import Suite, folder_of, missing
from tests.kit.support import Pki, scratch

# It decides each connection, and leaves anyone whom it does not know as the server had it.
LEAVES = (
    "set enforce on", "set unmatched leave", "set plain leave", "set password-auth allow",
    'bind subject "CN=alice,OU=eng,O=acme" alice',
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_nothing_fails_with_the_module_that_passes_without(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A policy that leaves strangers alone changes nothing for them: those of the server's own
    tests pass over TLS that pass without the module. What fails is tried without it, and once more
    with it: many of these tests are about time, and a machine is busy now and then."""
    if why := missing():
        pytest.skip(why)
    if not folder_of(server_kind).exists():
        pytest.skip(f"the suite of {server_kind} is not in the cache: run `make test-all`")
    node = make_node(start, server_kind, *LEAVES, f"revoke key {pki.bob.key_id}")
    node.server.stop()
    journal = node.server.directory / "certauth"
    suite = Suite(server_kind, Path(tempfile.mkdtemp(dir=scratch())))
    outcome = suite.run(suite.units(), journal)
    print(f"\n{server_kind}: {outcome.passed} checks passed, on {outcome.loaded} servers")
    print("failed at first:", *sorted(outcome.failed), sep="\n")
    assert outcome.passed > 900
    assert outcome.loaded > 100
    suspects = outcome.failed
    if suspects:
        suspects -= suite.run(outcome.units).failed
    if suspects:
        suspects &= suite.run(outcome.units, journal).failed
    assert not suspects
