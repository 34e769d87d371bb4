"""Fixtures of the control plane, for test files that do not need one of their own: `api` and what
is set up there, `plane`, `url`, and of its web page: `browser`, `admin`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.browser import Browser
from tests.kit.plane import Plane
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ControlPlane]:
    """A REST API that nobody has set up but its first administrator."""
    made = ControlPlane(tmp_path)
    yield made
    made.close()


@pytest.fixture
def api_with_alice(api: ControlPlane, pki: Pki) -> ControlPlane:
    """Alice logs in by certificate as an administrator, and is a user of a database."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice,OU=eng,O=acme", role="admin")
    api.database(roles_permissions=[{"role_uid": 1, "redis_acl_uid": 1}], tls_mode="enabled")
    assert api.role(pki.alice) == "admin"
    return api


@pytest.fixture
def plane(tmp_path: Path, pki: Pki) -> Iterator[Plane]:
    """A control plane that trusts the usual client CA and knows alice."""
    made = Plane(tmp_path / "control")
    made.trust(pki.ca)
    made.user(pki.alice, "alice")
    yield made
    made.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty database; test_postgres.py has another one."""
    return f"sqlite:///{tmp_path}/control.db"


@pytest.fixture
def browser(api: ControlPlane) -> Browser:
    """Nobody has logged in."""
    return Browser(api)


@pytest.fixture
def admin(browser: Browser) -> Browser:
    """The administrator has, by password."""
    browser.log_in()
    return browser
