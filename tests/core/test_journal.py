"""The policy on disk: nothing acknowledged is lost, and nothing damaged is believed."""

import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.kit.journals import Journal, Refused

HEADER = b"certauth-journal 1\n"
ALICE = "bind subject CN=alice,O=acme alice"
BOB = "bind cn bob bob"
USER = "user alice on ~orders:* +@read"
NOTE = "was alice on ~old:* +@all"
ENFORCE = "set enforce on"

# A fresh interpreter: a fork would share this process's journal and the state of its core.
CONTEXT = multiprocessing.get_context("spawn")


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """A disk that is full past `size` bytes of a file (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def three_records(directory: Path) -> list[bytes]:
    """Writes a journal of three records and returns them."""
    with Journal(directory) as journal:
        journal.append(ALICE, USER, generation=5)
        journal.append(BOB, NOTE, generation=6)
        journal.append(ENFORCE, remove=(BOB,), generation=7)
    return records_of(directory)


def records_of(directory: Path) -> list[bytes]:
    body = (directory / "policy").read_bytes().removeprefix(HEADER)
    return [b"record " + part for part in body.split(b"record ")[1:]]


def sealed(*contents: bytes) -> bytes:
    """A journal of records whose checksums are right, whatever they say."""
    written, before = HEADER, bytes(32)
    for content in contents:
        before = hashlib.sha256(before + content).digest()
        written += content + b"end " + before.hex().encode() + b"\n"
    return written


def record(number: int, *lines: str, digest: str, count: int | None = None) -> bytes:
    head = f"record {number} generation {number + 4} epoch 2 owner prod/3 lines "
    head += f"{len(lines) if count is None else count} digest {digest}\n"
    return (head + "".join(line + "\n" for line in lines)).encode()


def digest_of(*lines: str) -> str:
    total = sum(int.from_bytes(hashlib.sha256(line.encode()).digest()) for line in lines)
    return f"{len(lines)}:{total % 2**256:064x}"


# ---- What was written is read ----


def test_a_journal_gives_back_what_was_appended(tmp_path: Path) -> None:
    """A policy, its digest, generation, epoch and owner survive a restart, the owner's blanks and
    quotes too."""
    with Journal(tmp_path) as journal:
        assert journal.empty
        assert journal.last == (0, 0, "")
        journal.append(ALICE, USER, BOB, generation=5)
        journal.append(ENFORCE, remove=(BOB,), generation=2**64 - 1, owner='a "b" \\ c\n')
        lines, digest = journal.lines, journal.digest
    with Journal(tmp_path) as journal:
        assert not journal.empty
        assert (journal.damage, journal.notice) == ("", "")
        assert journal.lines == lines == {ALICE, USER, ENFORCE}
        assert journal.digest == digest == digest_of(ALICE, USER, ENFORCE)
        assert journal.last == (2**64 - 1, 2, 'a "b" \\ c\n')


def test_the_file_is_text_in_the_documented_form(tmp_path: Path) -> None:
    """A person can read the file, and anybody can recompute its checksums."""
    contents = [each.split(b"end ")[0] for each in three_records(tmp_path)]
    assert contents == [
        record(1, "+" + ALICE, "+" + USER, digest=digest_of(ALICE, USER)),
        record(2, "+" + BOB, "+" + NOTE, digest=digest_of(ALICE, USER, BOB)),
        record(3, "-" + BOB, "+" + ENFORCE, digest=digest_of(ALICE, USER, ENFORCE)),
    ]
    assert sealed(*contents) == (tmp_path / "policy").read_bytes()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """The policy, its lock and a rewritten policy have the mode 0600 under any umask."""
    umask = os.umask(0)
    try:
        with Journal(tmp_path) as journal:
            assert modes(tmp_path) == {"policy": 0o600, "lock": 0o600}
            fill_until_rewritten(journal, tmp_path)
            assert modes(tmp_path) == {"policy": 0o600, "lock": 0o600}
    finally:
        os.umask(umask)


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_a_change_without_lines_still_moves_the_generation(tmp_path: Path) -> None:
    """A LOAD of what is in force already is remembered by its generation."""
    with Journal(tmp_path) as journal:
        journal.append(ALICE, generation=1)
        journal.append(generation=2)
    with Journal(tmp_path) as journal:
        assert journal.last[0] == 2
        assert journal.lines == {ALICE}


# ---- A torn tail ----


def test_a_record_cut_at_any_byte_is_the_state_before_it_and_never_damage(tmp_path: Path) -> None:
    """A crash at any byte of the last record leaves the policy before it, or after it once all
    bytes are there; the rest is cut off, reported, and records follow."""
    three_records(tmp_path)
    file = tmp_path / "policy"
    whole = file.read_bytes()
    start = whole.rindex(b"record ")
    before, after = {ALICE, USER, BOB, NOTE}, {ALICE, USER, NOTE, ENFORCE}
    for size in range(start, len(whole) + 1):
        file.write_bytes(whole[:size])
        with Journal(tmp_path) as journal:
            assert journal.damage == ""
            assert journal.lines == (after if size == len(whole) else before)
            assert journal.last[0] == (7 if size == len(whole) else 6)
            torn = size not in (start, len(whole))
            expected = f"dropped {size - start} bytes at byte {start} of {file}"
            assert journal.notice.startswith(expected) if torn else journal.notice == ""
            journal.append("bind cn carol carol", generation=8)
        with Journal(tmp_path) as journal:
            assert "bind cn carol carol" in journal.lines
            assert (journal.damage, journal.notice) == ("", "")


def test_a_first_record_cut_at_any_byte_is_a_first_install(tmp_path: Path) -> None:
    """A server that dies during its first write, even in the header, starts as if it had not
    begun."""
    file = tmp_path / "policy"
    with Journal(tmp_path) as journal:
        journal.append(ALICE)
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with Journal(tmp_path) as journal:
            assert journal.damage == ""
            assert journal.empty
            assert journal.lines == set()
            journal.append(BOB)
        with Journal(tmp_path) as journal:
            assert journal.lines == {BOB}


def test_zeros_that_a_file_system_left_at_the_end_are_a_torn_tail(tmp_path: Path) -> None:
    """A file made longer before its bytes came (a power cut) holds NULs there, which no writer
    wrote."""
    three_records(tmp_path)
    file = tmp_path / "policy"
    whole = file.read_bytes()
    for cut in (len(whole), len(whole) - 100, whole.rindex(b"record ") + 3):
        file.write_bytes(whole[:cut] + bytes(5000))
        with Journal(tmp_path) as journal:
            assert journal.damage == ""
            assert journal.last[0] == (7 if cut == len(whole) else 6)
            assert journal.notice.startswith("dropped ")


# ---- Damage ----


def assert_damaged(directory: Path, *words: str) -> None:
    """The journal opens empty, says all of `words`, takes nothing, and leaves the file alone."""
    content = (directory / "policy").read_bytes()
    with Journal(directory) as journal:
        for word in words:
            assert word in journal.damage
        assert journal.damage
        assert not journal.empty
        assert journal.lines == set()
        assert journal.digest == digest_of()
        assert journal.last == (0, 0, "")
        with pytest.raises(Refused, match="the journal takes no change: "):
            journal.append(ALICE)
    assert (directory / "policy").read_bytes() == content


# Every ninth bit, which is one of each byte or so; or all of them.
each_bit = pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])


@each_bit
def test_a_bit_flipped_in_an_earlier_record_is_damage(tmp_path: Path, step: int) -> None:
    """No flipped bit before the last record, whichever it is, gives a policy."""
    three_records(tmp_path)
    file = tmp_path / "policy"
    whole = file.read_bytes()
    for bit in range(0, 8 * whole.rindex(b"record "), step):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        assert_damaged(tmp_path)


@each_bit
def test_a_bit_flipped_in_the_last_record_never_gives_another_policy(
    tmp_path: Path, step: int
) -> None:
    """A flip in the last record is damage. In a newline it may look like a cut, as which it gives
    the policy before that record."""
    three_records(tmp_path)
    file = tmp_path / "policy"
    whole = file.read_bytes()
    for bit in range(8 * whole.rindex(b"record "), 8 * len(whole), step):
        changed, at = bytearray(whole), bit // 8
        changed[at] ^= 1 << bit % 8
        file.write_bytes(changed)
        if whole[at] != ord("\n"):
            assert_damaged(tmp_path)
            continue
        with Journal(tmp_path) as journal:
            before = set() if journal.damage else {ALICE, USER, BOB, NOTE}
            assert journal.damage or journal.notice
            assert journal.lines == before


def test_damage_names_the_record_its_generation_and_what_to_do(tmp_path: Path) -> None:
    """The report says where to look and how to get out."""
    first, second, third = three_records(tmp_path)
    file = tmp_path / "policy"
    file.write_bytes(HEADER + first + second.replace(b"cn bob", b"cn rob") + third)
    at = len(HEADER + first)
    assert_damaged(tmp_path, f"record 2 (generation 6) at byte {at} of {file} is damaged: ")
    assert_damaged(
        tmp_path, "its checksum is wrong", "Restore the file from a backup", "move it away"
    )
    file.write_bytes(HEADER + first + second.replace(b" generation", b" degeneration") + third)
    assert_damaged(tmp_path, "record 2 (after generation 5)", "its first line cannot be read")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((1, 2), "it calls itself record 2: a record was removed, moved or repeated"),
        ((0, 2), "it calls itself record 3"),
        ((0, 2, 1), "it calls itself record 3"),
        ((0, 1, 1, 2), "it calls itself record 2"),
        ((0, 0, 1, 2), "it calls itself record 1"),
    ],
)
def test_a_record_removed_moved_or_repeated_is_damage(
    tmp_path: Path, order: tuple[int, ...], words: str
) -> None:
    """Whole records, each unchanged, are not believed out of their order."""
    records = three_records(tmp_path)
    (tmp_path / "policy").write_bytes(HEADER + b"".join(records[i] for i in order))
    assert_damaged(tmp_path, words)


def test_a_record_renumbered_to_hide_a_removed_one_is_damage(tmp_path: Path) -> None:
    """The chain of hashes finds what the numbers do not."""
    first, _, third = three_records(tmp_path)
    (tmp_path / "policy").write_bytes(HEADER + first + third.replace(b"record 3", b"record 2"))
    assert_damaged(tmp_path, "its checksum is wrong")


@pytest.mark.parametrize("header", [b"certauth-journal 2\n", b"REDIS0011\xfa\tredis-ver\n", b"\n"])
def test_an_unknown_header_is_damage(tmp_path: Path, header: bytes) -> None:
    """A file of another program, or of a later version, is neither read nor overwritten."""
    records = three_records(tmp_path)
    (tmp_path / "policy").write_bytes(header + b"".join(records))
    assert_damaged(tmp_path, "the first line of", 'is not "certauth-journal 1"')


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (record(1, "+" + ALICE, digest=digest_of(BOB)), "its lines give the digest 1:"),
        (record(1, "+" + NOTE, digest=digest_of(NOTE)), "its lines give the digest 0:"),
        (record(1, "+bind cn", digest=digest_of()), "line 1: "),
        (
            record(1, "+bind later x bob", digest=digest_of()),
            "not: 'later'. If a newer module wrote it, put that module back. Restore",
        ),
        (
            record(1, "+" + ALICE, "-" + BOB, digest=digest_of(ALICE)),
            "line 2: the policy does not hold",
        ),
        (record(1, "+limit -@admin", digest=digest_of()), "line 1: "),
        (record(1, ALICE, digest=digest_of(ALICE)), "line 1 of its 1 does not start with + or -"),
        (record(1, "", digest=digest_of()), "line 1 of its 1 does not start with + or -"),
        (record(1, "+" + ALICE, count=0, digest=digest_of()), "its `end` line is missing"),
        (record(1, "+" + ALICE, count=2, digest=digest_of()), "line 2 of its 2 does not start"),
        (record(1, "+" + ALICE, digest=""), "its first line cannot be read"),
        (record(1, count=2**64, digest=digest_of()), "its first line cannot be read"),
        (
            record(1, "+user a on ~" + 131072 * "k", digest=digest_of()),
            "a line is longer than 131073",
        ),
        (b"record 1" + 2000 * b" " + b"\n", "a line is longer than 1024 bytes"),
    ],
)
def test_a_record_with_a_right_checksum_and_wrong_content_is_damage(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """Who edits the file and mends its checksum still does not get a policy that it does not
    describe."""
    (tmp_path / "policy").write_bytes(sealed(content))
    assert_damaged(tmp_path, words)


def test_a_record_with_a_right_checksum_and_right_content_is_read(tmp_path: Path) -> None:
    """The records of the test above are refused for what they say, not for how they are made."""
    first = record(1, "+" + ALICE, "+" + NOTE, digest=digest_of(ALICE))
    second = record(2, "-" + ALICE, "+" + BOB, digest=digest_of(BOB))
    (tmp_path / "policy").write_bytes(sealed(first, second))
    with Journal(tmp_path) as journal:
        assert journal.damage == ""
        assert journal.lines == {BOB, NOTE}


def test_damage_in_the_middle_keeps_nothing_of_the_records_before(tmp_path: Path) -> None:
    """Half a journal is not a policy: the missing half may hold the revocations."""
    first, second, third = three_records(tmp_path)
    (tmp_path / "policy").write_bytes(
        HEADER + first + second + third.replace(b"enforce on", b"enforce off")
    )
    assert_damaged(tmp_path, "record 3 ")


# ---- The lock ----


def hold(directory: Path, say: Connection) -> None:
    """A server with a child that saves the data set: the child inherits all descriptors."""
    journal = Journal(directory)
    journal.append(ALICE)
    child = os.fork()
    if child == 0:
        signal.pause()
    say.send(child)
    signal.pause()


def test_two_processes_cannot_hold_one_journal(tmp_path: Path) -> None:
    """The second opener is told who holds it, and gets it when that one is gone, even killed, even
    while a forked child of it lives on."""
    hear, say = CONTEXT.Pipe(duplex=False)
    holder = CONTEXT.Process(target=hold, args=(tmp_path, say))
    holder.start()
    child = hear.recv()
    try:
        with pytest.raises(
            Refused, match=rf"another server \(process {holder.pid}\) holds {tmp_path}"
        ):
            Journal(tmp_path)
        holder.kill()
        holder.join()
        os.kill(child, 0)
        with Journal(tmp_path) as journal:
            assert journal.lines == {ALICE}
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_process_cannot_open_two_journals(tmp_path: Path) -> None:
    """Closing the second would release the lock of the first; after a close the next is taken."""
    with Journal(tmp_path), pytest.raises(Refused, match="this process has a journal open"):
        Journal(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append(ALICE)


# ---- What the disk refuses ----


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong path in the configuration is told with the system's reason, and holds no lock."""
    with pytest.raises(Refused, match=r"cannot find the directory .*/nowhere: No such file"):
        Journal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"cannot open the directory .*/file: Not a directory"):
        Journal(tmp_path / "file")
    with Journal(tmp_path) as journal:
        assert journal.empty


def test_a_policy_file_that_is_a_link_or_a_directory_is_refused(tmp_path: Path) -> None:
    """A planted link does not make the server write elsewhere."""
    (tmp_path / "policy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match=r"cannot open .*/policy: Too many levels of symbolic links"):
        Journal(tmp_path)
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "policy").unlink()
    (tmp_path / "policy").mkdir()
    with pytest.raises(Refused, match=r"cannot open .*/policy: Is a directory"):
        Journal(tmp_path)


@pytest.mark.parametrize("room", [0, 1, 100, 70_000])
def test_a_full_disk_refuses_the_change_and_keeps_the_policy(tmp_path: Path, room: int) -> None:
    """The system's reason is given, the file is what it was, and once there is room again the same
    change is taken."""
    file = tmp_path / "policy"
    big = "user big on ~" + 100_000 * "k"
    with Journal(tmp_path) as journal:
        journal.append(ALICE, generation=1)
        before = file.read_bytes()
        with (
            longest_file(len(before) + room),
            pytest.raises(Refused, match=r"cannot write the change to .*/policy: File too large"),
        ):
            journal.append(big, generation=2)
        assert file.read_bytes() == before
        assert journal.lines == {ALICE}
        journal.append(big, generation=2)
    with Journal(tmp_path) as journal:
        assert journal.damage == ""
        assert journal.lines == {ALICE, big}
        assert journal.last[0] == 2


def test_a_full_disk_at_the_very_first_record_leaves_a_first_install(tmp_path: Path) -> None:
    """No header stays without a record, and a record never comes without the header."""
    with Journal(tmp_path) as journal:
        with longest_file(30), pytest.raises(Refused, match="File too large"):
            journal.append(ALICE)
        assert journal.empty
        assert (tmp_path / "policy").read_bytes() == b""
        journal.append(ALICE)
    with Journal(tmp_path) as journal:
        assert journal.lines == {ALICE}


def test_a_write_that_cannot_be_taken_back_is_not_followed_by_another(tmp_path: Path) -> None:
    """Where even the truncation fails nobody knows what the file holds: what follows goes to
    another file, behind the policy that is in force."""
    file = tmp_path / "policy"
    with Journal(tmp_path) as journal:
        journal.append(ALICE)
        descriptors = Path("/proc/self/fd")
        (mine,) = [
            int(fd.name) for fd in descriptors.iterdir() if fd.exists() and fd.samefile(file)
        ]
        read_only = os.open(file, os.O_RDONLY)
        os.dup2(read_only, mine)
        os.close(read_only)
        with pytest.raises(Refused, match=r"cannot write the change to .*: Bad file descriptor"):
            journal.append(BOB)
        assert "cannot take back a part of a record" in journal.damage
        journal.append(USER)
        assert not journal.damage
    with Journal(tmp_path) as journal:
        assert journal.lines == {ALICE, USER}


def remove_file(directory: Path) -> None:
    (directory / "policy").unlink()


def remove_all(directory: Path) -> None:
    shutil.rmtree(directory)


def rename_away(directory: Path) -> None:
    directory.rename(directory.with_name("away"))


def replace_directory(directory: Path) -> None:
    rename_away(directory)
    shutil.copytree(directory.with_name("away"), directory)


def truncate(directory: Path) -> None:
    (directory / "policy").write_bytes(b"")


def cut(directory: Path) -> None:
    (directory / "policy").write_bytes((directory / "policy").read_bytes()[:-1])


def lengthen(directory: Path) -> None:
    with (directory / "policy").open("ab") as file:
        file.write(b"+bind cn eve admin\n")


def leave_a_link(directory: Path) -> None:
    (directory / "policy").rename(directory.with_name("elsewhere"))
    (directory / "policy").symlink_to(directory.with_name("elsewhere"))


def leave_a_directory(directory: Path) -> None:
    (directory / "policy").unlink()
    (directory / "policy" / "x").mkdir(parents=True)


LOSSES = (
    remove_file, remove_all, rename_away, replace_directory, truncate, cut, lengthen, leave_a_link,
    leave_a_directory,
)  # fmt: skip


@pytest.mark.parametrize("how", ["look", "append"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_journal_that_is_lost_is_written_again(tmp_path: Path, lose: Any, how: str) -> None:
    """From memory, whole: at a look, and with the change that meets the loss. What stood there
    instead is kept, and believed by nobody."""
    directory = tmp_path / "journal"
    directory.mkdir()
    with Journal(directory) as journal:
        journal.append(ALICE, generation=5)
        journal.append(USER, generation=6)
        lose(directory)
        stranger = (directory / "policy").is_dir() or lose in (cut, lengthen, leave_a_link)
        journal.look() if how == "look" else journal.append(BOB, generation=7)
        assert "has been written there again" in journal.notice
        assert os.path.lexists(directory / "policy.found") == (
            stranger or lose is replace_directory
        )
        assert os.path.samestat(os.stat(directory / "lock"), os.fstat(lock_of(directory)))
        journal.look()
        assert not journal.notice
        if how == "look":
            journal.append(BOB, generation=7)
        expected = journal.lines
    with Journal(directory) as journal:
        assert journal.lines == expected == {ALICE, USER, BOB}
        assert journal.last == (7, 2, "prod/3")


def lock_of(directory: Path) -> int:
    """The descriptor by which this process holds the lock. (To open the file and close it again
    would release it.)"""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == str(directory / "lock"):
                return int(name)
    raise AssertionError("no lock is held")


def hold_journal(directory: Path, talk: Connection) -> None:
    with Journal(directory):
        talk.send("held")
        talk.recv()


def test_a_journal_whose_directory_another_server_has_taken_is_left_alone(tmp_path: Path) -> None:
    """What was lost is not written over a journal that somebody else keeps by now."""
    directory = tmp_path / "journal"
    directory.mkdir()
    with Journal(directory) as journal:
        journal.append(ALICE)
        rename_away(directory)
        directory.mkdir()
        ready, child = CONTEXT.Pipe()
        other = CONTEXT.Process(target=hold_journal, args=(directory, child))
        other.start()
        assert ready.recv() == "held"
        for call in (journal.look, lambda: journal.append(BOB)):
            with pytest.raises(Refused, match=f"another server .process {other.pid}. holds"):
                call()
        ready.send("go")
        other.join()
        assert not (directory / "policy").read_bytes()
        journal.look()
    with Journal(directory) as journal:
        assert journal.lines == {ALICE}


def test_before_the_first_policy_a_file_that_came_is_not_replaced(tmp_path: Path) -> None:
    """It may be a back-up that somebody means to start from; nothing of ours is lost."""
    directory, backup = tmp_path / "journal", tmp_path / "backup"
    directory.mkdir()
    backup.mkdir()
    with Journal(backup) as journal:
        journal.append(ALICE)
    with Journal(directory) as journal:
        remove_file(directory)
        journal.look()
        assert journal.empty
        shutil.copy(backup / "policy", directory)
        with pytest.raises(Refused, match="it came after the server had started"):
            journal.look()
    with Journal(directory) as journal:
        assert journal.lines == {ALICE}


def test_a_journal_that_could_not_be_written_to_is_told_before_a_change_comes(
    tmp_path: Path,
) -> None:
    """A directory whose parent is gone, a name that something else has."""
    directory = tmp_path / "above" / "journal"
    directory.mkdir(parents=True)
    with Journal(directory) as journal:
        journal.append(ALICE)
        shutil.rmtree(tmp_path / "above")
        with pytest.raises(Refused, match="cannot find .*; and cannot make the directory"):
            journal.look()
        directory.parent.mkdir()
        directory.write_text("a file")
        with pytest.raises(Refused, match="cannot find .*; and cannot open the directory"):
            journal.look()
        directory.unlink()
        journal.look()
    with Journal(directory) as journal:
        assert journal.lines == {ALICE}


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONFIG SET dir moves the server's working directory, not its journal."""
    (tmp_path / "journal").mkdir()
    monkeypatch.chdir(tmp_path)
    with Journal(Path("journal")) as journal:
        monkeypatch.chdir("/")
        journal.append(ALICE)
    with Journal(tmp_path / "journal") as journal:
        assert journal.lines == {ALICE}


# ---- Rewriting ----


def toggle(journal: Journal, generation: int) -> None:
    if BOB in journal.lines:
        journal.append(remove=(BOB,), generation=generation)
    else:
        journal.append(BOB, generation=generation)


def fill_until_rewritten(journal: Journal, directory: Path) -> int:
    """Sets and unsets one line until the file has become shorter; the last generation."""
    size = 0
    journal.append(ALICE, NOTE, generation=1)
    for generation in range(2, 1000):
        toggle(journal, generation)
        now = (directory / "policy").stat().st_size
        if now < size:
            return generation
        size = now
    raise AssertionError("the file was never rewritten")


def test_a_long_journal_is_rewritten_as_one_record(tmp_path: Path) -> None:
    """Changes that cancel out do not make the file grow for ever, and the short file says the same,
    notes included, which stay outside the digest."""
    with Journal(tmp_path) as journal:
        last = fill_until_rewritten(journal, tmp_path)
        lines, digest = journal.lines, journal.digest
    assert last > 300
    whole, change = records_of(tmp_path)
    assert whole.startswith(b"record 1 generation %d " % (last - 1))
    assert change.startswith(b"record 2 generation %d " % last)
    assert b"+" + NOTE.encode() in whole.splitlines()
    assert NOTE in lines
    assert digest == digest_of(*(lines - {NOTE}))
    with Journal(tmp_path) as journal:
        assert (journal.damage, journal.notice) == ("", "")
        assert journal.lines == lines
        assert journal.digest == digest
        assert journal.last == (last, 2, "prod/3")
        journal.append("bind cn carol carol", generation=last + 1)
    with Journal(tmp_path) as journal:
        assert journal.lines == lines | {"bind cn carol carol"}


def test_a_policy_of_many_lines_is_not_rewritten_for_being_long(tmp_path: Path) -> None:
    """What counts is the lines in the file against the lines in force."""
    with Journal(tmp_path) as journal:
        journal.append(*(f"bind cn u{i} u{i}" for i in range(3000)), generation=1)
        for generation in range(2, 300):
            journal.append(f"bind cn v{generation} v", generation=generation)
    assert len(records_of(tmp_path)) == 299


def test_a_crash_in_a_rewrite_leaves_the_journal_in_force(tmp_path: Path) -> None:
    """A `policy.new` that was left behind, whatever it holds, is swept away unread."""
    records = three_records(tmp_path)
    (tmp_path / "policy.new").write_bytes(HEADER + records[0])
    with Journal(tmp_path) as journal:
        assert journal.damage == ""
        assert journal.lines == {ALICE, USER, NOTE, ENFORCE}
        assert not (tmp_path / "policy.new").exists()


def test_a_rewrite_that_fails_does_not_refuse_the_change(tmp_path: Path) -> None:
    """A disk without room for a second copy still takes a revocation; the reason goes to the log,
    and the next try comes 1,000 lines later, not with each change."""
    (tmp_path / "policy.new").mkdir()
    notices = []
    with Journal(tmp_path) as journal:
        for generation in range(1, 1101):
            toggle(journal, generation)
            if journal.notice:
                notices.append(journal.notice)
    assert len(notices) == 3
    assert "the journal stays as long as it is: cannot create a new copy of" in notices[0]
    assert "File exists" in notices[0]
    with Journal(tmp_path) as journal:
        assert journal.damage == ""
        assert journal.last[0] == 1100
        assert journal.lines == set()


# ---- kill -9 ----

KEPT = 3  # lines in force: with so few, the journal is rewritten every 250 records or so


def line_of(generation: int) -> str:
    """Now and then longer than what is written at a time, so that a kill can fall between."""
    return f"user u{generation} on ~" + (100_000 if generation % 7 == 0 else 10) * "k"


def state_at(generation: int) -> set[str]:
    return {line_of(g) for g in range(max(1, generation - KEPT + 1), generation + 1)}


def append_for_ever(directory: Path, say: Connection) -> None:
    with Journal(directory) as journal:
        generation = journal.last[0]
        while True:
            generation += 1
            gone = (line_of(generation - KEPT),) if generation > KEPT else ()
            journal.append(line_of(generation), remove=gone, generation=generation)
            say.send(generation)


def test_nothing_acknowledged_is_lost_whenever_the_server_is_killed(tmp_path: Path) -> None:
    """A process killed at random moments of its appends leaves each time exactly the policy of a
    generation, and none older than the last acknowledged one."""
    rounds = random.Random(7)
    reached = 0
    for _ in range(20):
        hear, say = CONTEXT.Pipe(duplex=False)
        writer = CONTEXT.Process(target=append_for_ever, args=(tmp_path, say))
        writer.start()
        say.close()
        acknowledged = [hear.recv() for _ in range(rounds.randint(1, 60))]
        writer.kill()
        writer.join()
        try:
            while True:
                acknowledged.append(hear.recv())
        except EOFError:
            hear.close()
        with Journal(tmp_path) as journal:
            assert journal.damage == ""
            reached = journal.last[0]
            assert acknowledged[-1] <= reached <= acknowledged[-1] + 1
            assert journal.lines == state_at(reached)
    assert reached >= 20
