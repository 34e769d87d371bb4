"""What pyproject.toml cannot say: a wheel holds the core, which build.py makes; and where
SOURCE_DATE_EPOCH says when it is, an sdist and a wheel of the same tree are the same bytes."""

import gzip
import os
import sys
import tarfile
import time
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).parent))
import build

os.umask(0o022)  # The modes of files are in what is made.


class WithCore(build_py):
    """Makes control/_core.abi3.so in the source tree, from where package-data takes it."""

    def run(self) -> None:
        """Builds the core before the packages are collected; raises what build.products raises."""
        build.products(core_only=True)
        super().run()


class Plain(sdist):
    """Says nothing of who made it, and setuptools would say when, whatever SOURCE_DATE_EPOCH is."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **owner):  # type: ignore
        """Returns the path of a .tar.gz whose entries have no owner, and all of them one time:
        SOURCE_DATE_EPOCH, in seconds since 1970, or now."""
        now = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.mode = now, 0o755 if entry.mode & 0o100 else 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            return entry

        name = f"{base_name}.tar.gz"
        with (
            gzip.GzipFile(name, "wb", mtime=now) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(base_dir, filter=plain)
        return name


class Binary(Distribution):
    """Its wheel is one for this system and, by cffi's limited API, for each Python from 3.11 on."""

    def has_ext_modules(self) -> bool:
        """True, though setuptools builds no extension here: build.py does."""
        return True


setup(
    distclass=Binary,
    cmdclass={"build_py": WithCore, "sdist": Plain},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
