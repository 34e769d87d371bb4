"""Fixtures: `pki`, `server_kind` (each server there is), `start` (makes running servers)."""

import importlib.util
import os
import re
import shutil
import ssl
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.routing import Rule

from tests.kit import support
from tests.kit.servers import Server, Unavailable, servers, survey
from tests.kit.support import Pki, RedisServer

# The tests' own clients take certificates as all Pythons did before 3.13, since those of the tests
# are of every kind; control/http/verify.py is what the product does.
_plain_context = ssl.create_default_context


def _lenient_context(*words: Any, **more: Any) -> ssl.SSLContext:
    made = _plain_context(*words, **more)
    made.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    return made


ssl.create_default_context = _lenient_context

# An application compiles two functions for each of its routes, which is most of what making one
# costs; a route's functions are the same in the next application.
_compile_builder = Rule._compile_builder
_builders: dict[tuple[str, bool], Callable[..., tuple[str, str]]] = {}


def _remembered_builder(route: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
    key = (route.rule, append_unknown)
    if key not in _builders:
        _builders[key] = _compile_builder(route, append_unknown)
    return _builders[key]


Rule._compile_builder = _remembered_builder  # type: ignore[assignment, method-assign]


def use_core(folder: str) -> None:
    """Puts the core of another build (`build/sanitize`) in place of control._core."""
    path = support.ROOT / folder / "control" / "_core.abi3.so"
    spec = importlib.util.spec_from_file_location("control._core", path)
    assert spec
    assert spec.loader
    sys.modules["control._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["control._core"])


if "CERTAUTH_BUILD" in os.environ:
    use_core(os.environ["CERTAUTH_BUILD"])

# Only `make test-all` brings a browser, and all of its tests are slow.
HASH = re.compile(r"\b[0-9A-Fa-f]{64}\b")
collect_ignore_glob = [] if importlib.util.find_spec("playwright") else ["ui/test_ui_browser*.py"]
# Imported after this file: with that core.
pytest_plugins = [
    "tests.kit.fixtures",
    "tests.kit.chromium",
    "tests.kit.command_line",
    "tests.kit.faults",
    "tests.kit.site",
    "tests.kit.tls_client",
]


@pytest.fixture(scope="session", autouse=True)
def plain_curl() -> Iterator[None]:
    """curl waits for ever in setlocale(3) beside the preloaded ASan, which is not for it: tests and
    scripts then find one that leaves it out."""
    curl = shutil.which("curl")
    if curl is None or "libasan" not in os.environ.get("LD_PRELOAD", ""):
        yield
        return
    folder = Path(tempfile.mkdtemp(dir=support.scratch()))
    (folder / "curl").write_text(f'#!/bin/sh\nexec env -u LD_PRELOAD {curl} "$@"\n')
    (folder / "curl").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names of tests are the same in each process of pytest-xdist, which makes keys of its own."""
    return HASH.sub("hash", val) if isinstance(val, str) and HASH.search(val) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" not in metafunc.fixturenames:
        return
    kinds = servers()
    few = metafunc.definition.get_closest_marker("few_servers") is not None
    marks = {kind: [pytest.mark.servers] for kind in kinds}
    between = kinds[1:-1]
    # One of those between, another one for each test, so that each server is seen in each run.
    number = zlib.crc32(metafunc.definition.nodeid.encode())
    quick = [] if few or not between else [between[number % len(between)]]
    for kind in between:
        marks[kind] += [] if kind in quick else [pytest.mark.slow]
    params = [pytest.param(kind, id=str(kind), marks=marks[kind]) for kind in kinds]
    metafunc.parametrize("server_kind", params, scope="session")


def pytest_xdist_auto_num_workers() -> int:
    """Tests also wait: for timers of servers, and for deadlines."""
    return (os.cpu_count() or 1) + 1


def pytest_report_header() -> str:
    try:
        there, broken = survey()
        return "\n".join([f"servers: {', '.join(map(str, there))}", *broken])
    except Unavailable as problem:
        return f"servers: {problem}"


@pytest.fixture(scope="session")
def installed() -> Server:
    """The installed server, for tests that need only one."""
    return servers()[0]


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()


@pytest.fixture
def start(pki: Pki) -> Iterator[Callable[..., RedisServer]]:
    """`start(server_kind, **options)`: a running server, stopped after the test. The options are
    those of RedisServer."""
    made: list[RedisServer] = []

    def make(kind: Server, **options: Any) -> RedisServer:
        made.append(RedisServer(kind, options.pop("pki", pki), **options))
        return made[-1].start()

    yield make
    for server in made:
        server.stop()


# ---- Reports and tidiness ------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup() -> None:
    support.started[:] = [server for server in support.started if server.running]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        for server in support.started:
            title = f"log of {server.server} on port {server.port}"
            report.sections.append((title, server.log[-20_000:]))  # type: ignore[attr-defined]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing is left running or lying about; a test that leaves something fails the session."""
    left = [server for server in support.started if server.running]
    for server in left:
        server.kill()
    support.remove_scratch()
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nleft running, and now stopped: {', '.join(str(one.server) for one in left)}")
