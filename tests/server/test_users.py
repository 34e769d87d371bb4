"""`user` lines are the server's own ACL users: made, changed, adopted, given back and kept."""

from typing import Any

import pytest
import redis

from control.policy.lines import MARK
from tests.kit.node import (
    ALICE,
    JOURNAL,
    Start,
    authority,
    bind,
    enrolled,
    is_open,
    keep_configuration,
    load,
    nothing_changes,
    patch,
    refused,
    rules,
    show,
    status,
    turned_away,
    usual,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until

# What an operator may have made of a user: two passwords, a selector, channels, a rule for a
# subcommand.
RICH = (
    *("on", ">first", ">second", "~own:*", "resetchannels", "&news:*", "-@all", "+@read"),
    *("+config|get", "+acl|whoami", "(~shared:* +set)"),
)
ADOPTED = "user alice adopt on ~a:* +@read +@connection +acl|whoami"


# An administrator who needs no policy and no `default`.
ROOT = "user root on >pw ~* &* +@all\n"


def root(server: RedisServer) -> redis.Redis:
    return server.admin(username="root", password="pw")


# ---- Real users ----------------------------------------------------------------------------------


def test_a_user_line_is_an_acl_user(server_kind: Server, start: Start, pki: Pki) -> None:
    """Every tool of the server knows it, and no password opens it."""
    server = start(server_kind, module=JOURNAL)
    admin = server.admin()
    line = (
        'user alice on ~orders:* %R~logs:* &news -@all +@read +@connection +acl|whoami "(~x +set)"'
    )
    load(admin, 1, [*usual(pki)[:3], line])
    told = admin.acl_getuser("alice")
    assert {"on"} <= set(told["flags"])
    assert "nopass" not in told["flags"]
    assert told["passwords"] == [MARK]
    assert told["channels"] in (["&news"], "&news")
    assert len(told["selectors"]) == 1
    assert sorted(admin.acl_users()) == ["alice", "default"]
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.get("orders:1") is None
    for denied in (("GET", "other"), ("SET", "orders:1", "x"), ("PUBLISH", "news2", "x")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            alice.execute_command(*denied)
    assert alice.execute_command("SET", "x", "1")
    assert "alice" in [client["user"] for client in admin.client_list()]
    for password in ("", "x"):
        with pytest.raises(redis.AuthenticationError):
            server.admin(username="alice", password=password).ping()


def test_a_line_is_the_whole_state(installed: Server, start: Start, pki: Pki) -> None:
    """It starts from nothing: without `on` the user is off, without keys it has none."""
    server = enrolled(start, installed, pki, "user carol", "user dave on")
    assert (rules(server.admin(), "carol") or "").startswith("off ")
    assert (rules(server.admin(), "dave") or "").endswith(" -@all")
    patch(server.admin(), 1, 2, [f"-{ALICE}", "+user alice off ~* +@all"])
    assert turned_away(server, pki.alice) == "user_off"
    patch(server.admin(), 2, 3, ["-user alice off ~* +@all"])
    assert turned_away(server, pki.alice) == "user_missing"


def test_a_changed_line_changes_open_sessions(server_kind: Server, start: Start, pki: Pki) -> None:
    """The rules of who is there already follow at once, and the session goes on."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin()
    alice = server.client(pki.alice, single_connection_client=True)
    number = alice.client_id()
    assert alice.set("key", "value")
    less = "user alice on ~* +@read +@connection"
    assert patch(admin, 1, 2, [f"-{ALICE}", f"+{less}"])["closed"] == 0
    with pytest.raises(redis.exceptions.NoPermissionError):
        alice.set("key", "other")
    assert alice.get("key") == "value"
    patch(admin, 2, 3, [f"-{less}", f"+{ALICE}"])
    assert alice.set("key", "other")
    assert alice.client_id() == number


def test_a_user_that_is_switched_off_is_closed(server_kind: Server, start: Start, pki: Pki) -> None:
    """The server itself would let its sessions live (ACL SETUSER … off disconnects nobody)."""
    server = enrolled(start, server_kind, pki)
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.acl_whoami() == "alice"
    off = "user alice off ~* &* +@all"
    assert patch(server.admin(), 1, 2, [f"-{ALICE}", f"+{off}"])["closed"] == 1
    wait_until(lambda: not is_open(alice), "alice's session is closed")
    assert turned_away(server, pki.alice) == "user_off"
    patch(server.admin(), 2, 3, [f"-{off}", f"+{ALICE}"])
    assert who(server, pki.alice) == "alice"


def test_a_removed_line_removes_the_user(server_kind: Server, start: Start, pki: Pki) -> None:
    """The user, its sessions and, with the binding left, its way in."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin()
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.acl_whoami() == "alice"
    patch(admin, 1, 2, [f"-{ALICE}"])
    wait_until(lambda: not is_open(alice), "alice's session is closed")
    assert admin.acl_users() == ["default"]
    assert turned_away(server, pki.alice) == "user_missing"
    server.stop()
    server.start()
    assert server.admin().acl_users() == ["default"]


# ---- Users that were there before ----------------------------------------------------------------


def with_rich_alice(start: Start, kind: Server, pki: Pki, **options: Any) -> RedisServer:
    """A server where the operator made an `alice`, and a policy that does not name her yet."""
    server = start(kind, module=JOURNAL, **options)
    server.admin().execute_command("ACL", "SETUSER", "alice", *RICH)
    load(server.admin(), 1, usual(pki)[:3])
    return server


def unordered(rules: str) -> list[str]:
    """Subcommands come in any order, and `reset` says what goes without saying of a new user."""
    return sorted(word for word in rules.replace("(", "( ").split() if word != "sanitize-payload")


def assert_rich(server: RedisServer, was: str | None) -> None:
    """Her passwords, and the whole of her rules."""
    assert was
    assert unordered(rules(server.admin(), "alice") or "") == unordered(was)
    for password in ("first", "second"):
        assert server.admin(username="alice", password=password).acl_whoami() == "alice"


def assert_adopted(server: RedisServer, pki: Pki, admin: redis.Redis | None = None) -> None:
    found = (rules(admin or server.admin(), "alice") or "").replace(f"#{MARK}", "")
    assert "~a:*" in found
    assert [word for word in ("#", "own:", "shared:", "news:") if word in found] == []
    with pytest.raises(redis.AuthenticationError):
        server.admin(username="alice", password="first").ping()
    assert who(server, pki.alice) == "alice"


def test_nobodys_user_is_taken_unasked(server_kind: Server, start: Start, pki: Pki) -> None:
    """A user that the server has needs `adopt`, and the refusal says so; `default` is one too."""
    server = with_rich_alice(start, server_kind, pki)
    admin, was = server.admin(), rules(server.admin(), "alice")
    for line in (ALICE, "user default off"):
        with refused("LINES 1 bad, nothing changed; line 1: .*write `adopt` behind the name"):
            patch(admin, 1, 2, [f"+{line}"])
        with refused("LINES 1 bad, nothing changed; line 4: .*write `adopt` behind the name"):
            load(admin, 2, [*usual(pki)[:3], line])
    assert_rich(server, was)
    patch(admin, 1, 2, [f"+{ADOPTED}"])
    assert_adopted(server, pki)


def test_an_adopted_user_is_given_back(server_kind: Server, start: Start, pki: Pki) -> None:
    """Hashes, selectors and channels as they were, and nothing of it is shown or in the digest."""
    server = with_rich_alice(start, server_kind, pki)
    admin, was = server.admin(), rules(server.admin(), "alice")
    before = status(admin)["digest"]
    patch(admin, 1, 2, [f"+{ADOPTED}"])
    assert_adopted(server, pki)
    assert status(admin)["lines"] == len(show(admin)) == 4
    assert not [line for line in show(admin) if line.startswith("was")]
    patch(admin, 2, 3, [f"-{ADOPTED}"])
    assert_rich(server, was)
    assert status(admin)["digest"] == before


def test_an_adopted_user_is_given_back_after_restarts(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """The note is in the journal, whatever the server itself forgot or rewrote meanwhile."""
    server = with_rich_alice(start, server_kind, pki)
    was = rules(server.admin(), "alice")
    patch(server.admin(), 1, 2, [f"+{ADOPTED}"])
    server.kill()
    server.start()  # alice of the operator was in memory only: she is known from the note alone
    assert_adopted(server, pki)
    server.admin().config_rewrite()
    server.stop()
    keep_configuration(server)
    server.start()
    assert_adopted(server, pki)
    patch(server.admin(), 2, 3, [f"-{ADOPTED}"])
    assert_rich(server, was)
    server.admin().config_rewrite()
    server.stop()
    keep_configuration(server)
    server.start()
    assert_rich(server, was)


def test_a_changed_adoption_keeps_the_first_note(installed: Server, start: Start, pki: Pki) -> None:
    """What comes back is what was there before us, however often the line was changed."""
    server = with_rich_alice(start, installed, pki)
    was = rules(server.admin(), "alice")
    patch(server.admin(), 1, 2, [f"+{ADOPTED}"])
    patch(server.admin(), 2, 3, [f"-{ADOPTED}", f"+{ADOPTED} ~b:*"])
    patch(server.admin(), 3, 4, [f"-{ADOPTED} ~b:*", f"+{ADOPTED.replace(' adopt', '')}"])
    load(server.admin(), 5, [*usual(pki)[:3], ADOPTED])
    assert_adopted(server, pki)
    load(server.admin(), 6, [])
    assert_rich(server, was)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("enforce", ["off", "shadow"])
def test_enforcement_off_gives_everything_back(
    installed: Server, start: Start, pki: Pki, enforce: str, restart: bool
) -> None:
    """Users of ours go, adopted ones are what they were; on again, they are ours again; and a
    restart with a rewritten configuration in between changes nothing."""
    server = with_rich_alice(start, installed, pki, config=[ROOT.strip()])
    was, on, other = rules(server.admin(), "alice"), "set enforce on", f"set enforce {enforce}"
    more = [ADOPTED, "user bob on ~* +@all", "user default adopt off"]
    patch(server.admin(), 1, 2, [f"+{line}" for line in more])

    def go_on() -> None:
        if restart:
            root(server).config_rewrite()
            server.stop()
            keep_configuration(server)
            server.start()

    for generation in (2, 4):
        patch(root(server), generation, generation + 1, [f"-{on}", f"+{other}"])
        go_on()
        assert rules(root(server), "bob") is None
        assert (rules(root(server), "default") or "").startswith("on nopass ")
        assert who(server, pki.alice) == "default"
        assert_rich(server, was)
        patch(root(server), generation + 1, generation + 2, [f"-{other}", f"+{on}"])
        go_on()
        assert rules(root(server), "bob")
        assert (rules(root(server), "default") or "").startswith("off ")
        assert who(server) == ""
        assert_adopted(server, pki, root(server))


@pytest.mark.parametrize("enforce", ["off", "shadow"])
def test_without_enforcement_no_user_is_touched(
    server_kind: Server, start: Start, pki: Pki, enforce: str
) -> None:
    """User lines wait: neither made, nor adopted, nor asked about `adopt`; and nobody is closed."""
    server = with_rich_alice(start, server_kind, pki)
    admin, was = server.admin(), rules(server.admin(), "alice")
    holder = server.client(pki.alice, single_connection_client=True)
    lines = [authority(pki.ca), bind(pki.alice, "alice"), ALICE, "user bob on +@all",
             "user default adopt off"]  # fmt: skip
    load(admin, 2, [f"set enforce {enforce}", *lines])
    assert is_open(holder) or who(server, pki.alice) == "default"
    assert_rich(server, was)
    assert rules(admin, "bob") is None
    assert (rules(admin, "default") or "").startswith("on nopass ")
    with refused("LINES 1 bad.*alice.*write `adopt`|LINES 1 bad.*write `adopt`"):
        load(admin, 3, ["set enforce on", *lines])
    assert_rich(server, was)


# ---- default -------------------------------------------------------------------------------------


def test_default_off_closes_who_holds_it(server_kind: Server, start: Start, pki: Pki) -> None:
    """Switching it off cuts nobody by itself, so its holders are closed, and the sender is told
    first; alice stays; the unix socket is not a way round; and it comes back as it was."""
    server = enrolled(start, server_kind, pki, plain=True)
    admin = server.admin(single_connection_client=True)
    was = rules(admin, "default")
    assert was
    assert was.startswith("on nopass ")
    holders = [
        server.client(single_connection_client=True),
        server.plain_client(single_connection_client=True),
        server.admin(single_connection_client=True),
    ]
    alice = server.client(pki.alice, single_connection_client=True)
    number = alice.client_id()
    assert [holder.acl_whoami() for holder in holders] == ["default"] * 3
    reply = patch(admin, 1, 2, ["+user default adopt off"])
    assert reply["closed"] == 5  # and the connection that `enrolled` wrote the policy on
    for holder in (*holders, admin):
        wait_until(lambda holder=holder: not is_open(holder), "a holder of default is closed")
    assert alice.client_id() == number
    assert who(server) == ""
    with pytest.raises(redis.AuthenticationError):
        server.admin().ping()
    patch(alice, 2, 3, ["-user default adopt off"])
    assert unordered(rules(server.admin(), "default") or "") == unordered(was)
    assert who(server) == "default"


def test_default_may_keep_some_rights(installed: Server, start: Start, pki: Pki) -> None:
    """`default` on, with less, closes nobody; its line has no nopass, so newcomers log in first."""
    server = enrolled(start, installed, pki)
    holder = server.client(single_connection_client=True)
    assert holder.ping()
    assert patch(server.admin(), 1, 2, ["+user default adopt on ~pub:* +@read"])["closed"] == 0
    with pytest.raises(redis.exceptions.NoPermissionError):
        holder.set("key", "value")
    assert holder.get("pub:x") is None
    assert who(server) == ""


# ---- Changes by hand -----------------------------------------------------------------------------

HANDS: dict[str, tuple[str, ...]] = {
    "nopass": ("SETUSER", "nopass", "on", "nopass"),
    "password": ("SETUSER", "password", ">pw"),
    "off": ("SETUSER", "off", "off"),
    "less": ("SETUSER", "less", "-@all"),
    "more": ("SETUSER", "more", "(~secret +@all)"),
    "reset": ("SETUSER", "reset", "reset"),
    "gone": ("DELUSER", "gone"),
}


def test_changes_by_hand_are_repaired(server_kind: Server, start: Start, pki: Pki) -> None:
    """A line is the user's whole state: soon it is again, the log tells of each, and of nobody
    else, and those come in who should."""
    lines = [ALICE.replace("alice", name) for name in HANDS]
    server = enrolled(start, server_kind, pki, *lines, bind(pki.bob, "gone"))
    admin = server.admin()
    good = {name: rules(admin, name) for name in HANDS}
    for name, change in HANDS.items():
        assert admin.execute_command("ACL", *change)
        assert rules(admin, name) != good[name]
    wait_until(lambda: {name: rules(admin, name) for name in HANDS} == good, "all are repaired", 15)
    assert who(server, pki.alice) == "alice"
    assert who(server, pki.bob) == "gone"
    for name in HANDS:
        assert f"'{name}' was changed by hand" in server.log
    assert "'alice' was changed by hand" not in server.log


def test_no_repair_starves_another(installed: Server, start: Start, pki: Pki) -> None:
    """A user that somebody changes again and again holds up nobody else's repair."""
    server = enrolled(start, installed, pki, "user bob on ~b:* +@read", "user a on ~a +@read")
    admin = server.admin()
    good = {name: rules(admin, name) for name in ("a", "bob")}
    for name in good:
        admin.execute_command("ACL", "SETUSER", name, "+@all")

    def repaired() -> bool:
        admin.execute_command("ACL", "SETUSER", "alice", "nopass")
        return {name: rules(admin, name) for name in good} == good

    wait_until(repaired, "the others are repaired")


def test_many_that_were_removed_by_hand_are_back_within_a_minute(
    installed: Server, start: Start, pki: Pki
) -> None:
    """All users of a policy are gone at once."""
    names = [f"u{number}" for number in range(200)]
    server = enrolled(start, installed, pki, *(f"user {name} on ~* +@read" for name in names))
    admin = server.admin()
    good = sorted(admin.acl_list())
    admin.acl_deluser(*names, "alice")
    assert admin.acl_users() == ["default"]
    wait_until(lambda: sorted(admin.acl_list()) == good, "all users are back", 60)


def test_default_off_is_kept_off(server_kind: Server, start: Start, pki: Pki) -> None:
    """Switched on by hand it is off again, and who came in meanwhile goes."""
    off = "user default adopt off ~* &* +@all"
    server = enrolled(start, server_kind, pki, off)
    alice = server.client(pki.alice)
    alice.execute_command("ACL", "SETUSER", "default", "on", "nopass")
    meanwhile = server.client(single_connection_client=True)
    assert meanwhile.acl_whoami() == "default"
    wait_until(lambda: (rules(alice, "default") or "").startswith("off "), "default is off")
    assert who(server) == ""
    wait_until(lambda: not is_open(meanwhile), "who came in meanwhile is closed")


def test_users_of_others_are_left_alone(installed: Server, start: Start, pki: Pki) -> None:
    """What the policy has no line for is the operator's, before, with and after us."""
    config = ["user app on >pw ~app:* +@all"]
    server = enrolled(start, installed, pki, config=config)
    admin = server.admin()
    admin.execute_command("ACL", "SETUSER", "app", "+@all", "~more:*")
    was = rules(admin, "app")
    admin.execute_command("ACL", "SETUSER", "alice", "nopass")
    wait_until(lambda: "nopass" not in (rules(admin, "alice") or ""), "alice is repaired")
    assert rules(admin, "app") == was
    assert server.admin(username="app", password="pw").acl_whoami() == "app"
    load(admin, 2, [])
    assert rules(admin, "app") == was


def test_a_refused_write_touches_no_user(server_kind: Server, start: Start, pki: Pki) -> None:
    """One bad rule among good lines, and not even the good ones are tried out on real users."""
    server = enrolled(start, server_kind, pki)
    changes = [f"-{ALICE}", "+user alice on ~* +@read", "+user bob on +@all", "+user carol on +@no"]
    with nothing_changes(server, pki), refused("LINES 1 bad, nothing changed; line 4: "):
        patch(server.admin(), 1, 2, changes)
    patch(server.admin(), 1, 2, changes[:-1])
    assert sorted(server.admin().acl_users()) == ["alice", "bob", "default"]
