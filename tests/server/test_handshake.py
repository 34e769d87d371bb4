"""What explain says of a new connection is what the server does, its TLS handshake included."""

import re
import ssl
from collections.abc import Sequence

import pytest
import redis

from tests.kit.certs import authority_line
from tests.kit.chains import Shown, keys, sign, table
from tests.kit.policies import HANDSHAKE, LOGIN, Node, Start, make_node, policy_of
from tests.kit.presented import EXCEPTIONS, chains_node, peer, told_of
from tests.kit.servers import Server
from tests.kit.support import Pki, root

# The alerts of a server that refuses, in the client's words (ssl_x509err2alert, OpenSSL 3.0), and
# the reasons that may stand behind each. None: the client learns no more than that it was closed.
ALERTS = {
    "CERTIFICATE_EXPIRED": {"expired", "ca_expired"},
    "UNKNOWN_CA": {"untrusted_issuer", "handshake"},
    "UNSUPPORTED_CERTIFICATE": {"key_usage", "untrusted_issuer"},
    "BAD_CERTIFICATE": {"weak", "not_yet_valid", "ca_expired", "malformed", "untrusted_issuer"},
    "DECRYPT_ERROR": {"untrusted_issuer"},
    "CERTIFICATE_UNKNOWN": {"handshake", "malformed", "untrusted_issuer"},
    "HANDSHAKE_FAILURE": {"handshake", "no_certificate"},
    "CERTIFICATE_REQUIRED": {"no_certificate"},
}


def alert(node: Node, shown: Shown) -> str | None:
    """By which alert the server refuses."""
    try:
        with peer(node, shown).connect() as connection:
            connection.command("PING")
    except ssl.SSLError as error:
        found = re.search("ALERT_(" + "|".join(ALERTS) + ")", str(error))
        return found[1] if found else None
    except OSError:
        pass
    return None


def differences(node: Node, shown: Sequence[Shown]) -> dict[str, str]:
    """Where explain and the server do not say the same."""
    found = {}
    for one in shown:
        try:
            client = peer(node, one)
        except ssl.SSLError as error:
            found[one.name] = f"the client does not load it: {error}"
            continue
        *said, first = told_of(node, one)
        outcome = node.outcome(peer=client)
        sent = alert(node, one) if outcome == HANDSHAKE else None
        if outcome == HANDSHAKE:
            same = said[0] == "refuse" and said[1] in ALERTS.get(sent or "", {said[1]})
            same = same and first.startswith(
                ("the TLS handshake refuses it, at ", "the TLS handshake is without this ")
            )
        else:
            same = said == [outcome.action, outcome.reason, outcome.user]
        if not same:
            found[one.name] = f"explain {said}, server {outcome} {sent}; {first}"
    return found


def test_there_are_many_kinds_of_chains() -> None:
    """Else the tests below would be about little."""
    assert len(table().shown) > 170


@pytest.mark.parametrize("managed", [False, True], ids=["file", "managed"])
def test_explain_says_what_the_server_does_with_some_chains(
    installed: Server, start: Start, managed: bool
) -> None:
    """Every eighth kind of chain, the handshake's refusals with their reasons."""
    made = table()
    node = chains_node(start, installed, made, managed)
    found = differences(node, made.shown[::8])
    assert set(found) <= set(EXCEPTIONS), found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("managed", [False, True], ids=["file", "managed"])
def test_explain_says_what_the_server_does_with_each_chain(
    server_kind: Server, start: Start, managed: bool
) -> None:
    """All of them, where the policy manages whom the server trusts, and where a file does."""
    made = table()
    node = chains_node(start, server_kind, made, managed)
    found = differences(node, made.shown)
    assert set(found) <= set(EXCEPTIONS), found


# ---- The context that is asked -------------------------------------------------------------------

TAKES, REFUSES = "the TLS handshake takes it, at ", "the TLS handshake refuses it, at "


def test_a_server_without_connections_may_not_know_its_handshake(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Redis 7.0 makes its TLS context before it loads modules. Then the answer begins with what was
    not asked, and from the first connection on it was."""
    node = make_node(start, server_kind, *policy_of(pki))
    told = node.explain(pki.alice.pem)
    first = "the TLS handshake was not asked (no client has come over TLS yet): it also wants a "
    assert told["trace"][0].startswith((first, TAKES))
    assert told["decision"] == "login"
    assert node.outcome(pki.alice) == LOGIN
    assert node.explain(pki.alice.pem)["trace"][0].startswith(TAKES)


def test_explain_asks_the_context_of_now(server_kind: Server, start: Start, pki: Pki) -> None:
    """After CONFIG SET, which makes another one, and before a client has seen that; a setting that
    the server refuses changes nothing."""
    other = root("CN=Other")
    lines = [*policy_of(pki), authority_line(other), "bind cn alice alice"]
    node = make_node(start, server_kind, *lines)
    leaf, file = other.issue("CN=alice"), node.server.directory / "more.pem"
    assert node.outcome(pki.alice) == LOGIN
    told = node.explain(leaf.pem)
    assert (told["decision"], told["reason"]) == ("refuse", "untrusted_issuer")
    assert told["trace"][0].startswith(REFUSES)
    file.write_bytes(other.pem + pki.ca.pem + pki.server_ca.pem)
    node.admin.config_set("tls-ca-cert-file", str(file))
    assert node.explain(leaf.pem)["decision"] == "login"
    with pytest.raises(redis.ResponseError):
        node.admin.config_set("tls-ca-cert-file", str(file) + ".none")
    assert node.explain(leaf.pem)["decision"] == "login"
    assert node.outcome(leaf) == LOGIN


def test_the_security_level_is_the_servers(installed: Server, start: Start, pki: Pki) -> None:
    """An RSA key of 1,024 bits passes at level 1, and explain says so, with the level."""
    weak = sign(pki.ca, "CN=alice", keys()["RSA-1024"])
    shown = Shown("weak", (weak.der,), weak.key)
    for level, verdict in ((1, "login"), (2, "refuse")):
        ciphers = f"tls-ciphers DEFAULT:@SECLEVEL={level}"
        node = make_node(start, installed, *policy_of(pki, "bind cn alice alice"), config=[ciphers])
        assert node.outcome(pki.alice) == LOGIN
        told, outcome = node.explain(weak.pem), node.outcome(peer=peer(node, shown))
        assert told["decision"] == verdict
        assert outcome == (LOGIN if level == 1 else HANDSHAKE)
        assert f"at security level {level}" in told["trace"][0]
    assert told["reason"] == "weak"


@pytest.mark.parametrize("asked", ["no", "optional", "yes"])
def test_a_certificate_that_is_not_shown(
    installed: Server, start: Start, pki: Pki, asked: str
) -> None:
    """A server that asks for none sees none; and a client that cannot sign with its key shows none:
    explain says what becomes of a client without a certificate."""
    odd = sign(pki.ca, "CN=alice", keys()["brainpoolP256r1"])
    shown = Shown("odd", (odd.der,), odd.key)
    node = make_node(start, installed, *policy_of(pki), tls_auth_clients=asked)
    node.outcome(pki.alice)
    for one in [shown] if asked != "no" else [shown, Shown("a", (pki.alice.der,), pki.alice.key)]:
        told, outcome = node.explain(one.pem), node.outcome(peer=peer(node, one))
        assert told["trace"][0].startswith("the TLS handshake is without this certificate: ")
        assert told["reason"] == "no_certificate"
        assert told["trace"][-1] == (
            "to change it: where the server asks for none, set tls-auth-clients to yes or "
            "optional; else issue it with an RSA key or an EC key of P-256, P-384 or P-521"
        )
        assert told["decision"] == ("refuse" if asked == "yes" else "leave")
        assert outcome.action == ("handshake" if asked == "yes" else "leave")
