"""Telling systemd that the control plane is ready, or ends (sd_notify(3))."""

import contextlib
import os
import socket
from collections.abc import Mapping


def tell(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Sends a line such as `READY=1`, where a unit with Type=notify waits for it. A manager that
    cannot be reached is not a reason to stop."""
    place = environment.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(state.encode(), place.replace("@", "\0", 1) if place[0] == "@" else place)
