"""What goes wrong outside of our processes: disks, clocks, networks, peers that do not answer; and
the seed of what is random in it.

The disk and the clock are those of a process that is started `under` them, through faults.c."""

import os
import random
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

import pytest

from tests.kit.support import ROOT, Cert, scratch, wait_until


@pytest.fixture
def rng() -> random.Random:
    """What a test picks at random, it picks here. A failure shows the seed, and `CERTAUTH_SEED`
    repeats it; when things happen in other processes is not repeated by that."""
    seed = int(os.environ.get("CERTAUTH_SEED") or random.SystemRandom().getrandbits(32))
    print(f"CERTAUTH_SEED={seed}")
    return random.Random(seed)


# ---- Disk and clock ------------------------------------------------------------------------------


@cache
def library() -> Path:
    made = Path(tempfile.mkdtemp(dir=scratch())) / "faults.so"
    source = ROOT / "tests/kit/faults.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    return made


@contextmanager
def under(folder: Path, file: str = "/policy") -> Iterator[None]:
    """Processes that are started meanwhile have the disk and the clock of this folder. The disk is
    below files whose names end with `file`."""
    before = os.environ.get("LD_PRELOAD", "")
    preload = f"{before}:{library()}" if before else str(library())
    values = {"LD_PRELOAD": preload, "FAULTS": str(folder), "FAULTS_FILE": file}
    with environment(values):
        yield


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


class Disk:
    """The disk below the journal of a server that is started under its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hold(self) -> None:
        """From now on an fsync of the journal takes until `release`."""
        (self.folder / "hold").touch()

    def wait_held(self) -> None:
        wait_until((self.folder / "held").exists, "the journal is in its fsync")

    def release(self) -> None:
        (self.folder / "held").unlink(missing_ok=True)
        (self.folder / "hold").unlink(missing_ok=True)

    def fail(self, call: str, error: int) -> None:
        """The next fsync fails, or from now on half of each write."""
        made = self.folder / f"{call}.new"
        made.write_text(str(error))
        made.rename(self.folder / call)

    def heal(self) -> None:
        for call in ("fsync", "pwrite"):
            (self.folder / call).unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """That of every server which the test starts."""
    made = Disk(tmp_path)
    with under(tmp_path):
        yield made
    made.release()


class Clock:
    """The wall clock of processes that are started under its folder; theirs alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead = 0  # seconds, of the machine's
        self.set(0)

    def set(self, ahead: int) -> None:
        self.ahead = ahead
        with open(self.folder / "clock", "r+b" if (self.folder / "clock").exists() else "wb") as at:
            at.write(struct.pack("=q", ahead))

    def step(self, seconds: int) -> None:
        self.set(self.ahead + seconds)


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    """That of every process which the test starts."""
    made = Clock(tmp_path)
    with under(tmp_path):
        yield made


# ---- Network -------------------------------------------------------------------------------------

Direction = Literal["to", "from"]  # the server


@dataclass(frozen=True)
class Cut:
    """After so many bytes in one direction: the connection ends, by FIN or by RST, or nothing comes
    through any more."""

    direction: Direction
    after: int
    how: Literal["close", "reset", "stall"]


class Proxy:
    """Stands before a server on a port of its own and passes bytes on, until told to cut."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut: Cut | None = None
        self.passed = {"to": 0, "from": 0}  # since the last `measure`
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.drop()
        for thread in self._threads:
            thread.join()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def drop(self) -> None:
        """Ends the connections that there are."""
        for pair in self._pairs:
            self._end(pair, "close")

    def measure(self, cut: Cut | None = None) -> None:
        """Counts from nothing; with `cut`, does that once when its count is reached."""
        with self._lock:
            self.passed = {"to": 0, "from": 0}
            self._cut = cut

    @property
    def has_cut(self) -> bool:
        return self._cut is None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = (client, server)
            self._pairs.append(pair)
            for direction, source, sink in (("to", client, server), ("from", server, client)):
                work = (direction, source, sink, pair)
                self._threads.append(threading.Thread(target=self._pass, args=work))
                self._threads[-1].start()

    def _pass(
        self,
        direction: Direction,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                keep, cut = self._count(direction, data)
                sink.sendall(data[:keep])
                if cut and cut.how == "stall":
                    return
                if cut:
                    break
            self._end(pair, cut.how if data and cut else "close")

    def _count(self, direction: Direction, data: bytes) -> tuple[int, Cut | None]:
        """How much of it passes, and whether the connection is cut behind that."""
        with self._lock:
            before = self.passed[direction]
            self.passed[direction] += len(data)
            cut = self._cut
            if cut is None or cut.direction != direction or cut.after > self.passed[direction]:
                return len(data), None
            self._cut = None
            return max(0, cut.after - before), cut

    @staticmethod
    def _end(pair: tuple[socket.socket, socket.socket], how: str) -> None:
        for end in pair:
            with suppress(OSError):
                if how == "reset":
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)  # wakes the other thread, which a close would not
                    end.close()
                else:
                    end.shutdown(socket.SHUT_RDWR)


# ---- Peers that do not answer --------------------------------------------------------------------

Silence = Literal["accepts", "shakes hands", "answers a byte at a time"]


class Silent:
    """A server that accepts and never answers: at once, behind the TLS handshake, or so slowly that
    each byte comes in time and the answer does not."""

    def __init__(self, cert: Cert, how: Silence) -> None:
        self._how, self._over = how, threading.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*cert.files)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError), peer:
            if self._how == "accepts":
                self._over.wait()
                return
            peer.settimeout(10)
            with self._context.wrap_socket(peer, server_side=True) as wrapped:
                if self._how == "answers a byte at a time":
                    wrapped.sendall(b"$1000000\r\n")
                while not self._over.wait(0.5):
                    if self._how == "answers a byte at a time":
                        wrapped.sendall(b"x")
