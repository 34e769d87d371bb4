"""A server's way into the control plane's care: the lines of its redis.conf, and the files behind
them. Nothing here knows the control plane; `service.enrol` brings both together."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from control.pki.files import replace_file
from control.service.conf_files import EnrolError, configuration, directives, read, setting

MODULE = "certauth.so"
DEFAULT_OFF = "user default off resetpass"


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


def edited(
    text: str, files: Files, keep_default: bool = False, conf: Path = Path("redis.conf")
) -> str:
    """redis.conf with our lines: a line that loads the module is replaced, what is there already
    stays, also in a file that it includes. With `keep_default`, or where users stand in an aclfile,
    `default` is left alone. Raises EnrolError where a line of the operator's says something
    else."""
    load, trust, default = files.lines
    found = configuration(conf, text)
    wanted = [load, trust]
    if not keep_default and not setting(found, "aclfile"):
        wanted.append(default)
    lines = text.removesuffix("\n").split("\n") if text else []
    for line in found:
        words = line.words
        if words[0] == "loadmodule" and len(words) > 1 and Path(words[1]).name == MODULE:
            if load not in wanted:
                raise EnrolError(f"{line.place}: it loads the module a second time: take it out")
            lines[line.number] = load
            wanted.remove(load)
        elif words[0] == "tls-ca-cert-dir" and len(words) > 1:
            if Path(words[1]) != files.journal / "ca":
                raise EnrolError(
                    f"{line.place}: tls-ca-cert-dir is {words[1]}; the module manages its own "
                    f"directory: move the CAs to tls-ca-cert-file and take the line out"
                )
            wanted = [one for one in wanted if one != trust]
        elif words[:2] == ("user", "default") and not keep_default:
            if "off" not in words:
                raise EnrolError(
                    f"{line.place}: `user default` is on; take the line out, or say "
                    "--keep-default where clients without a certificate are to use it"
                )
            wanted = [one for one in wanted if one != default]
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
    lines = text.split("\n")
    others = [lines[one.number] for one in directives(text) if not _is_ours(one.words)]
    return "\n".join([*ours, *others]) + "\n"


def _is_ours(words: Sequence[str]) -> bool:
    return len(words) > 1 and words[0] == "user" and words[1] in ("default", *SENTINEL_RULES)


def sentinel_edited(
    text: str, aclfile: Path, password: str, conf: Path = Path("sentinel.conf")
) -> tuple[str, str]:
    """sentinel.conf with our lines; and its users, which belong into the aclfile then: a Sentinel
    takes them from one place alone, and itself writes `user default on` into this one."""
    wanted = [
        ["aclfile", str(aclfile)],
        ["sentinel", "sentinel-user", WATCHER],
        ["sentinel", "sentinel-pass", password],
    ]
    kept, users = [], []
    found = {one.number: list(one.words) for one in directives(text, conf)}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else []):
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
    if path.exists() and read(path) == content:
        return False
    replace_file(path, content, owner, 0o600)
    return True


def prepare(conf: Path, files: Files, text: str, bootstrap: str, owner: os.stat_result) -> bool:
    """Writes redis.conf, the bootstrap file and the directory for CAs, each at once or not at all;
    new files belong to `owner`. Whether anything changed. Raises OSError."""
    directory = files.journal / "ca"
    changed = not directory.is_dir()
    for path in (files.journal, directory):
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True)
            os.chown(path, owner.st_uid, owner.st_gid)
    for path, content in ((files.bootstrap, bootstrap), (conf, text)):
        if not path.exists() or read(path) != content:
            replace_file(path, content, owner)
            changed = True
    return changed
