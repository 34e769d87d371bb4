"""What a control plane and a module of another version cannot do together.

Both say their version and the number of the protocol that they speak (`PROTOCOL` of
module/core/base.h). Each speaks with the number before its own. A module that says none is of
version 0.1.0, which spoke the first one. docs/servers.md has the table.
"""

from control.policy import core

PROTOCOL: int = core.PROTOCOL
FIRST = 1  # of modules that do not say it
MARK = " protocol "  # between the version and the number, as they are written down

# What a node cannot do whose module speaks this number, and not the next one.
LACKS = {
    1: (
        "lines `pin`, `bind attributes`, `bind attribute`, `bind extension`, and `pattern` with "
        "one user: it refuses them",
        "what is demanded of certificates, such as `set max-lifetime` and `set min-tls`: it "
        "refuses these lines",
        "lines `lock`: it holds out by other lines whom a lock may concern, and where these cannot "
        "tell who that is, for a lock of a CA or a network, everybody but its peers",
        "a renewed certificate of its own is shown after a restart only",
        "whom its TLS handshake refuses is neither counted nor told, nor foretold by explain",
        "who would be closed by a change is not foretold",
        "how connections end is not told to the auditor (`/v1/cluster/auditing/db_conns`)",
    ),
}
NEWER = (
    "its module speaks a newer protocol than this control plane: upgrade the control plane, which "
    "is to come first"
)


def written(version: str, protocol: int) -> str:
    """Version and protocol of a module, as they are kept with its node."""
    return f"{version}{MARK}{protocol}"


def version_of(module: str) -> str:
    """The version of what was `written`; "" where there is no module."""
    return module.partition(MARK)[0]


def protocol_of(module: str) -> int:
    """The protocol; 0 where there is no module."""
    text = module.partition(MARK)[2]
    return int(text) if text.isdecimal() else FIRST if module else 0


def cannot(module: str) -> list[str]:
    """What a node with this module cannot do, for a person."""
    protocol = protocol_of(module)
    if protocol > PROTOCOL:
        return [NEWER]
    return [text for one in range(protocol, PROTOCOL) for text in LACKS[one]] if module else []
