"""How the control plane of this folder is, asked of it on this machine. It reads the settings and
nothing else of the package, so that a supervisor may ask every few seconds."""

import http.client
import json
import os
import ssl
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ANSWER_SECONDS = 4.0
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (is asked, not bound)


def fault(home: Path, path: str, environment: Mapping[str, str] = os.environ) -> str:
    """Why the control plane should not be sent requests (`/readyz`), or does not answer
    (`/livez`); "" where it is well."""
    try:
        host, port = _place(home, environment)
        status, said = _asked(host, port, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"the control plane does not answer: {error}"
    return "" if status == 200 else f"the control plane is {said}"


def _place(home: Path, environment: Mapping[str, str]) -> tuple[str, int]:
    """Where it listens, by the same settings as control/service/config.py."""
    file = home / "certauth.toml"
    found = tomllib.loads(file.read_text()) if file.exists() else {}
    host = str(environment.get("CERTAUTH_HOST", found.get("host", "")))
    port = int(environment.get("CERTAUTH_PORT", found.get("port", 9443)))
    return EVERYWHERE.get(host, host), port


def _asked(host: str, port: int, path: str) -> tuple[int, str]:
    """The status of the answer, and what it says. Whose certificate it is does not matter: it is
    asked for no secret and told none."""
    context = ssl._create_unverified_context()  # noqa: S323
    asked = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)
    try:
        asked.request("GET", path)
        answer = asked.getresponse()
        return answer.status, str(json.loads(answer.read()).get("status", answer.status))
    finally:
        asked.close()


if __name__ == "__main__":
    home, path = Path(sys.argv[1]), "/livez" if "--live" in sys.argv else "/readyz"
    if found := fault(home, path):
        sys.exit(f"certauth: {found}")
