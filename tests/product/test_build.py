"""What build.py makes: hardened, with no name that a server could trip over, and the same bytes
wherever and whenever it is made."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.kit.support import ROOT

MODULE, CORE = ROOT / "module/certauth.so", ROOT / "control/_core.abi3.so"
EXPORTS = {
    MODULE: {"RedisModule_OnLoad"},
    CORE: {"PyInit__core"},
}
both = pytest.mark.parametrize("product", EXPORTS, ids=lambda path: path.name)


def readelf(product: Path, *options: str) -> str:
    command = ["readelf", "--wide", *options, product]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@both
def test_what_is_resolved_at_the_start_is_read_only_then(product: Path) -> None:
    """Full RELRO: nothing is bound later, and the table of addresses is not written to."""
    assert re.search(r"^ *GNU_RELRO ", readelf(product, "--segments"), re.MULTILINE)
    assert re.search(r"\((?:FLAGS_1|BIND_NOW|FLAGS)\).*\bNOW\b", readelf(product, "--dynamic"))


@both
def test_no_memory_is_written_to_and_executed(product: Path) -> None:
    """Neither the stack nor a segment, and no code is patched when it is loaded."""
    segments = readelf(product, "--segments")
    (stack,) = re.findall(r"^ *GNU_STACK .* (\S+) +0x\w+$", segments, re.MULTILINE)
    assert stack == "RW"
    assert not re.search(r"^ *LOAD .*\bRWE\b", segments, re.MULTILINE)
    assert "TEXTREL" not in readelf(product, "--dynamic")


@both
def test_overruns_are_caught(product: Path) -> None:
    """The stack protector's and _FORTIFY_SOURCE's functions are called."""
    symbols = readelf(product, "--dyn-syms")
    assert "__stack_chk_fail" in symbols
    assert re.search(r"UND \w+_chk\b", symbols.replace("__stack_chk_fail", ""))


@both
def test_it_exports_what_is_called_from_outside_and_no_more(product: Path) -> None:
    """A server has hundreds of names that ours must not meet."""
    symbols = readelf(product, "--dyn-syms")
    defined = re.findall(r" (?:GLOBAL|WEAK) +\w+ +(?!UND)\S+ (\w+)", symbols)
    assert set(defined) == EXPORTS[product]


# They return memory that libc has allocated.
ALLOCATE = {
    *("strdup", "strndup", "getline", "getdelim", "asprintf", "vasprintf", "scandir", "tempnam"),
    *("open_memstream", "canonicalize_file_name", "get_current_dir_name"),
}


def test_no_function_of_libc_allocates_what_the_module_would_free() -> None:
    """Valkey 8.1 and later load modules with RTLD_DEEPBIND: free() in the module is libc's, and
    what libc allocates by itself comes from the server's allocator. By whatever name, or by NULL
    for a buffer."""
    imported = set(re.findall(r"UND (\w+)", readelf(MODULE, "--dyn-syms")))
    plain = {name.strip("_").removesuffix("_chk") for name in imported}
    assert "realpath" in plain  # it is read
    assert plain.isdisjoint(ALLOCATE)
    named = rf"\b(?:{'|'.join(sorted(ALLOCATE))})\((?!3\))"
    for path in (ROOT / "module").rglob("*.c"):
        text = path.read_text()
        assert not re.search(named, text), path
        assert not re.search(r"\brealpath\s*\([^;]*,\s*NULL\s*\)", text), path
        assert not re.search(r"\bgetcwd\s*\(\s*NULL\b", text), path


def made_in(folder: Path) -> dict[str, bytes]:
    """The products of a copy of the tree."""
    folder.mkdir(parents=True)
    for name in ("module", "control"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__*"))
    for name in ("build.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "build.py"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=200)
    return {path.name: (folder / path.relative_to(ROOT)).read_bytes() for path in EXPORTS}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    """In folders of different names and depths, one after the other."""
    assert made_in(tmp_path / "a") == made_in(tmp_path / "somewhere" / "else")


def test_the_lock_fits_the_project() -> None:
    """constraints.txt has a hash for each release, and a release that pyproject.toml takes."""
    text = (ROOT / "constraints.txt").read_text()
    lock = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.M))
    assert len(lock) == text.count("==")
    pinned = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]:
        wanted = Requirement(line)
        assert pinned[wanted.name.lower()] in wanted.specifier, line
