"""What a node made, found or set once, it looks at again: journal, markers, CAs, settings."""

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.kit.faults import Disk
from tests.kit.machine import mounted
from tests.kit.node import (
    JOURNAL,
    Start,
    bind,
    enrolled,
    journal,
    load,
    mapping,
    patch,
    refused,
    status,
    turned_away,
    usual,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, free_port, root, wait_until

pytestmark = pytest.mark.few_servers

DEFAULT_OFF = "user default adopt off"


def told(server: RedisServer, event: str) -> list[str]:
    """What CERTAUTH.LOG says of the node itself."""
    reply = mapping(server.admin().execute_command("CERTAUTH.LOG"))
    entries = [mapping(entry) for entry in reply["entries"]]
    return [one["detail"] for one in entries if one["event"] == event and not one["client"]]


def wait_told(server: RedisServer, event: str, text: str) -> None:
    """In CERTAUTH.LOG and in the server's log, once."""
    wait_until(lambda: any(text in one for one in told(server, event)), f"{text!r} is told", 15)
    assert sum(text in one for one in told(server, event)) == 1
    assert server.log.count(text) == 1


# ---- The journal ---------------------------------------------------------------------------------


def directory(server: RedisServer) -> Path:
    return journal(server).parent


def remove(server: RedisServer) -> None:
    shutil.rmtree(directory(server))


def rename(server: RedisServer) -> None:
    directory(server).rename(server.directory / "away")


def replace(server: RedisServer) -> None:
    """As by a file system that is mounted there."""
    rename(server)
    directory(server).mkdir()


def unlink(server: RedisServer) -> None:
    journal(server).unlink()


def truncate(server: RedisServer) -> None:
    journal(server).write_bytes(b"")


def link(server: RedisServer) -> None:
    journal(server).rename(server.directory / "elsewhere")
    journal(server).symlink_to(server.directory / "elsewhere")


def bring_back(server: RedisServer) -> None:
    """A back-up, from before bob was taken his binding: it must not come true at a restart."""
    journal(server).write_bytes((server.directory / "backup").read_bytes())


LOSSES = (remove, rename, replace, unlink, truncate, link, bring_back)
Lose = Callable[[RedisServer], None]


def assert_written_again(server: RedisServer, pki: Pki, lose: Lose) -> None:
    patch(server.admin(), 1, 2, [f"+{bind(pki.bob, 'alice')}"])
    shutil.copy(journal(server), server.directory / "backup")
    patch(server.admin(), 2, 3, [f"-{bind(pki.bob, 'alice')}"])
    lose(server)
    wait_told(server, "journal", "the policy in force has been written there again")
    assert status(server.admin())["journal"] == "ok"
    assert (directory(server) / "ca").is_dir()
    server.kill()
    server.start()
    now = status(server.admin())
    assert (now["generation"], now["journal"]) == (3, "ok")
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob) == "no_binding"


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_lost_journal_is_written_again_before_anybody_asks(
    installed: Server, start: Start, pki: Pki, lose: Lose
) -> None:
    """However it is lost, within seconds, with nobody writing a policy; the restart after it is as
    if nothing had happened."""
    assert_written_again(enrolled(start, installed, pki), pki, lose)


def test_a_journal_that_was_removed_is_written_again(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """On every server."""
    assert_written_again(enrolled(start, server_kind, pki, io_threads=4), pki, remove)


def test_a_journal_that_cannot_be_written_again_is_told(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """While nothing is changed: in STATUS, the log and CERTAUTH.LOG, and its end as well."""
    server = enrolled(start, server_kind, pki)
    rename(server)
    directory(server).write_text("in the way")
    wait_until(lambda: status(server.admin())["journal"] != "ok", "STATUS says it", 15)
    wait_told(server, "journal", "cannot open the directory")
    assert server.admin().info("certauth")["certauth_journal"] == "lost"
    assert who(server, pki.alice) == "alice"
    directory(server).unlink()
    wait_until(lambda: status(server.admin())["journal"] == "ok", "it is mended", 15)
    assert told(server, "journal")[-1] == "the journal is as it should be again"
    patch(server.admin(), 1, 2, [f"+{bind(pki.bob, 'alice')}"])
    server.kill()
    server.start()
    assert who(server, pki.bob) == "alice"


def test_a_write_that_fails_is_in_the_servers_log(
    disk: Disk, installed: Server, start: Start, pki: Pki
) -> None:
    """Each reason once, however often it is tried."""
    server = enrolled(start, installed, pki)
    for _ in range(3):
        disk.fail("pwrite", errno.ENOSPC)
        with refused("JOURNAL .*No space left on device"):
            patch(server.admin(), 1, 2, ["+bind cn x alice"])
        disk.heal()
    wait_told(server, "journal", "No space left on device; the old policy stays in force")
    patch(server.admin(), 1, 2, ["+bind cn x alice"])


TMPFS = ("-t", "tmpfs", "-o", "size=256k,mode=0700", "none")


def fill_up(place: Path) -> Path:
    """A file that takes all that is left there."""
    made = place / "filled"
    with made.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return made


@pytest.mark.slow
def test_a_disk_that_is_full(server_kind: Server, start: Start, pki: Pki) -> None:
    """A real one: changes are refused, the policy stays in force, also over a restart; what comes
    when there is room again is kept."""
    server = enrolled(start, server_kind, pki)
    server.stop()
    rename(server)
    directory(server).mkdir()
    with mounted(directory(server), *TMPFS):
        shutil.copytree(server.directory / "away", directory(server), dirs_exist_ok=True)
        server.start()
        filled = fill_up(directory(server))
        with refused("JOURNAL .*No space left on device"):
            for number in range(1, 5000):  # what is left of the journal's last page
                patch(server.admin(), number, number + 1, [f"+bind cn x{number} alice"])
        kept = status(server.admin())["generation"]
        assert who(server, pki.alice) == "alice"
        server.kill()
        server.start()
        assert status(server.admin())["generation"] == kept
        assert who(server, pki.alice) == "alice"
        filled.unlink()
        patch(server.admin(), kept, kept + 1, [f"+{bind(pki.bob, 'alice')}"])
        server.kill()
        server.start()
        assert who(server, pki.bob) == "alice"
        server.kill()


@pytest.mark.slow
def test_a_file_system_that_comes_and_goes(server_kind: Server, start: Start, pki: Pki) -> None:
    """Mounted over the journal, and unmounted: each time the policy in force is written into what
    is there now, so that no older one comes true."""
    server = enrolled(start, server_kind, pki)
    patch(server.admin(), 1, 2, [f"+{bind(pki.bob, 'alice')}"])
    with mounted(directory(server), *TMPFS):
        wait_told(server, "journal", "the policy in force has been written there again")
        assert (directory(server) / "ca").is_dir()
        patch(server.admin(), 2, 3, [f"-{bind(pki.bob, 'alice')}"])
    wait_until(lambda: server.log.count("has been written there again") == 2, "once more", 15)
    server.kill()
    server.start()
    assert status(server.admin())["generation"] == 3
    assert turned_away(server, pki.bob) == "no_binding"


# ---- What tells a lost journal from a first install ----------------------------------------------


def leave_link(server: RedisServer) -> tuple[str, ...]:
    """Moved to a larger disk."""
    directory(server).rename(server.directory / "larger")
    directory(server).symlink_to("larger")
    return JOURNAL


def move(server: RedisServer) -> tuple[str, ...]:
    directory(server).rename(server.directory / "moved")
    return ("journal", "moved/")


def forget_marker(server: RedisServer) -> tuple[str, ...]:
    """Restored from a back-up of the directory alone."""
    (server.directory / "journal.enrolled").unlink()
    return JOURNAL


def lose_policy(place: Path) -> None:
    (place / "policy").unlink()


def lose_everything(place: Path) -> None:
    """The disk is not mounted: what is left is the link, or nothing."""
    shutil.rmtree(place)


@pytest.mark.parametrize("lose", [lose_policy, lose_everything], ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("relocate", [leave_link, move, forget_marker], ids=lambda do: do.__name__)
def test_a_journal_that_is_lost_after_a_move_is_no_first_install(
    installed: Server,
    start: Start,
    pki: Pki,
    relocate: Callable[[RedisServer], tuple[str, ...]],
    lose: Callable[[Path], None],
) -> None:
    """Anyone who moved it by hand, with the marker left behind: when it is lost later, nobody
    becomes `default`, as nobody does where it was never moved."""
    server = enrolled(start, installed, pki, DEFAULT_OFF)
    server.stop()
    server.module = relocate(server)
    place = (server.directory / server.module[1]).resolve()
    server.start()
    assert status(server.client(pki.alice))["journal"] == "ok"
    server.kill()
    lose(place)
    server.start()
    assert who(server, pki.bob) is None
    with pytest.raises(redis.AuthenticationError):
        server.admin().ping()
    assert "only the bootstrap file decides" in server.log


def test_a_marker_that_went_is_made_again(server_kind: Server, start: Start, pki: Pki) -> None:
    """While the server runs, and at a start; not where there never was a policy."""
    server = start(server_kind, module=JOURNAL)
    marker = server.directory / "journal.enrolled"
    load(server.admin(), 1, usual(pki))
    marker.unlink()
    wait_until(marker.exists, "it is back", 15)
    server.stop()
    marker.unlink()
    server.start()
    wait_until(marker.exists, "it is back")


# ---- The handshake's trust, and other settings ---------------------------------------------------


def managed(start: Start, kind: Server, pki: Pki) -> RedisServer:
    """A server that trusts nobody's clients but whom the policy names."""
    server = start(kind, module=JOURNAL, trust=[])
    server.admin().config_set("tls-ca-cert-dir", str(directory(server) / "ca"))
    load(server.admin(), 1, usual(pki))
    patch(server.admin(), 1, 2, ["+bind cn x alice"])  # has seen where tls-ca-cert-dir points
    assert who(server, pki.alice) == "alice"
    return server


def lose_ca_file(server: RedisServer, _: Any) -> None:
    next((directory(server) / "ca").iterdir()).unlink()


def lose_ca_directory(server: RedisServer, _: Any) -> None:
    shutil.rmtree(directory(server) / "ca")


def empty_ca_file(server: RedisServer, _: Any) -> None:
    next((directory(server) / "ca").iterdir()).write_bytes(b"")


def add_ca_file(server: RedisServer, line: bytes) -> None:
    """A CA that the policy does not name."""
    (directory(server) / "ca" / "0123abcd.0").write_bytes(line)


DAMAGES = (lose_ca_file, lose_ca_directory, empty_ca_file, add_ca_file)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_ca_directory_is_the_policys_again(
    installed: Server, start: Start, pki: Pki, damage: Callable[[RedisServer, bytes], None]
) -> None:
    """Within seconds, and told."""
    server = managed(start, installed, pki)
    before = {file.name: file.read_bytes() for file in (directory(server) / "ca").iterdir()}
    damage(server, root("CN=Stranger").pem)
    wait_told(server, "trust", "files were changed by hand")
    folder = directory(server) / "ca"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert status(server.admin())["trust"] == "managed"
    assert who(server, pki.alice) == "alice"


def test_trust_that_is_not_managed_any_more_is_told(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Somebody pointed tls-ca-cert-dir elsewhere: until now only STATUS had it."""
    server = managed(start, server_kind, pki)
    admin = server.admin()
    admin.config_set("tls-ca-cert-dir", str(server.directory))
    wait_told(server, "trust", "managed trust: not managed: tls-ca-cert-dir is")
    admin.config_set("tls-ca-cert-dir", str(directory(server) / "ca"))
    wait_until(lambda: told(server, "trust")[-1] == "managed trust: managed", "it is again")


@pytest.mark.parametrize("wanted", ["yes", "optional"])
def test_tls_client_auth_is_set_back(
    server_kind: Server, start: Start, pki: Pki, wanted: str
) -> None:
    """What the policy demands of the handshake outlives a CONFIG SET by hand; what the operator had
    before the policy comes back with its end."""
    server = enrolled(start, server_kind, pki, f"set tls-client-auth {wanted}")
    admin = server.admin()
    for _ in range(2):
        admin.config_set("tls-auth-clients", "no")
        wait_until(
            lambda: admin.config_get("tls-auth-clients")["tls-auth-clients"] == wanted, "it is back"
        )
    text = f"tls-auth-clients had been set to 'no' by hand: set back to '{wanted}'"
    assert [text in one for one in told(server, "setting")] == [True, True]
    assert who(server, pki.alice) == "alice"
    patch(admin, 1, 2, [f"-set tls-client-auth {wanted}"])
    assert admin.config_get("tls-auth-clients")["tls-auth-clients"] == "optional"


def test_a_server_that_is_pointed_at_the_directory_has_no_file_changed_by_hand(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """What the node writes there first is its own; what somebody removes later is told."""
    server = enrolled(start, server_kind, pki)
    admin, files = server.admin(), directory(server) / "ca"
    admin.config_set("tls-ca-cert-dir", str(files))
    wait_until(lambda: status(admin)["trust"] == "managed", "trust is managed", 15)
    assert "by hand" not in server.log
    next(files.iterdir()).unlink()
    wait_told(server, "trust", "files were changed by hand")


def test_a_door_that_was_opened_or_closed_by_hand_is_told(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Ports, addresses and the CAs of the handshake are the operator's: they are told, not set."""
    server = enrolled(start, server_kind, pki)
    admin, port = server.admin(), free_port()
    admin.config_set("tls-port", port)
    wait_told(server, "setting", f"tls-port was '{server.port}' and is '{port}' now")
    admin.config_set("bind", "127.0.0.1 -::1")
    wait_told(server, "setting", "bind was '127.0.0.1' and is '127.0.0.1 -::1' now")
    trust = server.directory / "other.pem"
    trust.write_bytes((server.directory / "trust.pem").read_bytes())
    admin.config_set("tls-ca-cert-file", str(trust))
    wait_told(server, "setting", "tls-ca-cert-file was")


def test_a_node_that_looks_at_itself_leaves_no_trace_of_it(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Not in SLOWLOG, where an operator logs all commands to see those of the clients. A setting
    is asked for again when CONFIG SET has changed it (and once a minute)."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin()
    wait_until(lambda: journal(server).exists(), "there is a journal")
    admin.config_set("slowlog-log-slower-than", 0)
    admin.slowlog_reset()
    remove(server)
    wait_until(lambda: journal(server).exists(), "the node has looked")
    assert not [command for command in slow(admin) if not command.startswith("SLOWLOG")]
    admin.config_set("maxclients", 5000)
    wait_until(lambda: "CONFIG GET maxclients" in slow(admin), "it asks after CONFIG SET")


def slow(admin: redis.Redis) -> list[str]:
    return [entry["command"].decode() for entry in admin.slowlog_get(128)]
