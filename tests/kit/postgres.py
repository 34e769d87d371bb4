"""A PostgreSQL server of the tests' own, on loopback and on a unix socket."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from control.api.app import create_app
from control.service import Config
from control.store import Store
from tests.kit.rest import ControlPlane, peer_cert
from tests.kit.support import free_port, wait_until

PASSWORD = "the database's"


def binary(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, "no PostgreSQL server here: run `make setup-all`, or install 'postgresql'"
    return path


def account() -> dict[str, Any]:
    """PostgreSQL does not run as root, so root has it run as the package's user."""
    if os.getuid():
        return {}
    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


class Postgres:
    """Makes its data; `start` runs it. `url` is that of its first database."""

    def __init__(self) -> None:
        self.folder, self._who = Path(tempfile.mkdtemp(prefix="certauth-pg-")), account()
        self._made = 0
        (self.folder / "password").write_text(PASSWORD)
        for path in (self.folder, self.folder / "password"):
            os.chown(path, self._who.get("user", -1), self._who.get("group", -1))
        make = [binary("initdb"), "-D", str(self.folder / "data"), "-U", "certauth", "-A"]
        make += ["scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        make += [f"--pwfile={self.folder}/password"]
        done = subprocess.run(make, capture_output=True, text=True, cwd=self.folder, **self._who)
        assert done.returncode == 0, done.stderr
        port = free_port()
        self.url = sa.URL.create("postgresql", "certauth", PASSWORD, "127.0.0.1", port, "postgres")

    def start(self) -> None:
        """Returns when it answers. After `kill` it waits for the last of its old processes."""
        run = [binary("postgres"), "-D", str(self.folder / "data"), "-p", str(self.url.port), "-F"]
        run += ["-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
        run += ["-c", "max_connections=200"]

        def up() -> bool:
            with open(self.folder / "log", "a") as log:
                self._process = subprocess.Popen(
                    run, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    **self._who,
                )  # fmt: skip
            wait_until(
                lambda: self._process.poll() is not None or self._answers(), "it answers", 30
            )
            return self._process.poll() is None

        wait_until(up, f"PostgreSQL runs, see {self.folder}/log", 30)

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _answers(self) -> bool:
        engine = sa.create_engine(self.url)
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return False
        finally:
            engine.dispose()
        return True

    def kill(self) -> None:
        """As a crash: nothing is said to anybody."""
        self._process.kill()
        self._process.wait(20)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its storage hangs: connections are taken by the kernel, and nobody answers."""
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)  # ends its connections, and then itself
        self._process.wait(20)
        shutil.rmtree(self.folder)

    def new(self) -> str:
        """The URL of an empty database."""
        self._made += 1
        name = f"test{self._made}"
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url.set(database=name).render_as_string(hide_password=False)


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    made.start()
    try:
        yield made
    finally:
        made.close()


class Served(ControlPlane):
    """The control plane of a folder and a database that `init` or `restore` has made."""

    def __init__(self, config: Config) -> None:
        self.store = Store(config.url)
        self.app = create_app(self.store, peer_cert)
        self.client = self.app.test_client()
