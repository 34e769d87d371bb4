"""Builds the two products of one core, so that the server, the control plane and the tests run the
same decision:

    module/certauth.so        the Redis module: a plain shared library without a Python symbol
    control/_core.abi3.so     the same C files for Python, through cffi

`python build.py` makes what is out of date and prints both paths. `--sanitize` makes both under
ASan and UBSan in build/sanitize/ (run them with LD_PRELOAD=$(cc -print-file-name=libasan.so)).
Objects and generated C stay in build/.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import cffi
from cffi import ffiplatform

ROOT = Path(__file__).resolve().parent
# What decides, and knows no server; and what speaks to the server.
CORE = [str(path) for path in sorted((ROOT / "module/core").glob("*.c"))]
SERVER = [str(path) for path in sorted((ROOT / "module/server").glob("*.c"))]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# Hidden, because a Redis server exports hundreds of names (sds, rax, dict) that ours must neither
# replace nor be replaced by.
ALWAYS = ["-std=c11", "-fvisibility=hidden", "-fPIC", f"-ffile-prefix-map={ROOT}=."]
HARDENED = ["-O2", "-g", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]
# Python's own flags may hold -fwrapv, which hides overflows from UBSan, and a _FORTIFY_SOURCE,
# which hides accesses from ASan.
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
SANITIZED += ["-fno-wrapv", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE"]
LINK = ["-Wl,-Bsymbolic", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"]

PREAMBLE = """
#include "core.h"

/* What the control plane's front asks OpenSSL to make of a client's path: nothing, the core judges
 * it. Not in Python: the memory of a callback that is made at run time is written to and executed,
 * which hardened systems forbid (MemoryDenyWriteExecute=). */
static int take_any(int ok, void *store) {
    (void)ok, (void)store;
    return 1;
}
"""


def build_module(flags: list[str], link: list[str]) -> str:
    """Compiles the module in the current directory; returns the path of the shared object. Raises
    cffi's VerificationError where the compiler fails."""
    extension = ffiplatform.get_extension(
        CORE[0],
        "certauth",
        [*CORE[1:], *SERVER],
        libraries=["ssl", "crypto"],
        extra_compile_args=[*flags, *WARNINGS],
        define_macros=[("CERTAUTH_VERSION", f'"{VERSION}"')],
        # A function that exists nowhere stops the build rather than a server.
        extra_link_args=[*link, "-Wl,-z,defs"],
    )
    return str(ffiplatform.compile(".", extension))


def declarations() -> str:
    """The parts of core.h in its order, which hold no preprocessor line: cffi can read them."""
    folder = ROOT / "module/core"
    parts = re.findall(r'^#include "(.+)"', (folder / "core.h").read_text(), re.MULTILINE)
    return "".join((folder / part).read_text() for part in parts)


def build_core(flags: list[str], link: list[str]) -> str:
    """Compiles the core with cffi's binding in the current directory; returns the path of the
    extension. Raises cffi's VerificationError where the compiler fails."""
    ffi = cffi.FFI()
    ffi.cdef(declarations() + "int take_any(int ok, void *store);")
    ffi.set_source(
        "control._core",
        PREAMBLE,
        sources=CORE,
        include_dirs=[str(ROOT / "module/core")],
        libraries=["crypto"],
        # Not WARNINGS: the C that cffi generates does not pass them. The core's own does, above.
        extra_compile_args=[*flags, "-Wall"],
        extra_link_args=link,
    )
    return str(ffi.compile())


def fingerprint(sources: list[str], settings: object) -> str:
    """Of all that a product is made from: these sources, all headers, this file, the tools."""
    state = hashlib.sha256(repr((settings, sys.version, cffi.__version__)).encode())
    tools = [os.environ.get(name) for name in ("CC", "CFLAGS", "LDSHARED", "LDFLAGS")]
    state.update(repr(tools).encode())
    headers = sorted(str(path) for path in (ROOT / "module").rglob("*.h"))
    for path in [__file__, *headers, *sources]:
        state.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return state.hexdigest()


def make(
    product: Path, work: Path, sources: list[str], sanitize: bool, build: Callable[..., str]
) -> bool:
    """Builds `product` in `work` unless it is there and up to date. True if it was built."""
    flags = ALWAYS + (SANITIZED if sanitize else HARDENED)
    link = LINK + (SANITIZED if sanitize else [])
    stamp, made_from = work / "stamp", fingerprint(sources, (flags, link, VERSION))
    if product.exists() and stamp.exists() and stamp.read_text() == made_from:
        return False
    work.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with contextlib.chdir(work):
        made = Path(build(flags, link)).resolve()
    # A new file in place of the old one: a running server has the old one mapped.
    fresh = product.with_suffix(".new")
    product.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(made, fresh)
    fresh.replace(product)
    stamp.write_text(made_from)
    return True


def products(sanitize: bool = False, core_only: bool = False) -> None:
    """Makes what is out of date, and says so."""
    # Not Python's own linker flags: they may hold the path of another OpenSSL.
    os.environ.setdefault("CC", "cc")
    os.environ.setdefault("LDSHARED", f"{os.environ['CC']} -shared")
    work = ROOT / "build" / "sanitize" if sanitize else ROOT / "build"
    home = work if sanitize else ROOT
    made = [
        (home / "control" / "_core.abi3.so", work / "core", CORE, build_core),
        (home / "module" / "certauth.so", work / "certauth", [*CORE, *SERVER], build_module),
    ]
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would write the same objects
        for product, objects, sources, build in made[:1] if core_only else made:
            built = make(product, objects, sources, sanitize, build)
            print(f"{product.relative_to(ROOT)}: {'built' if built else 'up to date'}")


def main() -> None:
    """The command line: `build.py [--sanitize]`."""
    parser = argparse.ArgumentParser(description="Builds module/certauth.so and control/_core.")
    parser.add_argument("--sanitize", action="store_true", help="ASan + UBSan, in build/sanitize/")
    products(parser.parse_args().sanitize)


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, cffi.VerificationError) as problem:
        sys.exit(f"build.py: {problem}")
