"""The red button of the page, on a real server."""

import pytest

from tests.kit.browser import Browser
from tests.kit.node import Start
from tests.kit.plane import Plane, enrolled_node
from tests.kit.servers import Server
from tests.kit.support import Pki


def test_a_user_is_locked_and_let_in_again(
    plane: Plane, start: Start, installed: Server, pki: Pki
) -> None:
    """The page says first what it would do; the session ends, and afterwards all is as it was."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    plane.in_step()
    uid = next(one["uid"] for one in plane.ok("GET /v1/users") if one["name"] == "alice")
    browser = Browser(plane)
    browser.log_in()
    with node.tls(pki.alice).connect() as alice:
        assert alice.command("ACL", "WHOAMI") == b"alice"
        page = browser.get(f"/ui/users/{uid}")
        page = browser.send(page, f"/ui/locks/of/{uid}", hours="8", reason="lost laptop")
        assert "Lock alice" in page.text
        page = browser.send(page, f"/ui/locks/of/{uid}")
        assert "alice is locked." in page.text
        assert "lock user alice lost laptop" in page.text
        with pytest.raises(ConnectionError):
            alice.command("PING")
    (made,) = plane.ok("GET /v1/certauth/locks")
    path = f"/ui/locks/{made['uid']}/end"
    page = browser.send(browser.send(page, path), path)
    assert "The lock is taken back." in page.text
    plane.in_step()
    with node.tls(pki.alice).connect() as alice:
        assert alice.command("ACL", "WHOAMI") == b"alice"


def test_what_is_no_number_of_hours_is_refused(plane: Plane) -> None:
    browser = Browser(plane)
    browser.log_in()
    page = browser.get("/ui/users/1")
    page = browser.send(page, "/ui/locks/of/1", hours="eight")
    assert "a whole number is expected" in page.text
