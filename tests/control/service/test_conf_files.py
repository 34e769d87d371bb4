"""A server's configuration as `node enrol` reads it: words, includes, who may read what, units."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.service.conf_files import (
    EnrolError,
    Person,
    another,
    configuration,
    directives,
    fault,
    setting,
    split,
    unit_of,
    unreadable,
)

# ---- Words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("port 0", ["port", "0"]),
        ("\tsave  ''\r", ["save", ""]),
        (r"requirepass a\b", ["requirepass", r"a\b"]),
        (r"""user "a\"b\x41" 'it\'s'""", ["user", 'a"bA', "it's"]),
        ('dir "/with blank"', ["dir", "/with blank"]),
        ('dir "/half', None),
        ("dir 'a'b", None),
        ("note a\u2028b", ["note", "a\u2028b"]),
    ],
)
def test_words_are_those_of_the_server(line: str, words: list[str] | None) -> None:
    """sdssplitargs in the server: a backslash counts within quotes alone."""
    assert split(line) == words


def test_a_line_that_the_server_cannot_read_is_named() -> None:
    """As in a file that was cut off; a comment may hold what it likes."""
    assert [line.words for line in directives("# don't\n\nport 0")] == [("port", "0")]
    with pytest.raises(EnrolError, match=r"redis.conf, line 2: a quote does not end"):
        list(directives('port 0\ndir "/var/li'))


def test_a_line_ends_where_the_server_sees_its_end() -> None:
    """Not where Unicode has one: `number` is that of the line in the file."""
    (line,) = [one for one in directives("# a\u2028b\x0c\nport 0\n") if one.words]
    assert (line.number, line.words) == (1, ("port", "0"))


# ---- Includes ------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/a.conf").write_text("port 1\n")
    (tmp_path / "conf.d/b.conf").write_text(f"port 2\ninclude {tmp_path}/deeper.conf\n")
    (tmp_path / "deeper.conf").write_text("dir /deep\n")
    return tmp_path / "redis.conf"


def test_included_files_count_where_they_are_included(conf: Path) -> None:
    """The last line counts, whichever file it is in."""
    include = f"include {conf.parent}/conf.d/*.conf\n"
    assert setting(configuration(conf, "port 3\n" + include), "port") == "2"
    assert setting(configuration(conf, include + "port 3\n"), "port") == "3"
    assert setting(configuration(conf, include), "dir") == "/deep"
    assert configuration(conf, f"include {conf.parent}/none/*.conf") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("include {}/circle.conf", "circle.conf, line 1: .*circle.conf includes itself"),
        ("include {}/redis.conf", "redis.conf includes itself"),
        ("include {}/missing.conf", "redis.conf, line 1: there is no file .*missing.conf"),
        ("include more.conf", "redis.conf, line 1: more.conf is seen from where the server starts"),
        ("include {}/users.conf", "users.conf, line 1: CONFIG REWRITE"),
        ("include {}/half.conf", "half.conf, line 1: a quote does not end"),
    ],
)
def test_includes_that_do_not_start_are_refused(conf: Path, line: str, message: str) -> None:
    for name, text in {
        "circle.conf": f"include {conf.parent}/circle.conf",
        "users.conf": "user bob on >pw ~* +@all",
        "half.conf": "dir '/var",
    }.items():
        (conf.parent / name).write_text(text)
    text = line.format(conf.parent)
    conf.write_text(text)
    with pytest.raises(EnrolError, match=message):
        configuration(conf, text)


# ---- Who reads it --------------------------------------------------------------------------------

STRANGER = Person(54321, frozenset([54322]))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody may enter, as all folders above it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_person_reads_by_owner_group_or_others(open_folder: Path) -> None:
    """As the kernel decides: of the three kinds of bits one alone counts; and all folders above."""
    file = open_folder / "key"
    file.write_text("x")
    us = file.stat()
    owner = Person(us.st_uid, frozenset([us.st_gid]))
    group = Person(54321, frozenset([us.st_gid]))
    for mode, person, word in (
        (0o604, STRANGER, ""),
        (0o600, STRANGER, "uid 54321, who the server runs as, may not read it"),
        (0o640, STRANGER, "may not read it"),
        (0o640, group, ""),
        (0o604, group, "may not read it"),
        (0o440, owner, ""),
        (0o000, Person(0, frozenset()), ""),
    ):
        file.chmod(mode)
        said = fault(person, file)
        assert (word in said, bool(said)) == (True, bool(word)), (oct(mode), person, said)
    file.chmod(0o644)
    open_folder.chmod(0o700)
    assert f"{open_folder} may not be entered" in fault(STRANGER, file)
    assert fault(owner, open_folder / "none") == f"there is no {open_folder}/none"


def test_what_a_server_opens_at_its_start(tmp_path: Path) -> None:
    """By the setting that counts; a relative path is seen from elsewhere, and passed over."""
    lines = list(directives(f"tls-key-file {tmp_path}/no\ntls-cert-file no\nlogfile /no\n"))
    (said,) = unreadable(lines, Person(0, frozenset()))
    assert said == f"tls-key-file {tmp_path}/no: there is no {tmp_path}/no"


# ---- The distribution's unit ---------------------------------------------------------------------

UNIT = """[Service]
ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no
ProtectHome=true
ProtectSystem=strict
ReadWritePaths=-/var/lib/redis
ReadWritePaths=-/var/log/redis
ReadWriteDirectories=-/etc/redis
NoExecPaths=/
ExecPaths=/usr/bin/redis-server /usr/lib /lib
"""  # what Debian 12 and 13 ship, of redis and of valkey
MODULE, JOURNAL = Path("/usr/lib/redis/modules/certauth.so"), Path("/var/lib/redis/certauth")


def test_the_distributions_unit_says_what_it_forbids(tmp_path: Path) -> None:
    """A module that it may not map, a journal that it may not write, and what a drop-in adds."""
    folder = tmp_path / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    (folder / "redis-server.service").write_text(UNIT)
    assert unit_of(Path("/etc/other.conf"), tmp_path) is None
    unit = unit_of(Path("/etc/redis/redis.conf"), tmp_path)
    assert unit
    assert list(unit.forbids(MODULE, JOURNAL)) == []
    local, elsewhere = Path("/usr/local/lib/certauth.so"), Path("/var/lib/certauth")
    said = list(unit.forbids(local, elsewhere))
    assert "no module from /usr/local/lib" in said[0]
    assert "nothing to /var/lib/certauth" in said[1]
    drop_in = tmp_path / "etc/systemd/system/redis-server.service.d"
    drop_in.mkdir(parents=True)
    (drop_in / "more.conf").write_text(
        "[Service]\nReadWritePaths=/var/lib/certauth\nExecPaths=/usr/local/lib\n"
    )
    unit = unit_of(Path("/etc/redis/redis.conf"), tmp_path)
    assert unit
    assert list(unit.forbids(local, elsewhere)) == []


TEMPLATE = UNIT.replace("redis.conf", "redis-%i.conf") + "ReadWritePaths=-/var/lib/redis-%i\n"


@pytest.mark.parametrize("name", ["redis-server@.service", "redis-server@cache.service"])
def test_an_instance_of_a_template_is_its_units(tmp_path: Path, name: str) -> None:
    """redis-server@.service with redis-%i.conf: what it forbids, with drop-ins of the instance or
    of all of them. The plain unit's configuration is another server's."""
    folder = tmp_path / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    (folder / "redis-server.service").write_text(UNIT)
    (folder / "redis-server@.service").write_text(TEMPLATE)
    assert unit_of(Path("/etc/redis/other.conf"), tmp_path) is None
    conf = Path("/etc/redis/redis-cache.conf")
    unit = unit_of(conf, tmp_path)
    assert unit
    assert unit.file.name == "redis-server@.service"
    assert list(unit.forbids(MODULE, JOURNAL)) == []
    assert list(unit.forbids(MODULE, Path("/var/lib/redis-cache/certauth"))) == []
    elsewhere = Path("/var/lib/redis-orders/certauth")
    assert "nothing to" in next(unit.forbids(MODULE, elsewhere))
    drop_in = tmp_path / f"etc/systemd/system/{name}.d"
    drop_in.mkdir(parents=True)
    (drop_in / "more.conf").write_text("[Service]\nReadWritePaths=/var/lib/redis-orders\n")
    unit = unit_of(conf, tmp_path)
    assert unit
    assert list(unit.forbids(MODULE, elsewhere)) == []
    plain = unit_of(Path("/etc/redis/redis.conf"), tmp_path)
    assert plain
    assert plain.file.name == "redis-server.service"


def test_a_journal_is_one_servers(tmp_path: Path) -> None:
    """Instances of a template share their `dir`; a relative path is seen from there."""
    mine, other = tmp_path / "redis-a.conf", tmp_path / "redis-b.conf"
    loads = "loadmodule /m/certauth.so journal {} bootstrap /b\n"
    mine.write_text("dir /d\n" + loads.format("/d/certauth"))
    (tmp_path / "broken.conf").write_text("requirepass 'x\n")
    assert another(mine, Path("/d/certauth")) is None
    for place in ("/d/certauth", "certauth"):
        other.write_text("dir /d\n" + loads.format(place))
        assert another(mine, Path("/d/certauth")) == other
        assert another(mine, Path("/d/certauth-a")) is None


def test_a_unit_without_a_sandbox_forbids_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    (folder / "mine.service").write_text("[Service]\nExecStart=/opt/redis-server /opt/r.conf\n")
    unit = unit_of(Path("/opt/r.conf"), tmp_path)
    assert unit
    assert list(unit.forbids(Path("/opt/certauth.so"), Path("/opt/journal"))) == []
