"""The server's own files, and what we make the server hold: CONFIG REWRITE and ACL SAVE write our
users, a start and ACL LOAD read them."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from control.policy import core
from control.policy import lines as policy
from tests.kit.journals import Journal
from tests.kit.node import (
    ALICE,
    JOURNAL,
    Start,
    authority,
    bind,
    bootstrap,
    enrolled,
    is_open,
    journal,
    keep_configuration,
    load,
    patch,
    refused,
    rules,
    show,
    turned_away,
    usual,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import MODULE, Cert, Pki, RedisServer, ServerDied, wait_until

pytestmark = pytest.mark.few_servers

DEFAULT = "user default on nopass ~* &* +@all"
OPERATOR = "user operator on >pw -@all +acl|load +acl|whoami"
DEVICES = "pattern cn dev-{id} device:{id} on ~{id}:* &{id} +@all"
CARL = "user carl on >pw ~* &* +@all"
QUOTE = "holds a quote"
NO_NAME = "not the name of an ACL user"


def with_file(
    start: Start,
    kind: Server,
    pki: Pki,
    acl: Path,
    *lines: str,
    more: tuple[str, ...] = (),
    **how: int,
) -> RedisServer:
    """A server whose aclfile has these lines, and the usual policy with `more`."""
    acl.write_text("".join(f"{line}\n" for line in lines))
    return enrolled(start, kind, pki, *more, config=[f"aclfile {acl}"], **how)


# ---- Names and rules -----------------------------------------------------------------------------

WORDS = (
    "on", "off", "-@all", "+@all", "nopass", "reset", "resetpass", "adopt", "#" + 64 * "a", "#x",
    "##", ">pw", "<pw", "!pw", "~*", "%R~*", "&*", "(", ")", "(~*", "x)", "Default", "DEFAULT",
    "user", "include", "loadmodule", "{id}", "a,b", "%20", "\\x41", "\\", "\\\\", "ü", "日本", "😀",
    "a\u00a0b", "x" * 512, "ca", "from", "session", "app", "-", "$", "$(x)", "`x`", "# ??? x",
)  # fmt: skip
LONG = "x" * 513


def alphabet() -> Iterator[bytes]:
    """Every byte but NUL, at the start of a text, within it and at its end; each text once."""
    for number in range(1, 256):
        byte = bytes([number])
        yield b"%bb%02x" % (byte, number)
        yield b"m%02x%bm" % (number, byte)
        yield b"e%02x%b" % (number, byte)


def names() -> list[bytes]:
    return [*alphabet(), *(word.encode() for word in WORDS), LONG.encode()]


def quoted(text: bytes) -> bytes:
    return b'"%b"' % b"".join(b"\\x%02x" % byte for byte in text)


def reason(name: bytes) -> str | None:
    """Why no user may have this name; None where one may."""
    if b"'" in name or b'"' in name:
        return QUOTE
    try:
        wrong = len(name) > 512 or any(c <= " " or "\x7f" <= c <= "\x9f" for c in name.decode())
    except UnicodeDecodeError:
        wrong = True
    return NO_NAME if wrong else None


def rules_to_try() -> list[bytes]:
    """Some are rules on one server and not on another."""
    signs = ("~", "&", "%R~", "%W~", "+select|", "(~", "(+get ~")
    found = [sign.encode() + text for sign in ("~", "&") for text in alphabet()]
    found += [sign.encode() + word.encode() for sign in signs for word in WORDS]
    found += [b"(~x)b +get)", b"(~x (y +get)", b"(~a +get) (%R~b &c -@all)", b"~", b"&", b"%RW~"]
    found += [b"+config|get", b"-config|set", b"+@all -@dangerous", b"+@read -get", b"+@admin"]
    return [*found, b"sanitize-payload", b"skip-sanitize-payload", b"allkeys", b"nocommands"]


def outcome(call: Callable[[], object]) -> str | None:
    """What a refusal says; None where there is none."""
    try:
        call()
    except (core.CoreError, redis.ResponseError) as error:
        return str(error)
    return None


def wrongly(told: str | None, wrong: str | None) -> bool:
    return told != wrong if told is None or wrong is None else wrong not in told


def test_a_name_is_refused_alike_wherever_it_is_written(
    installed: Server, start: Start, pki: Pki
) -> None:
    """In `user`, `bind` and `pattern` lines, by a node, by the control plane: each with its reason,
    and all others are taken."""
    for name in names():
        text, token = name.decode("utf-8", "surrogateescape"), quoted(name).decode()
        lines = [f"user {token} on", f"bind cn x {token}"]
        told = [outcome(partial(core.canonical, line)) for line in lines]
        told += [outcome(partial(core.Policy, [line])) for line in lines]
        told.append(outcome(partial(policy.check_name, text)))
        assert not [one for one in told if wrongly(one, reason(name))], (name, told)
    server = enrolled(start, installed, pki)
    bad = [b"user %b on" % quoted(name) for name in names() if reason(name)]
    with refused(f"LINES {len(bad)} bad, nothing changed"):
        load(server.admin(), 2, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_pattern_makes_no_name_that_a_file_would_lose(quote: str) -> None:
    """What stands in the line is all that could: no value of a placeholder holds a quote."""
    token = core.quote(f"app:{quote}{{id}}")
    assert QUOTE in (outcome(lambda: core.Policy([f"pattern cn {{id}} {token} on"])) or "")
    core.Policy(["pattern cn {id} app:{id} on"])


def taken(client: redis.Redis, lines: list[bytes]) -> list[bytes]:
    """Those of these lines that the server takes. A refusal names 32 of the bad ones."""
    for _ in range(len(lines)):
        told = outcome(partial(load, client, 1, lines))  # type: ignore[arg-type]
        if told is None:
            return lines
        bad = {int(number) for number in re.findall(r"; line (\d+): ", told)}
        assert bad, told
        lines = [line for number, line in enumerate(lines, 1) if number not in bad]
    raise AssertionError("no line is taken")


def logins(server: RedisServer, groups: dict[Cert, list[bytes]]) -> None:
    """Each certificate can become each of its users."""
    for cert, its in groups.items():
        with server.tls(cert).connect() as connection:
            for user in its:
                assert connection.command("CERTAUTH.LOGIN", user) == b"OK"
                assert connection.command("ACL", "WHOAMI") == user


def users(admin: redis.Redis) -> list[str]:
    """As ACL LIST tells them, but for a word that means what its absence means."""
    return sorted(line.replace(" sanitize-payload", "") for line in admin.acl_list())


@contextmanager
def without_module(server: RedisServer) -> Iterator[None]:
    """A server that reads the same files, and is not ours."""
    text = server.conf.read_text()
    server.lines = lambda: [  # type: ignore[method-assign]
        line for line in text.splitlines() if not line.startswith("loadmodule")
    ]
    server.start()
    yield
    server.stop()
    server.lines = text.splitlines  # type: ignore[method-assign]


@pytest.mark.parametrize("file", ["redis.conf", "aclfile"])
def test_what_we_make_the_server_hold_survives_its_files(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """Every name and rule that is taken: the server that reads what it has written has the same
    users, and with the module each certificate is who it was."""
    acl = tmp_path / "users.acl"
    acl.write_text(f"{DEFAULT}\n")
    config = [f"aclfile {acl}"] if file == "aclfile" else []
    server = start(server_kind, module=JOURNAL, config=config)
    named = {b"user %b on ~k:* +@read +acl|whoami" % quoted(name): name for name in names()}
    ruled = [b"user r%d on %b" % (n, quoted(rule)) for n, rule in enumerate(rules_to_try())]
    lines = taken(server.admin(), [line.encode() for line in usual(pki)] + [*named, *ruled])
    assert sum(line in lines for line in ruled) > 500
    good = [name for line, name in named.items() if line in lines]
    groups = {pki.ca.issue(f"CN=c{at}"): good[at : at + 32] for at in range(0, len(good), 32)}
    binds = [
        f"+bind key {cert.key_id} ".encode() + b" ".join(map(quoted, its))
        for cert, its in groups.items()
    ]
    patch(server.admin(), 1, 2, binds)  # type: ignore[arg-type]
    logins(server, groups)
    made = users(server.admin())
    write = server.admin().acl_save if file == "aclfile" else server.admin().config_rewrite
    assert write()
    keep_configuration(server)
    server.stop()
    with without_module(server):
        assert users(server.admin()) == made
    server.start()
    logins(server, groups)
    assert users(server.admin()) == made
    assert good == [name for name in names() if reason(name) is None]


def test_a_saved_copy_is_what_its_line_says_and_nobody_without_it(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """What ACL SAVE has written comes back with each start: as the line says by then; and not at
    all where the line has gone."""
    server = with_file(start, server_kind, pki, tmp_path / "users.acl", DEFAULT, more=(DEVICES,))
    device = pki.ca.issue("CN=dev-7")
    assert (who(server, pki.alice), who(server, device)) == ("alice", "device:7")
    with server.tls(device).connect():
        assert server.admin().acl_save()
    less = "user alice on ~a:* +@read +acl|whoami"
    patch(server.admin(), 1, 2, [f"-{ALICE}", f"+{less}"])
    server.stop()
    server.start()
    assert who(server, pki.alice) == "alice"
    assert "~a:* " in (rules(server.admin(), "alice") or "")
    assert rules(server.admin(), "device:7") is None
    patch(server.admin(), 2, 3, [f"-{less}", f"-{bind(pki.alice, 'alice')}", f"-{DEVICES}"])
    server.stop()
    server.start()
    for name in ("alice", "device:7"):
        assert rules(server.admin(), name) is None
        for password in ("", "pw"):
            with server.tls().connect() as stranger, refused("WRONGPASS"):
                stranger.command("AUTH", name, password)
    assert {turned_away(server, cert) for cert in (pki.alice, device)} == {"no_binding"}


ARGUMENTS = {"blank": "a b", "tab": "a\tb", "quote": "a'b", "double quote": 'a"b', "nothing": ""}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_an_argument_that_a_rewrite_would_lose_ends_the_start(
    installed: Server, start: Start, tmp_path: Path, what: str
) -> None:
    """Of the loadmodule line: the journal, the bootstrap file, and the module's own path."""
    lost = tmp_path / ARGUMENTS[what] if ARGUMENTS[what] else Path("")
    for words in (["journal", str(lost)], [*JOURNAL, "bootstrap", str(lost)]):
        module = [core.quote("" if word == "." else word) for word in words]
        with pytest.raises(ServerDied, match="certauth cannot be loaded: .*CONFIG REWRITE"):
            start(installed, module=module)
    if what == "nothing":
        return
    lost.mkdir()
    copy = shutil.copy(str(MODULE), str(lost))
    config = [f"loadmodule {core.quote(copy)} journal journal"]
    with pytest.raises(ServerDied, match="certauth cannot be loaded: .*CONFIG REWRITE"):
        start(installed, config=config)


ODD = ["back\\slash", "dollar$", "(x)", "ü", "#x", "%20", "semi;colon", "{x}", "=", ","]


def test_arguments_survive_a_rewrite(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Whatever the loadmodule line takes: the server starts again with the same files."""
    place = tmp_path / "".join(ODD)
    place.mkdir()
    (place / "bootstrap").write_text(
        f"{authority(pki.ca)}\n{bind(pki.bob, 'bob')}\nuser bob on +@all\n"
    )
    module = ["journal", str(place / "journal"), "bootstrap", str(place / "bootstrap")]
    server = enrolled(start, server_kind, pki, module=module)
    for _ in range(2):
        assert server.admin().config_rewrite()
        keep_configuration(server)
        server.stop()
        server.start()
        assert (who(server, pki.alice), who(server, pki.bob)) == ("alice", "bob")


def test_a_bootstrap_line_with_a_quote_ends_the_start(
    installed: Server, start: Start, tmp_path: Path
) -> None:
    """Who wrote it is there to change it."""
    for line in ('bind cn x "o\'brien"', 'user "o\'brien" on +@all'):
        with pytest.raises(ServerDied, match=f"cannot be loaded: .*bootstrap.*, line 1: .*{QUOTE}"):
            start(installed, module=bootstrap(tmp_path, line))


# ---- After an upgrade ----------------------------------------------------------------------------

OLD = ['user "o\'brien" on ~* +@all', 'pattern cn {id} "dev:\'{id}" on ~{id}:* +@all']


def from_before(server: RedisServer, *lines: str) -> None:
    """Lines that are refused today, in the journal of a server that is stopped."""
    with Journal(server.directory / "journal") as kept:
        kept.append(*lines, generation=kept.last[0] + 1, owner="")


@pytest.mark.parametrize("file", ["redis.conf", "aclfile"])
def test_a_name_from_before_it_was_refused_stops_nobody(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """Its user is not there, nor in a file that has it saved; everybody else is, and the lines can
    be taken out."""
    acl = tmp_path / "users.acl"
    acl.write_text(f"{DEFAULT}\nuser o'brien on ~* &* +@all\n")
    config = [f"aclfile {acl}"] if file == "aclfile" else []
    old = [*OLD, f'bind key {pki.bob.key_id} "o\'brien"']
    server = enrolled(start, server_kind, pki, config=config)
    server.stop()
    from_before(server, *old)
    server.start()
    for _ in range(2):
        assert who(server, pki.alice) == "alice"
        assert turned_away(server, pki.bob) == "user_missing"
        assert turned_away(server, pki.ca.issue("CN=x")) == "user_missing"
        assert sorted(server.admin().acl_users()) == ["alice", "default"]
        assert "user 'o'brien' is left out" in server.log
        assert server.admin().config_rewrite()
        keep_configuration(server)
        server.stop()
        server.start()
    assert set(old) <= set(show(server.admin()))
    with refused("LINES 1 bad, nothing changed; line 1: .*" + QUOTE):
        patch(server.admin(), 2, 3, [f"+{OLD[0].replace('brien', 'hara')}"])
    patch(server.admin(), 2, 3, [f"-{line}" for line in old] + ["+user obrien on"])
    assert sorted(server.admin().acl_users()) == ["alice", "default", "obrien"]


def test_enforcement_that_comes_on_leaves_such_names_out(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Held while the policy was off, they begin to count with all others."""
    server = enrolled(start, installed, pki)
    load(server.admin(), 2, ["set enforce off", *usual(pki)[1:]])
    server.stop()
    from_before(server, *OLD)
    server.start()
    patch(server.admin(), 3, 4, ["-set enforce off", "+set enforce on"])
    assert sorted(server.admin().acl_users()) == ["alice", "default"]
    assert who(server, pki.alice) == "alice"


# ---- Copies that outlive their line --------------------------------------------------------------

FILES_OF_USERS = pytest.mark.parametrize("file", ["redis.conf", "aclfile"])
NOT_A_PASSWORD = f"#{policy.MARK}"


def with_either(
    start: Start, kind: Server, acl: Path, file: str, *lines: str, **how: Any
) -> RedisServer:
    """A server without a policy, whose users are kept in redis.conf or in an aclfile."""
    kept = (DEFAULT, OPERATOR, *lines)
    if file == "aclfile":
        acl.write_text("".join(f"{line}\n" for line in kept))
    config = [f"aclfile {acl}"] if file == "aclfile" else kept
    return start(kind, module=how.pop("module", JOURNAL), config=list(config), **how)


def save(server: RedisServer, file: str) -> None:
    """What the server has in memory is in its file, and the next start reads that."""
    admin = server.admin()
    assert admin.acl_save() if file == "aclfile" else admin.config_rewrite()
    keep_configuration(server)


def again(server: RedisServer) -> None:
    server.kill()
    server.start()


def rights(server: RedisServer, user: str) -> str | None:
    """Without a word that means what its absence means."""
    return (rules(server.admin(), user) or "").replace("sanitize-payload ", "") or None


def there(server: RedisServer) -> list[str]:
    return sorted(server.admin().acl_users())


@FILES_OF_USERS
def test_a_saved_copy_does_not_outlive_its_line(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """Its line is removed, a `bind` line that names it is left, the server dies before it saves
    anything: nobody is that user, at this start nor at later ones. The operator's users stay."""
    server = with_either(start, server_kind, tmp_path / "users.acl", file)
    load(server.admin(), 1, usual(pki))
    assert who(server, pki.alice) == "alice"
    save(server, file)
    patch(server.admin(), 1, 2, [f"-{ALICE}"])
    assert turned_away(server, pki.alice) == "user_missing"
    for _ in range(2):
        again(server)
        assert turned_away(server, pki.alice) == "user_missing"
        assert there(server) == ["default", "operator"]
        assert server.admin(username="operator", password="pw").acl_whoami() == "operator"
    assert "user 'alice' was in the server's files and has been removed" in server.log
    save(server, file)
    patch(server.admin(), 2, 3, [f"+{ALICE}"])
    assert who(server, pki.alice) == "alice"


@FILES_OF_USERS
def test_nor_one_whose_line_goes_after_a_restart(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """A control plane whose word comes late: the copy is read, its line holds and then goes."""
    server = with_either(start, server_kind, tmp_path / "users.acl", file)
    load(server.admin(), 1, [*usual(pki), "user bob on", "user carol on"])
    save(server, file)
    again(server)
    assert who(server, pki.alice) == "alice"
    load(server.admin(), 2, [*usual(pki)[:3], "user bob on"])
    again(server)
    assert turned_away(server, pki.alice) == "user_missing"
    assert there(server) == ["bob", "default", "operator"]


@FILES_OF_USERS
def test_nor_one_of_a_policy_that_was_lost_or_is_off(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """No note on the disk tells of it then: not where enforcement is off, nor where the journal and
    its marker were moved away and another policy comes."""
    server = with_either(start, server_kind, tmp_path / "users.acl", file)
    load(server.admin(), 1, usual(pki))
    save(server, file)
    patch(server.admin(), 1, 2, ["-set enforce on", "+set enforce off"])
    again(server)
    assert there(server) == ["default", "operator"]
    server.kill()
    shutil.rmtree(server.directory / "journal")
    (server.directory / "journal.enrolled").unlink()
    (server.directory / "journal").mkdir()
    server.start()
    load(server.admin(), 1, usual(pki)[:3])
    assert turned_away(server, pki.alice) == "user_missing"
    assert there(server) == ["default", "operator"]


@FILES_OF_USERS
def test_nor_one_of_the_bootstrap_file(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """Its lines change while the server is down."""
    lines = (authority(pki.ca), bind(pki.bob, "bob"))
    module = bootstrap(tmp_path, *lines, "user bob on +@all")
    server = with_either(start, server_kind, tmp_path / "users.acl", file, module=module)
    load(server.admin(), 1, ["set enforce on", *lines])
    assert who(server, pki.bob) == "bob"
    save(server, file)
    server.stop()
    bootstrap(tmp_path, *lines)
    server.start()
    assert turned_away(server, pki.bob) == "user_missing"
    assert there(server) == ["default", "operator"]


@FILES_OF_USERS
def test_a_user_that_the_operator_makes_is_never_taken_for_a_copy(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """Of the same name, without a password, with the same rules: made and saved when the line has
    gone, it is the operator's, and a certificate that is bound to it is let in."""
    server = with_either(start, server_kind, tmp_path / "users.acl", file)
    load(server.admin(), 1, usual(pki))
    save(server, file)
    patch(server.admin(), 1, 2, [f"-{ALICE}"])
    server.admin().execute_command("ACL", "SETUSER", "alice", "on", "~*", "&*", "+@all")
    save(server, file)
    for _ in range(2):
        again(server)
        assert who(server, pki.alice) == "alice"
    with refused("LINES 1 bad.*write `adopt`"):
        patch(server.admin(), 2, 3, [f"+{ALICE}"])


@FILES_OF_USERS
def test_an_adopted_user_that_was_saved_is_the_operators_again(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """The file has it as its line said; what it was before is kept until a start finds the file to
    have that. Then the note goes, with the next change."""
    server = with_either(start, server_kind, tmp_path / "users.acl", file, CARL)
    was = rights(server, "carl")
    adopted = "user carl adopt on +ping"
    load(server.admin(), 1, [*usual(pki)[:2], bind(pki.alice, "carl"), adopted])
    assert who(server, pki.alice) is None  # +ping is not an ACL WHOAMI
    save(server, file)
    patch(server.admin(), 1, 2, [f"-{adopted}"])
    for _ in range(2):
        assert rights(server, "carl") == was
        assert who(server, pki.alice) == "carl"
        again(server)
    assert rights(server, "carl") == was
    assert server.admin(username="carl", password="pw").acl_whoami() == "carl"
    patch(server.admin(), 2, 3, ["+user bob on"])
    assert "\n-was carl " not in journal(server).read_text()
    save(server, file)
    again(server)
    patch(server.admin(), 3, 4, ["-user bob on"])
    assert "\n-was carl " in journal(server).read_text()
    assert rights(server, "carl") == was
    with refused("LINES 1 bad.*write `adopt`"):
        patch(server.admin(), 4, 5, ["+user carl on"])


def test_a_note_of_an_adopted_user_is_of_its_last_adoption(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """One that is left over brings nothing back: not what the operator has removed or changed."""
    server = with_either(start, installed, tmp_path / "users.acl", "aclfile", CARL)
    adopted = "user carl adopt on +ping"
    load(server.admin(), 1, usual(pki))
    admin = server.admin()
    for generation in (1, 3):
        patch(admin, generation, generation + 1, [f"+{adopted}"])
        patch(admin, generation + 1, generation + 2, [f"-{adopted}"])
        with refused("LINES 1 bad.*write `adopt`"):
            patch(admin, generation + 2, generation + 3, ["+user carl on"])
        admin.execute_command("ACL", "SETUSER", "carl", ">other")
    other = rights(server, "carl")
    patch(admin, 5, 6, [f"+{adopted}"])
    patch(admin, 6, 7, [f"-{adopted}"])
    assert rights(server, "carl") == other
    admin.acl_deluser("carl")
    patch(admin, 7, 8, ["+user carl on"])
    save(server, "aclfile")
    patch(admin, 8, 9, ["-user carl on"])
    assert rights(server, "carl") is None
    again(server)
    assert rights(server, "carl") is None


def test_acl_load_brings_no_copy_back(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """And takes nothing away by one: a user of the operator that has its name stays."""
    acl = tmp_path / "users.acl"
    server = with_either(start, server_kind, acl, "aclfile", CARL)
    was = rights(server, "carl")
    load(server.admin(), 1, [*usual(pki), "user carl adopt on +ping"])
    save(server, "aclfile")
    assert acl.read_text().count(NOT_A_PASSWORD) == 2
    patch(server.admin(), 1, 2, [f"-{ALICE}", "-user carl adopt on +ping"])
    assert server.admin().acl_load()
    assert turned_away(server, pki.alice) == "user_missing"
    assert there(server) == ["carl", "default", "operator"]
    assert rights(server, "carl") == was


@FILES_OF_USERS
def test_copies_from_before_there_was_a_mark_are_told(
    installed: Server, start: Start, pki: Pki, tmp_path: Path, file: str
) -> None:
    """They cannot be told from users that the operator made, so they stay when the line goes. One
    save mends it; who adopted a user and never saved is not bothered."""
    server = with_either(start, installed, tmp_path / "users.acl", file, CARL)
    load(server.admin(), 1, [*usual(pki), "user carl adopt on +ping"])
    again(server)
    who(server, pki.alice)
    assert "as an earlier certauth or the operator made it" not in server.log
    save(server, file)
    place = tmp_path / "users.acl" if file == "aclfile" else server.conf
    place.write_text(place.read_text().replace(f" {NOT_A_PASSWORD}", ""))
    keep_configuration(server)
    again(server)
    assert who(server, pki.alice) == "alice"
    assert "have user 'alice', which has a user line, as an earlier certauth" in server.log
    save(server, file)
    patch(server.admin(), 1, 2, [f"-{ALICE}"])
    again(server)
    assert turned_away(server, pki.alice) == "user_missing"


def test_the_mark_is_no_password(server_kind: Server, start: Start, pki: Pki) -> None:
    """It is text where a hash would stand, so nothing hashes to it: not on a server that has our
    users from its file and no module."""
    server = with_either(start, server_kind, Path(), "redis.conf")
    load(server.admin(), 1, usual(pki))
    save(server, "redis.conf")
    server.stop()
    mark = bytes.fromhex(policy.MARK)
    assert mark == b"redis-certauth: not a password!!"
    with without_module(server):
        assert NOT_A_PASSWORD in (rules(server.admin(), "alice") or "")
        for password in (mark, policy.MARK, NOT_A_PASSWORD, ""):
            with server.tls().connect() as stranger, refused("WRONGPASS"):
                stranger.command("AUTH", "alice", password)


# ---- ACL LOAD ------------------------------------------------------------------------------------


def held(server: RedisServer, cert: Cert) -> redis.Redis:
    """One connection that is never opened again."""
    client = server.client(cert, single_connection_client=True)
    client.ping()
    return client


@pytest.mark.parametrize("io_threads", [1, 4])
def test_acl_load_takes_no_user_and_no_session_of_ours(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path, io_threads: int
) -> None:
    """The file lacks our users, or says something else of them: the operator's come, change and go,
    and ours are what they were, with sessions, a subscription, a transaction that is being sent."""
    acl = tmp_path / "users.acl"
    old = (DEFAULT, OPERATOR, CARL, "user dan off")
    server = with_file(start, server_kind, pki, acl, *old, more=(DEVICES,), io_threads=io_threads)
    admin = server.admin(username="operator", password="pw")
    device, alice, listener = (
        held(server, pki.ca.issue("CN=dev-7")),
        held(server, pki.alice),
        (held(server, pki.alice).pubsub()),
    )
    listener.subscribe("news")
    assert listener.get_message(timeout=5)
    carl = server.client(single_connection_client=True, username="carl", password="pw")
    assert carl.acl_whoami() == "carl"
    with server.tls(pki.alice).connect() as begun:
        assert begun.command("MULTI") == b"OK"
        assert begun.command("ACL", "WHOAMI") == b"QUEUED"
        ids = (alice.client_id(), device.client_id())
        ours = {name: rules(alice, name) for name in ("alice", "device:7")}
        lost = (
            "user alice on nopass ~* +get",
            "user device:7 off",
            "user device:8 on nopass +@all",
        )
        for more in ((), lost):
            acl.write_text(
                "\n".join([DEFAULT, OPERATOR, "user dan on ~d:* +@read", "user eve on", *more])
            )
            assert admin.execute_command("ACL", "LOAD") == "OK"
            assert (alice.client_id(), device.client_id()) == ids
            assert (alice.acl_whoami(), device.acl_whoami()) == ("alice", "device:7")
            assert {name: rules(alice, name) for name in ours} == ours
            theirs = sorted(set(alice.acl_users()) - set(ours))
            assert theirs == ["dan", "default", "eve", "operator"]
            assert "~d:* " in (rules(alice, "dan") or "")
            assert who(server, pki.alice) == "alice"
            alice.publish("news", "hello")
            assert listener.get_message(timeout=5)["data"] == "hello"
        assert begun.command("EXEC") == [b"alice"]
    wait_until(lambda: not is_open(carl), "anyone who is not in the file any more is closed")


def test_acl_load_in_a_transaction_is_the_same(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """And in any case of letters; a script cannot send it."""
    server = with_file(start, server_kind, pki, tmp_path / "users.acl", DEFAULT)
    alice = held(server, pki.alice)
    with server.tls(pki.alice).connect() as sender:
        sender.command("MULTI")
        sender.command("acl", "Load")
        sender.command("ACL", "WHOAMI")
        assert sender.command("EXEC") == [b"OK", b"alice"]
        with pytest.raises(redis.ResponseError):
            sender.command("EVAL", "return redis.call('ACL', 'LOAD')", "0")
    assert alice.acl_whoami() == "alice"


def test_no_client_meets_a_server_without_its_users(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Clients that come and go, and one that stays and sends, while the file is loaded again and
    again: no command of theirs is refused."""
    more = tuple(f"user u{number} on ~* +@read" for number in range(500))
    server = with_file(start, installed, pki, tmp_path / "users.acl", DEFAULT, CARL, more=more)
    done, found = threading.Event(), set()

    def come() -> None:
        while not done.is_set():
            found.add(who(server, pki.alice))

    def stay() -> None:
        with server.tls(pki.alice).connect() as connection:
            while not done.is_set():
                found.add(connection.command("ACL", "WHOAMI").decode())

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(come), pool.submit(stay)]
        admin = server.admin()
        wait_until(lambda: found, "clients have come")
        for _ in range(200):
            assert admin.acl_load()
        done.set()
        for one in running:
            one.result()
    assert found == {"alice"}


FILES = {
    "nothing": "",
    "no default": "user eve on >pw ~* +@all\n",
    "no newline at the end": f"{DEFAULT}\nuser eve on",
    "Windows": f"{DEFAULT}\r\nuser eve on ~x +get\r\n",
    "blank lines": f"\n \n{DEFAULT}\n\t\n  user eve on\n",
    "selectors": f"{DEFAULT}\nuser eve on (~a +get) (%R~b &c +@read) ~d\n",
    "passwords": f"{DEFAULT}\nuser eve on >a >b #{'a' * 64} nopass\nuser eva on >it's\n",
    "odd names": f"{DEFAULT}\nuser o'brien on\nuser a\"b on\nuser on on\nuser #x on\n",
    "a comment": f"# users\n{DEFAULT}\n",
    "not a user": f"{DEFAULT}\nusr eve on\n",
    "USER": f"{DEFAULT}\nUSER eve on\n",
    "no name": f"{DEFAULT}\nuser\n",
    "a name with a tab": f"{DEFAULT}\nuser e\tve on\n",
    "twice": f"{DEFAULT}\nuser eve on\nuser eve off\n",
    "default twice": f"{DEFAULT}\n{DEFAULT}\n",
    "no such command": f"{DEFAULT}\nuser eve on +nosuch\n",
    "no such rule": f"{DEFAULT}\nuser eve on nosuch\n",
    "a bad hash": f"{DEFAULT}\nuser eve on #abc\n",
    "default off": "user default off ~* &* +@all\n",  # last: see has_surely_logged_in
}


def test_acl_load_is_the_servers_own_for_all_others(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """For every kind of file: what a server without the module takes is taken, with the same users
    after it; and what it refuses changes nothing."""
    acl, stock_acl = tmp_path / "ours.acl", tmp_path / "stock.acl"
    before = (DEFAULT, "user dan on >pw ~* +@all", "user gone on")
    stock_acl.write_text("\n".join(before))
    servers = (
        start(server_kind, config=[f"aclfile {stock_acl}"]),
        with_file(start, server_kind, pki, acl, *before),
    )
    stock, server = (one.admin(single_connection_client=True) for one in servers)
    for what, text in FILES.items():
        seen = []
        for admin, file in ((stock, stock_acl), (server, acl)):
            file.write_text(text)
            refusal = outcome(partial(admin.execute_command, "ACL", "LOAD"))
            found = [line for line in users(admin) if line.split()[1] != "alice"]
            seen.append((refusal is None, found))
        assert seen[0] == seen[1], what


def test_an_error_in_the_file_is_named(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """With its line, so that it can be mended. A selector that stays open ends the servers
    themselves (acl.c, ACLLoadFromFile: `acl_args` is NULL)."""
    acl = tmp_path / "users.acl"
    server = with_file(start, server_kind, pki, acl, DEFAULT)
    acl.write_text(f"{DEFAULT}\nuser eve on (~a +get\n")
    with refused("line 2 of the ACL file: .*Unmatched parenthesis.*Nothing was changed"):
        server.admin().acl_load()
    acl.write_text(f"{DEFAULT}\n\nuser eve on +nosuch\n")
    with refused("line 3 of the ACL file: .*nosuch.*Nothing was changed"):
        server.admin().acl_load()
    acl.unlink()
    with refused("Error loading ACLs, opening file .*No such file"):
        server.admin().acl_load()


def test_who_may_load_the_file_is_the_servers_to_say(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Anyone who may `acl|load`, and nobody else: with the right alone, and not before a login."""
    acl = tmp_path / "users.acl"
    weak = "user weak on >pw ~* +@all -acl|load"
    allow = ("set password-auth allow",)
    for default in ("user default off", "user default on >pw ~* +@all"):
        server = with_file(start, server_kind, pki, acl, DEFAULT, more=allow)
        acl.write_text("\n".join([default, OPERATOR, weak, CARL]))
        assert server.admin().acl_load()
        by = {
            name: server.admin(username=name, password="pw")
            for name in ("operator", "weak", "carl")
        }
        assert by["carl"].acl_load()
        with pytest.raises(redis.exceptions.NoPermissionError):
            by["weak"].acl_load()
        with server.tls().connect() as stranger:
            for words in (("ACL", "LOAD"), ("CERTAUTH.ACL", "LOAD"), ("CERTAUTH.ACL_LOAD", "LOAD")):
                with refused("NOAUTH"):
                    stranger.command(*words)
        if default.endswith("off"):
            assert by["operator"].acl_load()
            continue
        assert server.admin(username="default", password="pw").acl_load()
        if server_kind.release >= (7, 2):
            assert by["operator"].acl_load()
            continue
        with pytest.raises(
            redis.exceptions.NoPermissionError, match="certauth.acl"
        ):  # it is not known there whose command it is
            by["operator"].acl_load()


def test_without_an_aclfile_nothing_is_watched(installed: Server, start: Start, pki: Pki) -> None:
    """ACL LOAD is the server's, which says that there is no file; nor does our command find one."""
    server = enrolled(start, installed, pki)
    with refused("This Redis instance is not configured to use an ACL file"):
        server.admin().acl_load()
    with refused("there is no aclfile"):
        server.admin().execute_command("CERTAUTH.ACL", "LOAD")


def test_a_file_does_not_undo_what_damage_has_done(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """`default` stays off where the policy cannot be read, whatever the file says of it."""
    server = with_file(start, installed, pki, tmp_path / "users.acl", DEFAULT, CARL)
    server.stop()
    journal(server).write_text("no journal")
    server.start()
    admin = server.admin(username="carl", password="pw")
    wait_until(lambda: (rules(admin, "default") or "").startswith("off"), "default is off")
    assert admin.acl_load()
    assert (rules(admin, "default") or "").startswith("off")


def test_a_policy_that_is_off_takes_nothing_from_the_file(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Its users are the operator's."""
    acl = tmp_path / "users.acl"
    server = with_file(start, installed, pki, acl, DEFAULT)
    load(server.admin(), 2, ["set enforce off", *usual(pki)[1:]])
    acl.write_text(f"{DEFAULT}\nuser alice on >pw +@read\n")
    assert server.admin().acl_load()
    assert "#" in (rules(server.admin(), "alice") or "")
