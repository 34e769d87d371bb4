"""control/domain/effects.py: what a change does, in people's words."""

import base64
from typing import Any

from control.domain import preview
from control.domain.effects import effects
from control.policy import core
from control.records import Database
from tests.kit.support import Pki


def told(added: list[str], removed: list[str], **more: Any) -> dict[str, tuple[bool, bool]]:
    """The texts of a change, each with whether it cuts, and whether it is grave."""
    database = {"bdb_name": "orders", "added": added, "removed": removed, "nodes": [],
                "certificates": [], "certificates_changed": 0, **more}  # fmt: skip
    return {one["text"]: (one["cuts"], one["grave"]) for one in effects(database)}


def test_who_loses_gets_and_has_other_rights() -> None:
    """A user whose lines both go and come keeps the database; one of ours is nobody's business."""
    assert told(["user b on +get ~*"], ["user b on +@read ~*"]) == {
        "b has other rights on orders: +@read ~* becomes +get ~*": (False, False)
    }
    assert told([], ["user a on +get ~*", "bind subject CN=a a"]) == {
        "a loses orders": (True, False),
        "a is no longer known by subject CN=a": (True, False),
    }
    assert told(["user a on +get ~*"], []) == {"a gets orders with +get ~*": (False, False)}
    assert told(["user certauth-peer-replica on +ping"], []) == {}


def test_many_are_counted_and_grave() -> None:
    """Ten are not yet many."""
    lines = [f"user u{number} on +get ~*" for number in range(1001)]
    assert told([], lines) == {"1,001 users lose orders": (True, True)}
    assert told([], lines[:10]) == {"10 users lose orders": (True, False)}
    assert told([], lines[:2]) == {"u0 and u1 lose orders": (True, False)}


def test_a_user_who_is_off_loses_nothing() -> None:
    """The line that switches `default` off comes with each database, and goes with it."""
    off = "user default adopt off"
    assert told([off], []) == {"default is off on orders from now on": (False, False)}
    assert told([], [off]) == {
        "default is no longer off on orders: what the server says counts": (False, False)
    }
    assert told(["user a off"], ["user a on +get ~*"]) == {"a loses orders": (True, False)}
    assert told(["user a on +get ~*"], ["user a off"]) == {
        "a gets orders with +get ~*": (False, False)
    }


def test_users_who_are_taken_over_are_told() -> None:
    ((text, _),) = told(["user a adopt on +get ~*"], ["user a on +get ~*"]).items()
    assert text.endswith("+get ~* becomes +get ~* (also where the server has this user)")


def test_each_of_those_who_share_an_identity_is_told() -> None:
    """And what an identity demands, where that is all that differs."""
    team = "bind subject CN=team first"
    assert told([team], [f"{team} second"]) == {
        "second is no longer known by subject CN=team": (True, False)
    }
    narrow = told([f"{team} from=10.0.0.0/8"], [team])
    assert narrow == {
        "first is no longer known by subject CN=team": (True, False),
        "first is now known by subject CN=team (from=10.0.0.0/8)": (False, False),
    }


def test_many_patterns_are_counted() -> None:
    lines = [f"pattern cn p{n}-{{id}} p{n}:{{id}} on +get ~*" for n in range(8)]
    assert "3 more patterns go" in told([], lines)


def test_a_subject_that_leaves_the_list_cuts() -> None:
    line = 'allow "CN=a"'
    assert told([], [line]) == {f"On orders goes: {line}": (True, False)}
    assert told([line], []) == {f"On orders comes: {line}": (False, False)}


def test_a_pinned_certificate_that_goes_was_no_anchor() -> None:
    ((text, how),) = told([], ["pin AAAA"]).items()
    assert text == "the certificate AAAA… is no longer trusted by itself on orders"
    assert how == (True, False)


def test_what_an_answer_does_not_show_is_told_in_words() -> None:
    """It shows the first thousand lines, which are those that begin with b."""
    lines = [f"bind subject CN=u{n} u{n}" for n in range(1200)]
    lines += [f"user u{n} on +get ~*" for n in range(1200)]
    end = ["set enforce off", "set gate disabled", "set unmatched refuse"]
    before = ["set enforce on", "set gate disabled", "set unmatched refuse"]
    changes = ["-set enforce on", "+set enforce off", *(f"-{line}" for line in lines)]
    assert core.Policy([*lines, *before])
    found = preview.told(
        preview.Difference(Database(1, "orders"), tuple(end), tuple(changes)), (), (),
        lambda *_: {}, 0,
    )  # fmt: skip
    texts = {one["text"]: one["grave"] for one in found["effects"]}
    assert texts["1,200 users lose orders"]
    assert texts["Enforcement on orders: on becomes off"]


def test_a_quoted_name_is_read_as_one_word() -> None:
    """The name of a user holds no blank, but an identity may."""
    assert told(['bind subject "CN=John Doe,O=a" john'], []) == {
        "john is now known by subject CN=John Doe,O=a": (False, False)
    }


def test_a_ca_can_be_compared(pki: Pki) -> None:
    """By its subject, its end, and its SHA-256; to trust one is grave, to lose one cuts."""
    der = base64.b64encode(pki.ca.der).decode()
    ((come, how),) = told([f"ca {der}"], []).items()
    assert how == (False, True)
    for part in (
        "'CN=Root CA,O=acme'",
        "signed by itself",
        pki.ca.fingerprint,
        " trusted on orders",
    ):
        assert part in come
    ((go, how),) = told([], [f"ca {der}"]).items()
    assert "is no longer trusted for clients on orders" in go
    assert how == (True, False)
    ((above, how),) = told([f"anchor {der}"], [f"ca {der}"]).items()
    assert "only stands above others" in above
    assert how == (True, False)
    assert told(["ca AAAA"], []) == {"Every certificate from the CA AAAA… is trusted on orders":
                                     (False, True)}  # fmt: skip


def test_what_is_revoked_is_named() -> None:
    """By the subject and the user, where the certificate is known."""
    ours = {"cert": "c" * 64, "subject": "CN=a", "serial": "12", "issuer": "", "last_login": 0,
            "before": {"users": ["a"]}, "after": {"users": []}}  # fmt: skip
    line = f"revoke serial {'a' * 64} 12"
    found = told([line], [], certificates=[ours], certificates_changed=1)
    assert found == {
        "The certificate 'CN=a' of a is revoked": (True, False),
        "1 known certificate logs nobody in any more": (True, False),
    }
    assert told([], [line]) == {
        "The certificate with the serial number 12 is no longer revoked": (False, False)
    }


def test_sessions_are_counted_and_named() -> None:
    """More than ten are many."""
    one = {"user": "a", "address": "10.0.0.7:1"}
    node = {"ends": 1, "ending": [one]}
    assert told([], [], nodes=[node]) == {
        "1 session ends on orders: a from 10.0.0.7:1": (True, False)
    }
    ((text, how),) = told([], [], nodes=[{"ends": 11, "ending": [one] * 11}]).items()
    assert text.startswith("11 sessions end on orders: a from 10.0.0.7:1, ")
    assert text.endswith(" and 6 more")
    assert how == (True, True)


def test_settings_are_told_with_both_values() -> None:
    """Certificates that count no more are grave, and to count from now on cuts off who has none."""
    assert told(["set enforce off"], ["set enforce on"]) == {
        "Enforcement on orders: on becomes off": (False, True)
    }
    assert told(["set enforce on"], ["set enforce shadow"]) == {
        "Enforcement on orders: shadow becomes on": (True, False)
    }
    assert told(["set min-tls 1.3"], []) == {
        "Oldest TLS version on orders: not set becomes 1.3": (False, False)
    }


def test_a_new_database_is_not_grave(pki: Pki) -> None:
    """It trusts whom the cluster does."""
    der = base64.b64encode(pki.ca.der).decode()
    found = told(["set enforce on", f"ca {der}"], [])
    assert found.pop("orders is looked after: enforcement on") == (False, False)
    assert list(found.values()) == [(False, False)]
