"""control/api/login.py, control/domain/tokens.py: tokens, passwords, lockout."""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest

from control.api.app import create_app
from control.domain import passwords
from control.domain.passwords import Passwords, check_new, hash_password
from control.records import Cluster, Password, User
from control.store import Store
from tests.kit.rest import ADMIN, Answer, ControlPlane
from tests.kit.support import Pki

AUTHORIZE = "POST /v1/users/authorize"
REFRESH = "POST /v1/users/refresh_jwt"
PASSWORD = "/v1/users/password"
DAY = 86400


@pytest.fixture
def bob(api: ControlPlane) -> tuple[str, str]:
    """A password user who may look; its uid is 2."""
    return api.password_user("bob", "db_viewer")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock forward; PyJWT, which checks the end of tokens, has another one."""
    ahead, real = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])

    def forward(seconds: float) -> None:
        ahead[0] += seconds

    return forward


def token_of(api: ControlPlane, login: tuple[str, str], **body: Any) -> str:
    token = api.ok(AUTHORIZE, body, auth=login)["access_token"]
    assert isinstance(token, str)
    return token


def role_of(api: ControlPlane, auth: tuple[str, str] | str) -> Answer:
    return api("GET /v1/users/role", auth=auth)


def refused(answer: Answer, code: str, status: int = 401) -> bool:
    return (answer.status, answer.code) == (status, code)


def forged(token: str, key: str = "", algorithm: str = "HS256", **changes: Any) -> str:
    """The token with other claims, signed with another key."""
    claims = jwt.decode(token, options={"verify_signature": False})
    kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return "Bearer " + jwt.encode(kept, key or "k" * 32, algorithm)


# ---- Tokens ----


@pytest.mark.parametrize("scheme", ["Bearer", "JWT", "bearer", "jwt"])
def test_a_token_logs_in_by_both_schemes(
    api: ControlPlane, bob: tuple[str, str], scheme: str
) -> None:
    """The one of Redis Enterprise's guide, and the one of its older pages."""
    token = token_of(api, bob)
    assert role_of(api, f"{scheme} {token}").json == {"role": "db_viewer"}


def test_a_token_comes_for_basic_and_for_a_password_in_the_body(
    api: ControlPlane, bob: tuple[str, str]
) -> None:
    """Older clients send the login as JSON, and no header; Basic needs no body at all."""
    body = {"username": bob[0], "password": bob[1], "ttl": 60}
    for found in (api.ok(AUTHORIZE, body, auth=None), api.ok(AUTHORIZE, auth=bob)):
        assert role_of(api, f"Bearer {found['access_token']}").status == 200


@pytest.mark.parametrize(
    ("body", "auth", "status", "code"),
    [
        ({"username": "bob", "password": "x"}, None, 401, "invalid_credentials"),
        ({"username": "bob"}, None, 401, "invalid_credentials"),
        ({"username": "nobody", "password": "bob's"}, None, 401, "invalid_credentials"),
        ({}, None, 401, "missing_credentials"),
        ({}, ("bob", "x"), 401, "invalid_credentials"),
        ({"ttl": 0}, ("bob", "bob's"), 400, "invalid_schema"),
        ({"ttl": 86401}, ("bob", "bob's"), 400, "invalid_schema"),
        ({"ttl": "60"}, ("bob", "bob's"), 400, "invalid_schema"),
        ({"ttl": True}, ("bob", "bob's"), 400, "invalid_schema"),
        ({"tll": 60}, ("bob", "bob's"), 400, "unknown_field"),
    ],
)
def test_no_token_without_the_password(
    api: ControlPlane, bob: tuple[str, str], body: Any, auth: Any, status: int, code: str
) -> None:
    """Nor for a time that is not offered."""
    assert refused(api(AUTHORIZE, body, auth=auth), code, status)


def test_a_token_ends(
    api: ControlPlane, bob: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its ttl, five minutes by default; and not before."""
    made = int(time.time()) - 200
    with monkeypatch.context() as patched:
        patched.setattr("control.domain.tokens.time.time", lambda: made)
        young = token_of(api, bob)
        old = token_of(api, bob, ttl=199)
    claims = jwt.decode(young, options={"verify_signature": False})
    assert claims["exp"] == made + 300
    assert role_of(api, f"Bearer {young}").status == 200
    answer = role_of(api, f"Bearer {old}")
    assert refused(answer, "invalid_token")
    assert "expired" in answer.text


def test_forged_tokens_are_refused(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Another key, no signature, another user, another cluster, no end, another algorithm."""
    token = token_of(api, bob)
    key = api.store.settings.cluster().jwt_key
    head, claims, signature = token.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    for header in (
        forged(token),
        forged(token, sub="1"),
        forged(token, key, sub="99"),
        forged(token, key, sub="x"),
        forged(token, key, iss="other"),
        forged(token, key, exp=None),
        forged(token, key, stamp=None),
        forged(token, key, stamp="0" * 32),
        forged(token, key, sub="1"),
        forged(token, key, "HS512"),
        f"Bearer {none}.{claims}.",
        f"Bearer {head}.{claims}.",
        f"Bearer {head}.{claims}.{signature[:-2]}",
        "Bearer ",
        "JWT x.y.z",
    ):
        assert refused(role_of(api, header), "invalid_token"), header
    assert role_of(api, forged(token, key)).status == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda api: api.ok("PUT /v1/users/2", {"password": "new"}),
        lambda api: api.ok(f"PUT {PASSWORD}", {"username": "bob", "new_password": "new"}),
        lambda api: api.ok(f"POST {PASSWORD}", {"username": "bob", "new_password": "new"}),
        lambda api: api.ok("DELETE /v1/users/2"),
        lambda api: api.store.objects.update(User, 2, lambda found: replace(found, locked=1)),
        lambda api: api.ok(
            "PUT /v1/users/2",
            {"auth_method": "certificate", "certificate_subject_line": "CN=bob"},
        ),
    ],
)
def test_a_token_dies_with_its_users_login(
    api: ControlPlane, bob: tuple[str, str], change: Callable[[ControlPlane], object]
) -> None:
    """A password changed or added, the user locked, deleted, or moved to a certificate."""
    header = f"Bearer {token_of(api, bob)}"
    assert role_of(api, header).status == 200
    change(api)
    assert refused(role_of(api, header), "invalid_token")


def test_a_token_follows_its_users_rights(api: ControlPlane, bob: tuple[str, str]) -> None:
    """It says who, never what."""
    header = f"Bearer {token_of(api, bob)}"
    api.ok("PUT /v1/users/2", {"role": "none"})
    assert role_of(api, header).json == {"role": "none"}
    assert api("GET /v1/cluster", auth=header).status == 403


def test_a_token_is_renewed_by_itself_and_by_nothing_else(
    api: ControlPlane, bob: tuple[str, str]
) -> None:
    """refresh_jwt takes a token, with a ttl or without a body."""
    header = f"JWT {token_of(api, bob)}"
    for arguments in ([], [{"ttl": 86400}]):
        new = api.ok(REFRESH, *arguments, auth=header)["access_token"]
        assert role_of(api, f"Bearer {new}").status == 200
    assert refused(api(REFRESH, auth=bob), "invalid_token")
    assert refused(api(REFRESH, auth="JWT x.y.z"), "invalid_token")
    assert refused(api(REFRESH, {"ttl": 86401}, auth=header), "invalid_schema", 400)


def test_a_certificate_and_a_token_get_no_new_token(
    api: ControlPlane, bob: tuple[str, str], pki: Pki
) -> None:
    """It would outlive what was shown for it."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme")
    assert refused(api(AUTHORIZE, cert=pki.alice), "password_login_required", 403)
    header = f"Bearer {token_of(api, bob)}"
    assert refused(api(AUTHORIZE, auth=header), "password_login_required", 403)


def test_tokens_end_with_passwords(api: ControlPlane, bob: tuple[str, str], pki: Pki) -> None:
    """Where passwords are switched off, a token lives its time out and gets no successor."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="admin")
    api.ok("GET /v1/users/role", cert=pki.alice)
    header = f"Bearer {token_of(api, bob)}"
    api.ok("PUT /v1/cluster", {"control_plane_basic_authentication": False})
    assert role_of(api, header).status == 200
    assert refused(api(REFRESH, auth=header), "basic_authentication_disabled")
    assert refused(api(AUTHORIZE, auth=bob), "basic_authentication_disabled")


def test_a_token_counts_before_the_certificate(
    api: ControlPlane, bob: tuple[str, str], pki: Pki
) -> None:
    """An explicit header does, also a bad one."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="admin")
    found = api("GET /v1/users/role", cert=pki.alice, auth=f"Bearer {token_of(api, bob)}")
    assert found.json == {"role": "db_viewer"}
    assert refused(api("GET /v1/users/role", cert=pki.alice, auth="Bearer x"), "invalid_token")


def test_the_key_of_tokens_is_in_no_answer(api: ControlPlane) -> None:
    """Nor in what the cluster prints as."""
    key = api.store.settings.cluster().jwt_key
    assert len(key) == 64
    for path in ("/v1/cluster", "/v1/cluster/policy", "/v1/logs", "/openapi.json"):
        assert key not in str(api.ok(f"GET {path}"))
    assert key not in repr(api.store.settings.cluster())


# ---- Passwords ----


def test_a_user_moves_from_one_password_to_the_next(
    api: ControlPlane, bob: tuple[str, str]
) -> None:
    """Add one, change the clients, delete the old one: somebody is logged in all the time."""
    api.ok(f"POST {PASSWORD}", {"new_password": "second"}, auth=bob)
    second = ("bob", "second")
    assert role_of(api, bob).status == role_of(api, second).status == 200
    api.ok(f"DELETE {PASSWORD}", {"old_password": bob[1]}, auth=second)
    assert refused(role_of(api, bob), "invalid_credentials")
    assert role_of(api, second).status == 200


def test_a_put_replaces_all_passwords(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Whichever there were."""
    api.ok(f"POST {PASSWORD}", {"new_password": "second"}, auth=bob)
    api.ok(f"PUT {PASSWORD}", {"new_password": "third"}, auth=bob)
    for gone in ("bob's", "second"):
        assert refused(role_of(api, ("bob", gone)), "invalid_credentials")
    assert role_of(api, ("bob", "third")).status == 200


def test_the_last_password_stays(api: ControlPlane, bob: tuple[str, str]) -> None:
    """And one that is not there cannot be deleted."""
    body = {"old_password": bob[1]}
    answer = api(f"DELETE {PASSWORD}", body, auth=bob)
    assert refused(answer, "cannot_delete_last_password", 400)
    assert refused(api(f"DELETE {PASSWORD}", {"old_password": "x"}, auth=bob), "not_found", 404)
    assert role_of(api, bob).status == 200


def test_a_user_has_so_many_passwords_at_most(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Each costs every wrong login its time."""
    for number in range(passwords.PASSWORDS - 1):
        api.ok(f"POST {PASSWORD}", {"new_password": f"p{number}"}, auth=bob)
    answer = api(f"POST {PASSWORD}", {"new_password": "more"}, auth=bob)
    assert refused(answer, "too_many_passwords", 400)


def test_the_same_password_again_is_refused(api: ControlPlane, bob: tuple[str, str]) -> None:
    """By each of the three calls that set one."""
    code = "new_password_same_as_current"
    for method in ("PUT", "POST"):
        answer = api(f"{method} {PASSWORD}", {"new_password": bob[1]}, auth=bob)
        assert refused(answer, code, 400)
    assert refused(api("PUT /v1/users/2", {"password": bob[1]}), code, 400)


def test_only_your_own_password_is_yours(api: ControlPlane, bob: tuple[str, str]) -> None:
    """By name, by e-mail or by leaving it out; others' are for anyone who manages users, and an
    administrator's only for administrators."""
    api.password_user("carol", "db_viewer")
    manager = api.password_user("manager", "user_manager")
    body = {"new_password": "new"}
    for username in ("carol", "admin", "nobody"):
        answer = api(f"PUT {PASSWORD}", {**body, "username": username}, auth=bob)
        assert refused(answer, "unauthorized_action", 403)
    answer = api(f"PUT {PASSWORD}", {**body, "username": "admin"}, auth=manager)
    assert refused(answer, "insufficient_permissions", 403)
    answer = api(f"PUT {PASSWORD}", {**body, "username": "nobody"}, auth=manager)
    assert refused(answer, "user_not_exist", 404)
    api.ok(f"PUT {PASSWORD}", {**body, "username": "carol"}, auth=manager)
    assert role_of(api, ("carol", "new")).status == 200
    api.ok(f"PUT {PASSWORD}", {**body, "username": "bob"}, auth=bob)
    assert role_of(api, ("bob", "new")).status == 200
    assert role_of(api, ADMIN).status == 200


def test_a_certificate_user_gets_no_password(api: ControlPlane) -> None:
    """It would be a second way in."""
    api.certificate_user("alice", "CN=alice")
    answer = api(f"PUT {PASSWORD}", {"username": "alice", "new_password": "x"})
    assert refused(answer, "invalid_param", 400)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_field"),
        ({"new_password": ""}, "invalid_schema"),
        ({"new_password": 5}, "invalid_schema"),
        ({"new_password": "x", "password": "y"}, "unknown_field"),
    ],
)
def test_a_bad_password_body_is_a_400(api: ControlPlane, body: Any, code: str) -> None:
    """And the old one goes on."""
    assert refused(api(f"PUT {PASSWORD}", body), code, 400)
    assert role_of(api, ADMIN).status == 200


def test_what_older_clients_send_with_a_password(api: ControlPlane) -> None:
    """The old one is ignored, as documented there; a hash is not taken for a password."""
    auth = api.password_user("bob", "db_viewer")
    body = {"new_password": "second", "old_password": "not bob's"}
    assert api.ok(f"PUT {PASSWORD}", body, auth=auth)["ignored"] == ["old_password"]
    hashed = {"new_password": "0" * 64, "password_hash_method": "1"}
    answer = api(f"POST {PASSWORD}", hashed, auth=("bob", "second"))
    assert refused(answer, "unsupported_setting", 406)
    assert answer.text.startswith("password_hash_method")


# ---- Password rules ----


@pytest.mark.parametrize(
    ("password", "what"),
    [
        ("Aa1!aaa", "8 characters"),
        ("aa11!!bb", "upper-case"),
        ("AA11!!BB", "lower-case"),
        ("AAaa!!bb", "digit"),
        ("AAaa11bb", "special"),
        ("Aa1!Bob@Acme.org", "e-mail"),
        ("Aa1!gro.emca@bob", "backwards"),
        ("Aa1!bbbb", "repeat"),
        ("Aa1!bbb2", ""),
        ("Tr0ub4dor&3", ""),
    ],
)
def test_complexity_asks_for_what_redis_enterprise_asks(
    api: ControlPlane, password: str, what: str
) -> None:
    """At each place where a password is set; off by default."""
    api.ok("POST /v1/users", {"name": "bob", "email": "bob@acme.org", "password": "x"})
    api.ok("PUT /v1/cluster", {"password_complexity": True})
    answers = [
        api("PUT /v1/users/2", {"password": password}),
        api(
            "POST /v1/users?dry_run",
            {"name": "c", "email": "Bob@acme.org", "password": password},
        ),
        api(f"POST {PASSWORD}", {"username": "bob", "new_password": password}),
    ]
    if what:
        assert all(refused(answer, "password_not_complex", 400) for answer in answers)
        assert all(what in answer.text and password not in answer.text for answer in answers)
    else:
        assert answers[0].status == 200
        assert answers[2].code == "new_password_same_as_current"


def test_the_least_length_can_be_raised(api: ControlPlane) -> None:
    """It counts where the rules are on, as on Redis Enterprise."""
    api.ok("PUT /v1/cluster", {"password_min_length": 12})
    api.ok("POST /v1/users?dry_run", {"name": "a", "password": "short"})
    api.ok("PUT /v1/cluster", {"password_complexity": True})
    body = {"name": "a", "password": "Aa1!2345678"}
    assert refused(api("POST /v1/users", body), "password_not_complex", 400)
    api.ok("POST /v1/users", {**body, "password": "Aa1!23456789"})


def test_a_first_password_equals_none() -> None:
    """A user without one takes any."""
    check_new("x", User(1, "a", "regular", (1,)), Cluster("c", "i", 0))


# ---- Expiry ----


def test_a_password_expires_and_its_user_sets_a_new_one(
    api: ControlPlane, bob: tuple[str, str], clock: Callable[[float], None]
) -> None:
    """Expired, it is good for that one call."""
    api.ok("PUT /v1/cluster", {"password_expiration_duration": 90})
    header = f"JWT {token_of(api, bob, ttl=86400)}"
    clock(90 * DAY - 100)
    api.ok(f"PUT {PASSWORD}", {"new_password": "mine"})
    assert role_of(api, bob).status == 200
    clock(200)
    assert refused(role_of(api, bob), "password_expired")
    assert refused(api(AUTHORIZE, auth=bob), "password_expired")
    assert refused(api(REFRESH, auth=header), "password_expired")
    assert refused(role_of(api, ("bob", "wrong")), "invalid_credentials")
    assert refused(api(f"POST {PASSWORD}", {"new_password": "n"}, auth=bob), "password_expired")
    admin = ("admin", "mine")
    assert api.ok("GET /v1/users/2", auth=admin)["status"] == "password_expired"
    assert api.ok("GET /v1/users/1", auth=admin)["status"] == "active"
    api.ok(f"PUT {PASSWORD}", {"new_password": "new"}, auth=bob)
    assert role_of(api, ("bob", "new")).status == 200
    assert api.ok("GET /v1/users/2", auth=admin)["status"] == "active"


def test_each_password_has_its_own_age(
    api: ControlPlane, bob: tuple[str, str], clock: Callable[[float], None]
) -> None:
    """Adding one makes no other younger."""
    api.ok("PUT /v1/cluster", {"password_expiration_duration": 1})
    clock(DAY / 2)
    api.ok(f"POST {PASSWORD}", {"new_password": "second"}, auth=bob)
    clock(DAY / 2)
    assert refused(role_of(api, bob), "password_expired")
    assert role_of(api, ("bob", "second")).status == 200


# ---- Lockout ----


def guess(api: ControlPlane, times: int, name: str = "bob") -> None:
    for _ in range(times):
        assert refused(role_of(api, (name, "wrong")), "invalid_credentials")


def status_of(api: ControlPlane, uid: int = 2) -> str:
    return str(api.ok(f"GET /v1/users/{uid}")["status"])


def test_five_wrong_passwords_lock_a_user(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Four do not; then even the right one is refused, and the answer does not tell."""
    guess(api, 4)
    assert status_of(api) == "active"
    guess(api, 1)
    assert status_of(api) == "locked"
    answer = role_of(api, bob)
    assert refused(answer, "invalid_credentials")
    assert answer.text == role_of(api, ("nobody", "x")).text


def test_a_lock_ends_by_itself(
    api: ControlPlane, bob: tuple[str, str], clock: Callable[[float], None]
) -> None:
    """After half an hour, and wrong passwords in between do not make it longer."""
    guess(api, 5)
    clock(1700)
    guess(api, 5)
    assert refused(role_of(api, bob), "invalid_credentials")
    clock(101)
    assert role_of(api, bob).status == 200
    assert status_of(api) == "active"


def test_without_a_duration_a_lock_ends_with_a_new_password(
    api: ControlPlane, bob: tuple[str, str], clock: Callable[[float], None]
) -> None:
    """Set by somebody who may; the old counts are gone with it."""
    api.ok("PUT /v1/cluster/policy", {"login_lockout_duration": 0})
    guess(api, 5)
    clock(10 * DAY)
    assert refused(role_of(api, bob), "invalid_credentials")
    api.ok(f"PUT {PASSWORD}", {"username": "bob", "new_password": "new"})
    guess(api, 4)
    assert role_of(api, ("bob", "new")).status == 200


def test_wrong_passwords_are_forgotten_in_time(
    api: ControlPlane, bob: tuple[str, str], clock: Callable[[float], None]
) -> None:
    """Where none came for fifteen minutes; or when the right one came."""
    guess(api, 4)
    clock(900)
    guess(api, 4)
    assert role_of(api, bob).status == 200
    guess(api, 4)
    assert role_of(api, bob).status == 200
    clock(61)
    guess(api, 1)
    assert status_of(api) == "locked"


def test_the_policy_says_how_many(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Two; or none ever, which also opens what is locked."""
    api.ok("PUT /v1/cluster/policy", {"login_lockout_threshold": 2})
    guess(api, 2)
    assert status_of(api) == "locked"
    api.ok("PUT /v1/cluster/policy", {"login_lockout_threshold": 0})
    guess(api, 9)
    assert role_of(api, bob).status == 200


def test_a_lock_outlives_the_process(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Counts too: they are in the database."""
    guess(api, 3)
    store = Store(api.url)
    again = create_app(store, lambda _: None).test_client()
    for _ in range(2):
        assert again.get("/v1/users/role", auth=("bob", "wrong")).status_code == 401
    store.close()
    assert status_of(api) == "locked"


def test_nobody_and_certificate_users_are_never_locked(api: ControlPlane, pki: Pki) -> None:
    """There is no password to guess."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme")
    guess(api, 6, "alice")
    guess(api, 6, "nobody")
    assert status_of(api) == "active"
    assert api("GET /v1/users/role", cert=pki.alice).status == 200


def test_who_was_locked_while_a_password_was_checked_stays_out(
    api: ControlPlane, bob: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many guesses at once: the right one among them comes too late. The same for a password that
    is changed meanwhile."""
    real = Passwords.check
    api.ok("PUT /v1/cluster/policy", {"login_lockout_duration": 0})

    def slow(change: dict[str, Any]) -> Callable[..., Password | None]:
        def check(self: Passwords, stored: Any, password: str) -> Password | None:
            found = real(self, stored, password)
            api.store.objects.update(User, 2, lambda user: replace(user, **change))
            return found

        return check

    for change in ({"locked": 1}, {"locked": 0, "passwords": (Password(hash_password("n"), 1),)}):
        monkeypatch.setattr(Passwords, "check", slow(change))
        assert refused(role_of(api, bob), "invalid_credentials")


def test_wrong_passwords_are_no_change(api: ControlPlane, bob: tuple[str, str]) -> None:
    """Strangers cannot make everybody read everything again; a lock is one."""
    role_of(api, ADMIN)
    before = api.store.revision()
    guess(api, 4)
    guess(api, 4, "nobody")
    assert api.store.revision() == before
    guess(api, 1)
    assert api.store.revision() == before + 1
