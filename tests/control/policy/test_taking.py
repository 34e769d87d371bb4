"""control/policy/taking.py: what of a change of `bind` lines takes rights away."""

import pytest

from control.policy import refusals, taking
from control.reports import Refused

USERS = ["+user a on +@all", "+user b on +@all"]


@pytest.mark.parametrize(
    ("removed", "added", "first"),
    [
        ("bind cn x a b", "bind cn x a", True),
        ("bind cn x a", "bind cn x a b", False),
        ("bind cn x a", "bind cn x a from=10.0.0.0/8", True),
        ("bind cn x a session=8h", "bind cn x a", True),
        ("bind cn x a b", "bind cn x certauth-nobody", True),
    ],
)
def test_a_user_or_a_place_that_goes_from_a_line_goes_first(
    removed: str, added: str, first: bool
) -> None:
    """The line changes at once: what it still gives is never away in between."""
    takes, gives = taking.parts([f"-{removed}", f"+{added}", *USERS])
    changed = takes if first else gives
    assert {f"-{removed}", f"+{added}"} <= set(changed)


def test_who_goes_and_who_comes_on_one_line_are_two_steps() -> None:
    """Between them the line has those who stay: b is away at once, and c waits for its user."""
    old, new = "bind cn x a b session=8h", "bind cn x a c session=8h"
    takes, gives = taking.parts([f"-{old}", f"+{new}", "+user c on +@all"])
    between = "bind cn x a session=8h"
    assert set(takes) == {f"-{old}", f"+{between}"}
    assert set(gives) == {f"-{between}", f"+{new}", "+user c on +@all"}


def test_a_line_without_one_of_its_users_keeps_the_others_and_its_options() -> None:
    """Where none is left the certificate is nobody's, and no other line takes it."""
    line = 'bind cn "a b" x y ca=1 from=10.0.0.0/8'
    assert taking.users_of(line) == ("x", "y")
    assert taking.unbound(line, {"x"}) == 'bind cn "a b" y ca=1 from=10.0.0.0/8'
    none = taking.unbound(line, {"x", "y"})
    assert none == f'bind cn "a b" {taking.NOBODY} ca=1 from=10.0.0.0/8'


# ---- Patterns ----

DEVICE = "pattern cn dev-{id} device:{id}"
SHOP = "pattern uri spiffe://acme/{sa} shop"
KEYS = "on ~{id}:*"


@pytest.mark.parametrize(
    ("removed", "added", "first"),
    [
        (f"{DEVICE} {KEYS} +@read", "", True),
        ("", f"{DEVICE} {KEYS} +@read", False),
        (f"{DEVICE} {KEYS} +@read +@write", f"{DEVICE} {KEYS} +@read", True),
        (f"{DEVICE} {KEYS} +@read", f"{DEVICE} {KEYS} +@read +@write", False),
        (f"{DEVICE} {KEYS} +@read", f"{DEVICE} from=10.0.0.0/8 {KEYS} +@read", True),
        (f"{DEVICE} {KEYS} +@read", f"{DEVICE} from=10.0.0.0/8 {KEYS} +@all", False),
        (SHOP, f"{SHOP} session=8h", True),
        ("", SHOP, False),
        (SHOP, "", True),
    ],
)
def test_a_pattern_that_goes_or_narrows_goes_first(removed: str, added: str, first: bool) -> None:
    """It changes at once: whom it makes the same as before is never away in between."""
    change = {f"{sign}{line}" for sign, line in (("-", removed), ("+", added)) if line}
    takes, gives = taking.parts([*change, *USERS])
    assert change <= set(takes if first else gives)


def test_a_pattern_that_makes_somebody_else_goes_first_and_comes_later() -> None:
    """Between the two, its certificates are strangers."""
    old, new = f"{DEVICE} {KEYS}", "pattern cn dev-{id} thing:{id} on ~{id}:*"
    assert taking.parts([f"-{old}", f"+{new}"]) == ((f"-{old}",), (f"+{new}",))


def test_patterns_of_one_word_change_together() -> None:
    """A server takes no two that make one user with different rules; of two that differ in what
    they do, what only goes is first."""
    twin, third = DEVICE.replace("dev-", "old-"), DEVICE.replace("dev-", "new-")
    olds = [f"-{one} {KEYS} +@read" for one in (DEVICE, twin)]
    news = [f"+{one} {KEYS} +@all" for one in (DEVICE, third)]
    takes, gives = taking.parts([*olds, *news])
    assert (set(takes), set(gives)) == ({olds[1]}, {olds[0], *news})


def test_a_user_stays_while_a_pattern_names_it() -> None:
    """The server would have a user of its own by that name again."""
    change = ["-user shop on +@all", f"-{SHOP}"]
    assert taking.parts(change) == (tuple(sorted(change, reverse=True)), ())
    takes, gives = taking.parts([*change, f"+{SHOP.replace('{sa}', 'x/{sa}')}"])
    assert set(takes) == set(change)
    assert gives[0].startswith("+pattern")


def test_a_pattern_that_is_refused_lets_nobody_in_instead() -> None:
    """Not strangers either: its certificates are nobody's before the pattern goes."""
    line = f"{DEVICE} ca=1 session=8h {KEYS}"
    nobody = f"pattern cn dev-{{id}} {taking.NOBODY} ca=1 session=8h"
    assert taking.users_of(line) == ()
    assert taking.users_of(SHOP) == ("shop",)
    assert taking.unbound(line, ()) == nobody
    assert set(taking.parts([f"-{line}", f"+{nobody}"])[0]) == {f"-{line}", f"+{nobody}"}
    assert set(taking.parts([f"+{line}", f"-{nobody}"])[1]) == {f"+{line}", f"-{nobody}"}


def test_a_refused_pattern_costs_that_pattern() -> None:
    """And a pattern whose user is the server's own is nobody's there."""
    line = f"{DEVICE} {KEYS} +nosuch"
    text = "1 problem; line 1: Unknown command"
    found = refusals.blamed(text, [f"+{line}", f"+{SHOP}"], (), [line, SHOP])
    assert found == (Refused(line, taking.unbound(line, ()), "Unknown command", ""),)
    text = (
        "2 bad, nothing changed; the server has the user 'device:x' already, whose name belongs to "
        "a pattern line: remove it; line 1: Unknown command"
    )
    found = refusals.blamed(text, [f"+{USERS[0][1:]}"], (), [line, SHOP, USERS[0][1:]])
    assert found is not None
    assert [one.line for one in found] == [line, USERS[0][1:]]
    assert found[0].why.endswith("remove it")
    own = Refused("user shop on +@all", "", "is the server's own", "shop")
    (_, also) = refusals.unbound([own], [line, SHOP])
    assert also == Refused(SHOP, taking.unbound(SHOP, ()), "", "shop")
