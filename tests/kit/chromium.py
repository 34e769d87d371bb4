"""The web page in Chromium, with a client certificate in its store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from control import service
from tests.kit.browser import ALICE
from tests.kit.plane import Https, initialised
from tests.kit.support import Pki, free_port


@dataclass(frozen=True)
class Site:
    """A control plane that serves the page; alice administers by certificate, bob only looks."""

    base: str
    authority: Path  # PEM of the CA of its own certificate
    pki: Pki
    api: Callable[..., Any]


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site") / "control"
    config = replace(initialised(home), ui_port=free_port())
    with service.running(config), Https(config) as api:
        entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        calls = [
            ("PUT /v1/cluster/update_cert", entry),
            ("PUT /v1/cluster", {"mtls_certificate_authentication": True}),
            ("POST /v1/users", {"name": "alice", "auth_method": "certificate", "role": "admin",
                                "certificate_subject_line": ALICE}),
            ("POST /v1/users", {"name": "bob", "auth_method": "certificate",
                                "role": "cluster_viewer",
                                "certificate_subject_line": "CN=bob,OU=eng,O=acme"}),
            ("POST /v1/bdbs", {"name": "orders", "tls_mode": "enabled",
                               "endpoints": [{"addr": ["127.0.0.1"], "port": free_port()}],
                               "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 2}]}),
        ]  # fmt: skip
        for call, body in calls:
            assert api(call, body).status == 200, call
        yield Site(f"https://localhost:{config.ui_port}", home / "ca.crt", pki, api)
