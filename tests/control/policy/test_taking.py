"""control/policy/taking.py: what of a change of `bind` lines takes rights away."""

import pytest

from control.policy import taking

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


def test_a_line_without_one_of_its_users_keeps_the_others_and_its_options() -> None:
    """Where none is left the certificate is nobody's, and no other line takes it."""
    line = 'bind cn "a b" x y ca=1 from=10.0.0.0/8'
    assert taking.users_of(line) == ("x", "y")
    assert taking.unbound(line, {"x"}) == 'bind cn "a b" y ca=1 from=10.0.0.0/8'
    none = taking.unbound(line, {"x", "y"})
    assert none == f'bind cn "a b" {taking.NOBODY} ca=1 from=10.0.0.0/8'
