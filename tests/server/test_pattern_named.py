"""Patterns that name one user: many certificates, one `user` line, in the core and on servers."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from control._core import lib
from control.policy import core
from control.policy.core import CoreError, Policy, PolicyError
from tests.kit.certs import (
    NOW,
    authority_line,
    ca,
    certificate,
    decide,
    dns,
    intermediate,
    patch,
    person,
    policy,
    sans,
    trusting,
    uri,
)
from tests.kit.node import bootstrap
from tests.kit.policies import (
    LOGIN,
    Node,
    Outcome,
    Start,
    client_id,
    closed,
    make_node,
    pairs,
    policy_of,
    refuse,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki

SHOP = "pattern uri spiffe://acme/ns/shop/sa/{sa} shop"
MADE = "pattern uri spiffe://acme/ns/{ns}/sa/{sa} app:{ns}:{sa} on ~{ns}:{sa}:* +@read"
KEY = "0123456789abcdef" * 4
TRUST = ["set enforce on", authority_line(ca())]


def pod(sa: str, ns: str = "shop", *more: bytes) -> bytes:
    return certificate(person("x"), sans(uri(f"spiffe://acme/ns/{ns}/sa/{sa}"), *more))


def found(leaf: bytes, *lines: str, **options: Any) -> tuple[str, tuple[str, ...]]:
    """The reason, and the users of who is let in."""
    decision = decide(policy([*TRUST, *lines]), leaf, **options)
    inside = decision.action in ("login", "choose")
    return decision.reason, decision.users if inside else ()


# ---- Lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        (SHOP, SHOP),
        ("pattern  subject /O=acme/CN={id} 'team'", "pattern subject CN={id},O=acme team"),
        (f"{SHOP} session=60m from=::1 ca={KEY.upper()}", f"{SHOP} ca={KEY} from=::1 session=1h"),
        ("pattern dns {a}.{b}.acme app:all", "pattern dns {a}.{b}.acme app:all"),
        ("pattern cn {id} josé", "pattern cn {id} josé"),
    ],
)
def test_a_line_has_one_spelling(line: str, canonical: str) -> None:
    assert core.canonical(line) == core.canonical(canonical) == canonical


RULES = "a user without a placeholder is named as by bind, and its rules stand in its `user` line"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{SHOP} on ~shop:* +@read", f"{RULES}: not here: 'on'"),
        (f"{SHOP} session=1h off", f"{RULES}: not here: 'off'"),
        (f"{SHOP} adopt", f"{RULES}: not here: 'adopt'"),
        (f"{SHOP} other", f"{RULES}: not here: 'other'"),  # one user, not several
        (f"{SHOP} ~{{sa}}:*", f"{RULES}: not here: '~{{sa}}:*'"),
        ("pattern cn {id} app:all on", f"{RULES}: not here: 'on'"),
        ("pattern cn {id} x{", "a brace that is part of no placeholder"),
        ("pattern cn {id} {ID}", "a brace that is part of no placeholder"),
        ("pattern cn {id} 'a b'", "not the name of an ACL user"),
        ("pattern cn {id} " + "u" * 513, "not the name of an ACL user"),
        ("pattern cn {id} session=1h", "the user of the pattern is missing"),
        ("pattern cn {id}", "the user of the pattern is missing"),
        ("pattern cn alice shop", "a value without one takes `bind`"),
        ("pattern cn {id} sh'o'p\"", "unbalanced quotes"),
    ],
)
def test_a_line_that_is_none(line: str, message: str) -> None:
    """Each says what to write."""
    with pytest.raises(CoreError) as refused:
        core.canonical(line)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([SHOP, f"{SHOP} session=1h"], "line 2: says something else than line 1"),
        ([SHOP, SHOP.replace(" shop", " other")], "line 2: says something else than line 1"),
        ([SHOP, SHOP.replace(" shop", " app:{sa} on")], "line 2: says something else than line 1"),
        ([MADE, SHOP.replace(" shop", " app:shop")], "the name starts with the word of a `pat"),
        ([SHOP.replace(" shop", " app:x"), MADE], "or the user of a pattern line that names one"),
    ],
)
def test_lines_that_make_no_policy(lines: list[str], message: str) -> None:
    """One line for each template and CA; and a pattern's word is nobody else's, not to name either:
    a certificate would be let in as whom another has made of itself."""
    with pytest.raises(PolicyError, match=message):
        Policy(lines)
    base = policy(lines[:1])
    with pytest.raises(ValueError, match="another line with the same key|word"):
        patch(base, [f"+{lines[1]}"])


def test_a_word_is_free_for_names_and_for_makers_one_after_the_other() -> None:
    """A name with a word goes in the change in which a pattern takes the word, and back."""
    named, bound = SHOP.replace(" shop", " app:x"), "user app:x on"
    held = Policy([named, bound])
    held.patch([f"-{named}", f"-{bound}", f"+{MADE}"])
    held.patch([f"-{MADE}", f"+{named}", f"+{bound}"])
    assert held.lines == (named, bound)


def test_a_template_goes_from_a_name_to_users_of_its_own() -> None:
    """In one change, under which both ends are decided alike."""
    made = SHOP.replace(" shop", " app:{sa} on")
    base = policy([*TRUST, SHOP, "user shop on"])
    change = patch(base, [f"-{SHOP}", f"+{made}"])
    assert decide(base, pod("cart")).users == ("shop",)
    assert decide(base, pod("cart"), pending=change).users == ("app:cart",)
    back = policy([*TRUST, made, "user shop on"])
    undo = patch(back, [f"-{made}", f"+{SHOP}"])
    assert decide(back, pod("cart")).users == ("app:cart",)
    assert decide(back, pod("cart"), pending=undo).users == ("shop",)
    lib.policy_commit(base, change)
    assert decide(base, pod("cart")).users == ("app:cart",)
    lib.patch_free(change)
    lib.patch_free(undo)


# ---- Who it is -----------------------------------------------------------------------------------


def test_many_certificates_are_one_user() -> None:
    """Whatever stands in the placeholder; what does not fit it is nobody."""
    for sa in ("cart", "pay", "a.b~c", "x" * 255):
        assert found(pod(sa), SHOP, "user shop on") == ("matched", ("shop",))
    assert found(pod("cart", "other"), SHOP, "user shop on") == ("no_binding", ())
    for leaf in map(pod, ("", "a/b", "a%2fb", "..", "x" * 256)):
        assert found(leaf, SHOP, "user shop on") == ("no_binding", ())


def test_the_user_is_what_its_own_line_says() -> None:
    """As with `bind`: off, missing, or the server's own."""
    leaf = pod("cart")
    assert found(leaf, SHOP, "user shop off") == ("user_off", ())
    assert found(leaf, SHOP, "user shop on", ask=lambda _: lib.USER_OFF) == ("user_off", ())
    assert found(leaf, SHOP, ask=lambda _: lib.USER_MISSING) == ("user_missing", ())
    asked: list[str] = []
    own = found(leaf, SHOP, ask=lambda user: asked.append(user) or lib.USER_ON)
    assert (own, asked) == (("matched", ("shop",)), ["shop"])


def test_who_may_not_be_given_is_not_given_by_a_pattern() -> None:
    """Not a user of the bootstrap file, and where that has limits, none without a line."""
    own = policy(["user shop on"], lib.FROM_BOOTSTRAP)
    assert found(pod("a"), SHOP, "user shop on", bootstrap=own) == ("user_missing", ())
    limited = policy(["limit -@admin"], lib.FROM_BOOTSTRAP)
    assert found(pod("a"), SHOP, bootstrap=limited) == ("user_missing", ())
    assert found(pod("a"), SHOP, "user shop on", bootstrap=limited) == ("matched", ("shop",))


def test_the_options_are_those_of_a_pattern() -> None:
    """ca=, from= and session=, each with what it refuses."""
    above = intermediate(ca())
    leaf = certificate(person("x"), sans(uri("spiffe://acme/ns/shop/sa/a")), by=above)
    by_ca = f"{SHOP} ca={above.key_id}"
    assert found(leaf, by_ca, chain=[above, ca()])[0] == "matched"
    assert found(pod("a"), by_ca)[0] == "no_binding"
    near = f"{SHOP} from=10.0.0.0/8"
    assert found(pod("a"), near, address=b"\n\1\2\3")[0] == "matched"
    assert found(pod("a"), near, address=b"\1\1\1\1")[0] == "address"
    assert decide(policy([*TRUST, f"{SHOP} session=1h"]), pod("a")).session == 3600


HOST = "pattern dns {host}.shop.acme shop session=1h"


def test_several_names_of_one_certificate() -> None:
    """Patterns that name one user agree, and the options of each count; those that do not agree, or
    that make users, are a conflict; two URIs are ambiguous, also where one alone fits."""
    both = pod("a", "shop", dns("h.shop.acme"))
    long = SHOP + " session=2h"
    decision = decide(policy([*TRUST, long, HOST]), both)
    assert (decision.users, decision.session) == (("shop",), 3600)
    assert found(both, SHOP, "pattern dns {host}.shop.acme shop from=10.0.0.0/8")[0] == "address"
    assert found(both, SHOP, "pattern dns {host}.shop.acme other")[0] == "conflict"
    assert found(both, SHOP, "pattern dns {host}.shop.acme edge:{host} on")[0] == "conflict"
    assert found(both, "pattern dns {host}.shop.acme edge:{host} on", SHOP)[0] == "conflict"
    assert found(pod("a"), SHOP, MADE)[0] == "conflict"
    two = pod("a", "shop", uri("spiffe://acme/ns/other/sa/b"))
    assert found(two, SHOP)[0] == "ambiguous"


def test_bind_lines_win() -> None:
    """Anyone who is named by one is not asked by which patterns it fits."""
    assert found(pod("a"), SHOP, "bind cn x carol") == ("matched", ("carol",))
    assert found(pod("a"), SHOP, "bind cn x app:x", MADE) == ("user_missing", ())


def test_attack_a_name_that_is_a_peers() -> None:
    """A pattern knows nobody's key: who it names is gated and asked as anybody, whatever the
    name."""
    peer = SHOP.replace(" shop", " certauth-peer-replica")
    assert found(pod("a"), peer, "set gate san_cn")[0] == "gate"
    assert found(pod("a"), peer, "set max-lifetime 1d")[0] == "lifetime"
    assert found(pod("a"), peer) == ("matched", ("certauth-peer-replica",))


def test_explain_names_the_line() -> None:
    """And no user that was made: none was."""
    decision = trusting(SHOP, "user shop on").decide(pod("cart"), now=NOW)
    assert (decision.user, decision.line, decision.named) == ("shop", SHOP, ("shop",))
    assert f"decided by the line: {SHOP}" in decision.trace
    assert not any(line.startswith("it makes the user") for line in decision.trace)


# ---- On servers ----------------------------------------------------------------------------------

USER = "user shop on ~shop:* +@read +@write +client|id"


def workload(pki: Pki, sa: str, ns: str = "shop") -> Cert:
    return pki.ca.issue("CN=x", san=[f"uri:spiffe://acme/ns/{ns}/sa/{sa}"])


def foretold(node: Node, *lines: str) -> dict[int, dict[str, Any]]:
    reply = pairs(node.call("CERTAUTH.SESSIONS", "LINES", *lines))
    return {one["id"]: one for one in map(pairs, reply["sessions"])}


def test_pods_of_one_service_are_one_user(server_kind: Server, start: Start, pki: Pki) -> None:
    """With its keys and no others; the pod of another service is nobody."""
    node = make_node(start, server_kind, *policy_of(pki, SHOP, USER))
    for sa in ("cart", "pay"):
        with node.connect(workload(pki, sa)) as connection:
            assert whoami(connection)["user"] == "shop"
            assert connection.command("SET", f"shop:{sa}", "v") == b"OK"
            with pytest.raises(redis.ResponseError, match="NOPERM"):
                connection.command("GET", "other:x")
    assert node.outcome(workload(pki, "cart", "other")) == refuse("no_binding")
    assert node.outcome(workload(pki, "a/b")) == refuse("no_binding")
    # The user is the line's, not the pods': it stays when the last of them has gone.
    assert "shop" in node.admin.acl_users()


def test_sessions_follow_the_lines(server_kind: Server, start: Start, pki: Pki) -> None:
    """Other rules hold in them at once; a line that goes, and a template that takes in another
    service, ends or leaves them as was foretold."""
    node = make_node(start, server_kind, *policy_of(pki, SHOP, USER))
    with ExitStack() as stack:
        cart, pay = (stack.enter_context(node.connect(workload(pki, sa))) for sa in ("cart", "pay"))
        alice = stack.enter_context(node.connect(pki.alice))
        ids = [client_id(one) for one in (cart, pay, alice)]
        assert node.patch(f"-{USER}", "+user shop on ~shop:* +@read +client|id")["closed"] == 0
        with pytest.raises(redis.ResponseError, match="NOPERM"):
            cart.command("SET", "shop:x", "v")
        wider = SHOP.replace("/shop/", "/{ns}/")
        change = (f"-{SHOP}", f"+{wider}")
        assert [foretold(node, *change)[one]["stays"] for one in ids] == [1, 1, 1]
        assert node.patch(*change)["closed"] == 0
        narrower = SHOP.replace("{sa}", "{sa}/pod")
        change = (f"-{wider}", f"+{narrower}")
        told = foretold(node, *change)
        assert [told[one]["stays"] for one in ids] == [0, 0, 1]
        assert told[ids[0]]["then_reason"] == "no_binding"
        assert node.patch(*change)["closed"] == 2
        assert closed(cart)
        assert closed(pay)
        assert client_id(alice) == ids[2]


def test_a_service_gets_users_of_its_own(server_kind: Server, start: Start, pki: Pki) -> None:
    """From one user to one for each pod and back, in one change each: sessions end, since they
    would be somebody else, and the server's users are those of the lines."""
    made = SHOP.replace(" shop", " app:{sa} on ~{sa}:* +@read")
    node, cert = make_node(start, server_kind, *policy_of(pki, SHOP, USER)), workload(pki, "cart")
    for gone, come, user in ((SHOP, made, "app:cart"), (made, SHOP, "shop")):
        with node.connect(cert) as connection:
            number = whoami(connection)
            assert number["user"] != user
            assert node.patch(f"-{gone}", f"+{come}")["closed"] == 1
            assert closed(connection)
        with node.connect(cert) as connection:
            assert whoami(connection)["user"] == user


def test_a_user_that_is_missing_or_the_servers_own(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """As with `bind`; and with a bootstrap file that has that user, it is not the policy's."""
    node, cert = make_node(start, server_kind, *policy_of(pki, SHOP)), workload(pki, "cart")
    assert node.outcome(cert) == refuse("user_missing")
    node.call("ACL", "SETUSER", "shop", "on", "+@all", "~*")
    assert node.outcome(cert) == Outcome("login", "matched", "shop")
    node.call("ACL", "SETUSER", "shop", "off")
    assert node.outcome(cert) == refuse("user_off")


def test_a_pattern_survives_a_restart(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """With a bootstrap file beside it, and no `user` line of that file in its reach."""
    file = bootstrap(tmp_path, "user keeper on ~* +@all")[2:]
    theirs = "pattern dns {x}.keeper keeper"
    node = make_node(start, server_kind, *policy_of(pki, SHOP, USER, theirs), module=file)
    node.server.stop()
    node.server.start()
    assert node.outcome(workload(pki, "cart")) == Outcome("login", "matched", "shop")
    assert node.outcome(pki.ca.issue("CN=x", san=["dns:a.keeper"])) == refuse("user_missing")
    assert node.outcome(pki.alice) == LOGIN
