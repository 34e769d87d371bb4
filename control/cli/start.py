"""What `redis-certauth` runs first: the command, without what it does not use.

A command imports the whole server by the modules that it shares with it: a second of processor time
to say a version. The modules named here are loaded when something of them is used first, by which
time it is known that the command needs them. Nothing else changes: a module that is imported by
`from module import name` is loaded at once, as always.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

LAZY = frozenset(
    {
        "control.cli.apply", "control.cli.batches", "control.cli.client",
        "control.cli.enterprise", "control.cli.files", "control.cli.importers",
        "control.cli.making", "control.cli.planning", "control.cli.quickstart",
        "control.cli.renewal", "control.http.verify", "control.nodes.alone",
        "control.nodes.client", "control.pki.pem", "control.pki.reading", "control.pki.uploads",
        "control.policy.bindings", "control.policy.core", "control.policy.lines",
        "control.policy.pasted", "control.service", "http.client", "rich.console", "rich.table",
        "rich.text", "shutil", "click.shell_completion", "ssl", "yaml",
    }
)  # fmt: skip


class LazyFinder:
    """Finds the modules of LAZY, as any other finder does, for a loader that waits."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module is loaded when it is used first."""
        if name not in LAZY:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            found.loader = importlib.util.LazyLoader(found.loader)
        return found


def main() -> None:
    """The command line."""
    if sys.argv[1:] == ["--version"]:
        version = importlib.import_module("importlib.metadata").version("redis-certauth")
        print(f"redis-certauth, version {version}")
        return
    sys.meta_path.insert(0, LazyFinder())
    importlib.import_module("control.cli.table").main()
