"""A server's way into the control plane's care: the lines of its redis.conf, and the files behind
them. Nothing here knows the control plane; `service.enrol` brings both together."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from control.pki.files import replace_file

MODULE = "certauth.so"
DEFAULT_OFF = "user default off resetpass"


class EnrolError(Exception):
    """What stands in the way in redis.conf, and what to do about it."""


@dataclass(frozen=True)
class Files:
    """Where they are on the node: absolute paths without blanks, which CONFIG REWRITE would lose
    the quotes of."""

    module: Path
    journal: Path
    bootstrap: Path

    @property
    def lines(self) -> tuple[str, ...]:
        """For redis.conf. Raises EnrolError."""
        for path in (self.module, self.journal, self.bootstrap):
            if not path.is_absolute() or any(c.isspace() or c in "'\"\\" for c in str(path)):
                raise EnrolError(f"{path}: an absolute path without blanks and quotes is needed")
        return (
            f"loadmodule {self.module} journal {self.journal} bootstrap {self.bootstrap}",
            f"tls-ca-cert-dir {self.journal}/ca",
            DEFAULT_OFF,
        )


def directives(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that says something."""
    for number, line in enumerate(text.splitlines()):
        try:
            words = shlex.split(line, comments=False)
        except ValueError:  # the server itself will say so
            continue
        if words and not words[0].startswith("#"):
            yield number, [words[0].lower(), *words[1:]]


def setting(text: str, *names: str) -> str:
    """The value of the first of these settings that is there, as the server takes it: the last
    line counts. "" where none is."""
    found = {words[0]: words[1] for _, words in directives(text) if len(words) > 1}
    return next((found[name] for name in names if found.get(name)), "")


def edited(text: str, files: Files, keep_default: bool = False) -> str:
    """redis.conf with our lines: a line that loads the module is replaced, what is there already
    stays. With `keep_default`, or where users stand in an aclfile, `default` is left alone. Raises
    EnrolError where a line of the operator's says something else."""
    load, trust, default = files.lines
    wanted = [load, trust]
    if not keep_default and not setting(text, "aclfile"):
        wanted.append(default)
    lines = text.splitlines()
    for number, words in directives(text):
        if words[0] == "loadmodule" and len(words) > 1 and Path(words[1]).name == MODULE:
            lines[number] = load
            wanted = [line for line in wanted if line != load]
        elif words[0] == "tls-ca-cert-dir" and len(words) > 1:
            if Path(words[1]) != files.journal / "ca":
                raise EnrolError(
                    f"line {number + 1}: tls-ca-cert-dir is {words[1]}; the module manages its own "
                    f"directory: move the CAs to tls-ca-cert-file and take the line out"
                )
            wanted = [line for line in wanted if line != trust]
        elif words[:2] == ["user", "default"] and default in wanted:
            if "off" not in words:
                raise EnrolError(
                    f"line {number + 1}: `user default` is on; take the line out, or say "
                    "--keep-default where clients without a certificate are to use it"
                )
            wanted.remove(default)
    return "\n".join([*lines, *wanted]) + "\n"


# ---- Sentinels -----------------------------------------------------------------------------------

CONTROL, WATCHER, APPLICATION = "certauth-control", "certauth-sentinel", "certauth-application"
SENTINEL_RULES = {
    # What the control plane asks (control/nodes/client.py).
    CONTROL: "+ping +info +acl|whoami +sentinel|masters +sentinel|replicas +sentinel|sentinels",
    # What Sentinels send each other.
    WATCHER: "&__sentinel__:hello +ping +publish +client|setname +sentinel|is-master-down-by-addr",
    # What client libraries need to find a master, and to hear of another one.
    APPLICATION: "&* +ping +info +role +command +client|setname +client|getname +client|id "
    "+subscribe +psubscribe +unsubscribe +punsubscribe +sentinel|get-master-addr-by-name "
    "+sentinel|master +sentinel|masters +sentinel|replicas +sentinel|slaves +sentinel|sentinels "
    "+sentinel|myid",
}


def sentinel_users(passwords: Mapping[str, str], text: str = "") -> str:
    """An aclfile of a Sentinel. `passwords` by user; who has none needs none: what applications may
    read is for all whose certificate the handshake trusts. Other users of `text`, a file that is
    there, stay."""
    ours = ["user default off resetpass"]
    for name, rules in SENTINEL_RULES.items():
        password = passwords.get(name)
        secret = f"#{sha256(password.encode()).hexdigest()}" if password else "nopass"
        ours.append(f"user {name} on {secret} resetchannels -@all {rules}")
    lines = text.splitlines()
    others = [lines[number] for number, words in directives(text) if not _is_ours(words)]
    return "\n".join([*ours, *others]) + "\n"


def _is_ours(words: Sequence[str]) -> bool:
    return len(words) > 1 and words[0] == "user" and words[1] in ("default", *SENTINEL_RULES)


def sentinel_edited(text: str, aclfile: Path, password: str) -> tuple[str, str]:
    """sentinel.conf with our lines; and its users, which belong into the aclfile then: a Sentinel
    takes them from one place alone, and itself writes `user default on` into this one."""
    wanted = [
        ["aclfile", str(aclfile)],
        ["sentinel", "sentinel-user", WATCHER],
        ["sentinel", "sentinel-pass", password],
    ]
    kept, users = [], []
    found = dict(directives(text))
    for number, line in enumerate(text.splitlines()):
        words = found.get(number, [])
        if words[:1] == ["user"]:
            users.append(line)
        elif words in wanted:
            wanted.remove(words)
            kept.append(line)
        elif not any(words[:-1] == one[:-1] for one in wanted if words):
            kept.append(line)
    return "\n".join([*kept, *map(" ".join, wanted)]) + "\n", "\n".join(users)


def write(path: Path, content: str, owner: os.stat_result) -> bool:
    """A file that only its owner can read, unless it is there with another mode. Whether anything
    changed. Raises OSError."""
    if path.exists() and path.read_text() == content:
        return False
    replace_file(path, content, owner, 0o600)
    return True


def prepare(conf: Path, files: Files, text: str, bootstrap: str) -> bool:
    """Writes redis.conf, the bootstrap file and the directory for CAs, each at once or not at all;
    new files belong to the owner of redis.conf. Whether anything changed. Raises OSError."""
    owner = conf.stat()
    directory = files.journal / "ca"
    changed = not directory.is_dir()
    for path in (files.journal, directory):
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True)
            os.chown(path, owner.st_uid, owner.st_gid)
    for path, content in ((files.bootstrap, bootstrap), (conf, text)):
        if not path.exists() or path.read_text() != content:
            replace_file(path, content, owner)
            changed = True
    return changed
