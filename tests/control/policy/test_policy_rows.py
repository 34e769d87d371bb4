"""control/policy/lines.py: rows → policy lines."""

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy import core
from control.policy import lines as policy
from control.policy import peers as named
from control.records import Cluster, Database, NodeRole, Subject, Trust
from control.reports import Node
from tests.kit import peers
from tests.kit.rest import database, user
from tests.kit.support import Pki, days, root

CLUSTER = Cluster("acme", "id", 0)


def lines_about(word: str, lines: frozenset[str]) -> set[str]:
    return {line for line in lines if line.startswith(f"{word} ")}


# ---- Databases ----


def test_a_database_without_tls_enforces_nothing() -> None:
    """Without TLS nobody has a certificate, so nobody is touched."""
    for mode in ("disabled", "replica_ssl"):
        lines = policy.database_lines(database(tls_mode=mode), Trust())
        assert "set enforce off" in lines
        assert not lines_about("set tls-client-auth", lines)


def test_a_database_with_tls_enforces() -> None:
    """Whether the handshake demands a certificate follows enforce_client_authentication."""
    for asked, line in (("enabled", "yes"), ("disabled", "optional")):
        row = database(tls_mode="enabled", enforce_client_authentication=asked)
        lines = policy.database_lines(row, Trust())
        assert {"set enforce on", f"set tls-client-auth {line}"} <= lines


def test_the_default_user_is_off_unless_asked_for() -> None:
    """And certificates that map to nobody are refused unless it is."""
    lines = policy.database_lines(database(), Trust())
    assert {"user default adopt off", "set unmatched refuse"} <= lines
    lines = policy.database_lines(database(default_user=True), Trust())
    assert "set unmatched leave" in lines
    assert not lines_about("user", lines)


def test_an_allow_list_becomes_allow_lines() -> None:
    """Attributes stand in their own order, OUs in theirs, and blanks are quoted."""
    entries = (Subject("John Doe", ("a", "b"), O='ac"me', C="DE"), Subject("bob"))
    row = database(authorized_subjects=entries, client_cert_subject_validation_type="full_subject")
    lines = policy.database_lines(row, Trust())
    allow = {'allow CN="John Doe" OU=a OU=b O="ac\\"me" C=DE', "allow CN=bob"}
    assert lines_about("allow", lines) == allow
    assert "set gate full_subject" in lines


def test_trust_becomes_ca_and_anchor_lines(pki: Pki) -> None:
    """Each certificate is one line, of one of the two kinds."""
    trust = Trust((pki.ca.authority().der,), (pki.ca.der,))
    lines = policy.database_lines(database(), trust)
    assert len(lines_about("ca", lines)) == len(lines_about("anchor", lines)) == 1


def test_all_lines_are_canonical_and_make_a_policy(pki: Pki) -> None:
    """The core takes the union of all lines, and changes nothing about them."""
    row = database(tls_mode="enabled", authorized_subjects=(Subject("a b", ("x",)),))
    lines = policy.database_lines(row, Trust((pki.ca.der,)))
    lines |= policy.user_lines(user(), ["+@read ~a*", "(+get ~b) +set ~c"])
    assert core.Policy(lines).lines == tuple(sorted(lines))


# ---- Users ----


def test_a_user_with_an_acl_is_bound_and_made() -> None:
    """One line says whose subject it is, one what the user may do."""
    lines = policy.user_lines(user(), ["+@read  ~orders:*"])
    assert lines == {"bind subject CN=alice,O=acme alice", "user alice on +@read ~orders:*"}


def test_a_user_without_an_acl_has_no_line() -> None:
    """No rights on the database: no binding and no user there."""
    assert policy.user_lines(user(), []) == frozenset()


def test_a_password_user_has_no_line() -> None:
    """Regular users are for the REST API only."""
    row = user(auth_method="regular", certificate_subject_line="")
    assert policy.user_lines(row, ["+@all ~*"]) == frozenset()


def test_a_subject_with_blanks_and_quotes_stays_one_token() -> None:
    """A name cannot end its token and add words to the line."""
    subject = core.parse_name('CN=John \\"on \\+@all ~*,O=ac me')
    lines = policy.user_lines(user(certificate_subject_line=subject), ["+get"])
    (bind,) = lines_about("bind", lines)
    assert shlex.split(bind) == ["bind", "subject", subject, "alice"]


def test_several_acls_are_selectors() -> None:
    """Each allows what it says; none of them widens another."""
    lines = policy.user_lines(user(), ["+@read ~a*", "+@write ~b*"])
    (line,) = lines_about("user", lines)
    assert line == "user alice on (+@read ~a*) (+@write ~b*)"


def test_the_same_acl_from_two_roles_counts_once() -> None:
    """Blanks aside."""
    assert policy.user_lines(user(), ["+get ~a", "+get   ~a"]) == policy.user_lines(
        user(), ["+get ~a"]
    )


def test_selectors_of_one_of_several_acls_stay_selectors() -> None:
    """They cannot be nested, so they stand beside the others."""
    lines = policy.user_lines(user(), ["+get ~a (+set ~b)", "clearselectors +ping"])
    (line,) = lines_about("user", lines)
    assert line == "user alice on (+get ~a) (+set ~b) (+ping)"


@pytest.mark.parametrize(
    "acl",
    [
        "+@all ~*",
        "-@all +get +config|get ~a* %R~b %W~c %RW~d &ch*",
        "allkeys allchannels allcommands resetchannels",
        "+@read ~a (+@write ~b*) (%R~c +get)",
        "~a[b-c]?x +select|0",
    ],
)
def test_an_acl_is_taken(acl: str) -> None:
    """The rules of stock ACLs that say what may be done."""
    policy.check_acl(acl)


@pytest.mark.parametrize(
    "acl",
    [
        "on", "off", "nopass", "reset", "resetpass", ">secret", "<secret", "#" + "0" * 64,
        "!" + "0" * 64, "sanitize-payload", "adopt", "+get adopt", "get", "~", "&", "%X~a", "+",
        "(+get", "+get)", "(+get (+set))", "()", "~a(b)", "(nopass)", "(clearselectors)", "(>x)",
        "+get\n>x", "ON", "NoPass", "~a\u202e", "~a\0", "\ud800",
    ],
)  # fmt: skip
def test_an_acl_cannot_say_how_one_logs_in(acl: str) -> None:
    """Passwords, on and off, and what is not a rule are refused, naming the rule."""
    with pytest.raises(ValueError, match=r"is not a (rule|selector)"):
        policy.check_acl(acl)


@pytest.mark.parametrize("acl", ['~a"b', "~a'b", "~a\\x", '(+get ~a"b)', "+get &a\\"])
def test_an_acl_has_no_quote_and_no_backslash(acl: str) -> None:
    """Nobody who reads the line, the node or a person, takes its words for others."""
    with pytest.raises(core.CoreError, match="an ACL rule holds no quote, no backslash"):
        policy.check_acl(acl)


@pytest.mark.parametrize("acl", ["", " ", "\n"])
def test_an_acl_says_something(acl: str) -> None:
    """No rule at all is a mistake."""
    with pytest.raises(ValueError, match="no rule"):
        policy.check_acl(acl)


@given(st.text(max_size=40))
def test_no_text_of_an_acl_reaches_the_line_as_anything_but_rules(text: str) -> None:
    """Whatever is taken is the user's line, and only rules of the known shapes are in it."""
    try:
        policy.check_acl(text)
    except ValueError:
        return
    for line in policy.user_lines(user(), [text]):
        words = [word.strip("()").lower() for word in line.split()]
        if words[0] == "user":
            assert not set(line) & set("\"'\\")
            assert words[:3] == ["user", "alice", "on"]
            assert all(re.match(r"[-+~%&]|all|reset|no|clear|$", word) for word in words[3:])
            assert not {"nopass", "reset", "resetpass", "adopt"} & set(words[3:])


@pytest.mark.parametrize(
    "name", ["a b", "default", "certauth-control", "CertAuth", "ca=1", "from=::1"]
)
def test_a_name_that_no_acl_user_can_have_is_refused(name: str) -> None:
    """Blanks, the default user, the control plane's own, and what reads as an option."""
    with pytest.raises(core.CoreError):
        policy.check_user(user(name=name))
    policy.check_user(user(name="alice"))


# ---- The REST API ----


def test_the_rest_policy_binds_a_subject_to_a_uid(pki: Pki) -> None:
    """The decision's user is the uid, so that renaming changes nothing."""
    row = user(7, certificate_subject_line="CN=alice,OU=eng,O=acme")
    lines = policy.rest_lines(CLUSTER, Trust((pki.ca.der,)), [row])
    assert core.Policy(lines).decide(pki.alice.pem).user == "7"
    assert core.Policy(lines).decide(pki.bob.pem).reason == "no_binding"


# ---- Digest ----


def test_the_digest_kept_by_lines_is_the_cores() -> None:
    """Adding and taking away lines one by one ends in what the core says of the whole set."""
    one = {"set enforce on", "user a on"}
    two = {"set enforce on", "user b on", "bind cn b b"}
    digest = policy.digest_of("", one, ())
    assert digest == core.digest(one)
    digest = policy.digest_of(digest, two - one, one - two)
    assert digest == core.digest(two)
    assert policy.digest_of(digest, (), two) == core.digest(())


def test_an_expired_ca_is_still_a_line() -> None:
    """The core decides about time, at each login."""
    old = root("CN=Old", not_before=days(-9), not_after=days(-2))
    assert lines_about("ca", policy.database_lines(database(), Trust((old.der,))))


# ---- Node peers ----------------------------------------------------------------------------------

KEYS = [f"{number:064x}" for number in range(4)]


def server(key: str, role: NodeRole, software: str = "redis 8.6.3", **fields: Any) -> Node:
    more = {"role": role, "software": software, "key": key, "module": "1", **fields}
    return Node(1, f"10.0.0.9:{key[-1:]}", 1, True, **more)


def peer_lines(nodes: list[Node], **fields: Any) -> set[str]:
    lines = policy.database_lines(Database(1, "d", **fields), Trust(), nodes)
    return {line for line in lines if "certauth-peer-" in line}


def test_peers_may_do_what_peers_were_seen_to_do() -> None:
    """The rules are those under which tests/server/test_peers.py runs real replicas, Sentinels and
    clusters."""
    rules = {f"certauth-{kind}": rules for kind, rules in named.PEER_RULES.items()}
    assert rules.pop("certauth-joining") == "+ping"  # of whom nobody has seen what it is
    assert rules == peers.RULES
    assert (named.SECOND_CHANNEL, named.WHOLE_SLOTS) == (peers.SECOND_CHANNEL, peers.WHOLE_SLOTS)


def test_servers_that_have_nothing_to_do_with_each_other_are_no_peers() -> None:
    """Nor is one alone, one that was never reached, or one that leaves; a key that is named is."""
    assert peer_lines([server(KEYS[0], "master"), server(KEYS[1], "master")]) == set()
    assert peer_lines([server(KEYS[0], "master"), server("", "")]) == set()
    leaving = server(KEYS[1], "replica", origin="leaving")
    assert peer_lines([server(KEYS[0], "master"), leaving]) == set()
    assert len(peer_lines([server(KEYS[0], "master")], node_keys=(KEYS[3],))) == 3


def test_a_key_that_is_only_named_copies_nothing_of_a_cluster() -> None:
    """It opens the bus, by which the control plane learns where its server is; with the module on
    it, the server becomes a node as the others are, and without it nothing."""
    nodes = [server(key, "cluster master", client_key=key) for key in KEYS[:2]]
    lines = peer_lines(nodes, node_keys=(KEYS[3],))
    assert f"bind key {KEYS[3]} certauth-peer-joining" in lines
    assert "user certauth-peer-joining on +ping" in lines
    joined = [*nodes, server(KEYS[3], "cluster replica", client_key=KEYS[3])]
    lines = peer_lines(joined, node_keys=(KEYS[3],))
    assert f"bind key {KEYS[3]} certauth-peer-cluster" in lines
    assert not any("joining" in line for line in lines)
    stock = [*nodes, server(KEYS[3], "cluster replica", module="")]
    assert not any(KEYS[3] in line for line in peer_lines(stock, node_keys=(KEYS[3],)))


def test_a_key_of_a_nodes_own_links_is_the_nodes() -> None:
    """`tls-client-cert-file`: its module says the key. While one module of the cluster is too old
    to say so, a key that is only named may be such a key, and is the cluster's."""
    nodes = [
        server(KEYS[0], "cluster master", client_key=KEYS[2]),
        server(KEYS[1], "cluster master"),
    ]
    lines = peer_lines(nodes, node_keys=(KEYS[3],))
    for key in KEYS:
        assert f"bind key {key} certauth-peer-cluster" in lines
    lines = peer_lines([nodes[0], replace(nodes[1], client_key=KEYS[1])], node_keys=(KEYS[3],))
    assert f"bind key {KEYS[2]} certauth-peer-cluster" in lines
    assert f"bind key {KEYS[3]} certauth-peer-joining" in lines


def test_each_key_is_one_user_with_the_rules_of_all_that_it_is() -> None:
    """A server and its Sentinel may share a certificate; Valkey's rules count where all servers are
    of that age."""
    nodes = [server(KEYS[0], "master"), server(KEYS[1], "replica"), server(KEYS[1], "sentinel")]
    lines = peer_lines(nodes)
    assert f"bind key {KEYS[0]} certauth-peer-replica" in lines
    assert f"bind key {KEYS[1]} certauth-peer-replica-sentinel" in lines
    assert not any("+sync" in line for line in lines)
    valkey = [server(key, "cluster master", "valkey 9.1.2") for key in KEYS[:2]]
    assert any("+sync" in line and "+cluster|syncslots" in line for line in peer_lines(valkey))
    mixed = [*valkey, server(KEYS[2], "cluster replica", "valkey 8.1.1")]
    (rules,) = (line for line in peer_lines(mixed) if line.startswith("user"))
    assert "+sync" in rules
    assert "syncslots" not in rules
