"""What pyproject.toml cannot say: a wheel holds the core, which build.py makes."""

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
import build


class WithCore(build_py):
    """Makes control/_core.abi3.so in the source tree, from where package-data takes it."""

    def run(self) -> None:
        build.products(core_only=True)
        super().run()


class Binary(Distribution):
    """Its wheel is one for this system and, by cffi's limited API, for each Python from 3.11 on."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=Binary,
    cmdclass={"build_py": WithCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
