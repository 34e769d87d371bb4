"""Clients in great numbers, by a program in C (storm.c), and the memory that they leave behind."""

import json
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.kit.support import ROOT, Cert, RedisServer, scratch


@dataclass(frozen=True)
class Storm:
    """What became of the clients: `named` are the user that their CN names, `others` another one,
    `failed` came to no handshake. `longest`: seconds from connect to the end, of the slowest."""

    named: int
    others: int
    refused: int
    failed: int
    seconds: float
    longest: float

    @property
    def rate(self) -> float:
        """Clients a second."""
        return (self.named + self.others + self.refused) / self.seconds


@cache
def program() -> Path:
    made = Path(tempfile.mkdtemp(dir=scratch())) / "storm"
    source = ROOT / "tests/kit/storm.c"
    libraries = ["-lssl", "-lcrypto", "-lpthread"]
    subprocess.run(["cc", "-std=gnu11", "-O2", "-o", made, source, *libraries], check=True)
    return made


def pairs(certs: Iterable[Cert]) -> Path:
    """A file of certificates with their keys."""
    made = Path(tempfile.mkdtemp(dir=scratch())) / "pairs.pem"
    made.touch(0o600)
    made.write_bytes(b"".join(cert.pem + cert.key_pem for cert in certs))
    return made


def storm(
    server: RedisServer, certs: Path, count: int, per_second: int = 0, threads: int = 16
) -> Storm:
    """So many clients, which take the certificates in turn; `per_second` 0: as fast as it goes."""
    words = map(str, (program(), server.port, certs, count, per_second, threads))
    done = subprocess.run([*words], capture_output=True, text=True, check=True)
    return Storm(**json.loads(done.stdout))


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> float:
    """Memory that a process has in use, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def peer_of(server: RedisServer, cert: Cert) -> tuple[Any, Any]:
    """What another process needs to connect: the parts of a RedisServer and of a Cert that TlsPeer
    takes."""
    return (
        SimpleNamespace(port=server.port, directory=server.directory),
        SimpleNamespace(files=cert.files),
    )
