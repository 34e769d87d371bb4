"""Changes that concern many users: their lines follow in pieces (control/store/pieces.py)."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.policy import lines as policy
from control.records import Database, RedisAcl, User
from control.store import Store, lines, pieces
from control.store.engine import Queue
from control.store.errors import Away
from tests.kit.rest import ControlPlane

USERS = 12


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """A database on which a dozen users have an ACL, in pieces of three users."""
    monkeypatch.setattr(lines, "PIECE_USERS", 3)
    monkeypatch.setattr(pieces, "PIECE_USERS", 3)
    monkeypatch.setattr(pieces, "LEAST", 3)
    monkeypatch.setattr(pieces, "MOST", 3)
    monkeypatch.setattr(pieces.do_piece, "__defaults__", (3,))
    made = ControlPlane(tmp_path)
    acl = made.ok("POST /v1/redis_acls", {"name": "mine", "acl": "+get ~a:*"})["uid"]
    made.database(roles_permissions=[{"role_uid": 5, "redis_acl_uid": acl}])
    for number in range(USERS):
        made.certificate_user(f"u{number}", f"CN=u{number},O=acme", role_uids=[5])
    yield made
    made.close()


def held(plane: ControlPlane) -> list[str]:
    return [one for one in plane.store.policies.whole(1)[1] if one.startswith("user u")]


def mine(plane: ControlPlane) -> RedisAcl:
    return next(one for one in plane.store.objects.all(RedisAcl) if one.name == "mine")


def cut(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, after: int, acl: str) -> None:
    """Changes the ACL, and is cut off after so many pieces, as by kill -9."""
    done, real = list[int](), pieces.do_piece

    def do_piece(kernel: Any, users: int) -> set[int]:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(users)
        return real(kernel, users)

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "do_piece", do_piece)
        with pytest.raises(KeyboardInterrupt):
            plane.store.objects.update(RedisAcl, mine(plane).uid, lambda one: replace(one, acl=acl))


def test_a_change_for_all_is_whole_when_it_is_answered(plane: ControlPlane) -> None:
    before = plane.store.policies.target(1).generation
    plane.ok(f"PUT /v1/redis_acls/{mine(plane).uid}", {"acl": "+get ~b:*"})
    assert held(plane) == sorted(f"user u{n} on +get ~b:*" for n in range(USERS))
    assert plane.store.policies.target(1).generation >= before + USERS // 3
    assert plane.store.policies.unfinished() == frozenset()


def test_pieces_lead_to_what_one_change_would(plane: ControlPlane) -> None:
    plane.ok(f"PUT /v1/redis_acls/{mine(plane).uid}", {"acl": "+get ~b:*"})
    target, found = plane.store.policies.whole(1)
    with plane.store._kernel.read() as connection:
        rendered = {line for _, line in lines.render_lines(connection, 1, own=False)}
    assert set(found) == rendered
    assert target.digest == policy.digest_of("", found, ())


def test_the_log_leads_through_all_pieces(plane: ControlPlane) -> None:
    before = plane.store.policies.target(1)
    plane.ok(f"PUT /v1/redis_acls/{mine(plane).uid}", {"acl": "+get ~b:*"})
    changes = plane.store.policies.changes(1, before.generation, before.digest)
    assert changes is not None
    added = {line for one in changes for line in one.added}
    assert added == {f"user u{n} on +get ~b:*" for n in range(USERS)}
    assert changes[-1].digest == plane.store.policies.target(1).digest


def test_what_was_cut_off_goes_on_from_there(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(plane, monkeypatch, 2, "+get ~b:*")
    assert sum("~b:*" in one for one in held(plane)) == 6 - 1  # the administrator is the first user
    assert plane.store.policies.unfinished() == {1}
    again = Store(plane.url, settle=False)  # another process, as it is opened
    while again.policies.do_piece():
        pass
    again.close()
    assert all("~b:*" in one for one in held(plane))


def test_another_users_change_between_two_pieces_stays(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(plane, monkeypatch, 1, "+get ~b:*")
    users = {one.name: one.uid for one in plane.store.objects.all(User)}
    plane.store.objects.delete(User, users["u9"])
    plane.certificate_user("new", "CN=new,O=acme", role_uids=[5])
    plane.store.objects.update(User, users["u8"], lambda one: replace(one, name="user8"))
    while plane.store.policies.do_piece():
        pass
    names = {one.split()[1] for one in plane.store.policies.whole(1)[1] if one.startswith("user ")}
    assert {"new", "user8", "u0"} <= names
    assert not {"u8", "u9"} & names


def test_a_second_change_begins_anew(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(plane, monkeypatch, 2, "+get ~b:*")
    plane.ok(f"PUT /v1/redis_acls/{mine(plane).uid}", {"acl": "+get ~c:*"})
    assert held(plane) == sorted(f"user u{n} on +get ~c:*" for n in range(USERS))


def test_those_who_share_a_certificate_move_together(plane: ControlPlane) -> None:
    """In no generation does a line name a user that has none."""
    shared = {"subject": "CN=team,O=acme", "shared": True}
    for name in ("first", "second"):
        fields = {"auth_method": "certificate", "certificate_identities": [shared]}
        plane.ok("POST /v1/users", {"name": name, **fields, "role_uids": [5]})
        for n in range(4):
            plane.certificate_user(f"{name}{n}", f"CN={name}{n},O=acme", role_uids=[5])
    grants = [{"role_uid": 5, "redis_acl_uid": mine(plane).uid}]
    for given in ([], grants):
        held = set(plane.store.policies.whole(1)[1])
        before = plane.store.policies.target(1)
        plane.ok("PUT /v1/bdbs/1", {"roles_permissions": given})
        for change in plane.store.policies.changes(1, before.generation, before.digest) or ():
            held = (held - set(change.removed)) | set(change.added)
            named = {"first", "second"} & {one.split()[1] for one in held if one[:5] == "user "}
            bound = [one for one in held if one.startswith("bind subject CN=team")]
            assert set(bound[0].split()[3:] if bound else ()) <= named
    assert "bind subject CN=team,O=acme first second" in held


def test_a_preview_of_all_counts_them_and_changes_nothing(plane: ControlPlane) -> None:
    before = plane.store.policies.whole(1)
    path = f"/v1/redis_acls/{mine(plane).uid}"
    change = {"method": "PUT", "path": path, "body": {"acl": "+get ~b:*"}}
    (found,) = plane.ok("POST /v1/certauth/preview", {"changes": [change]})["databases"]
    assert (found["lines_added"], found["lines_removed"]) == (USERS, USERS)
    assert plane.store.policies.whole(1) == before
    assert plane.store.policies.unfinished() == frozenset()


def test_a_preview_holds_nobody(plane: ControlPlane) -> None:
    with plane.store.rehearse() as stage:
        stage.objects.update(RedisAcl, mine(plane).uid, lambda one: replace(one, acl="+get ~b:*"))
        plane.ok("PUT /v1/users/1", {"email": "admin@acme.example"})
    assert mine(plane).acl == "+get ~a:*"


def test_new_rules_are_tried_before_the_pieces(plane: ControlPlane) -> None:
    """One user of each set of roles stands for all: the rules of several ACLs come as selectors."""
    wide = plane.ok("POST /v1/redis_acls", {"name": "wide", "acl": "+set ~w:*"})["uid"]
    role = plane.ok("POST /v1/roles", {"name": "more", "management": "none"})["uid"]
    plane.certificate_user("both", "CN=both,O=acme", role_uids=[5, role])
    seen = list[str]()

    def tried(_: int, rules: str) -> bool:
        seen.append(rules)
        return True

    given = [(5, mine(plane).uid), (role, wide)]
    grants = [{"role_uid": one, "redis_acl_uid": acl} for one, acl in given]
    trials = plane.app.extensions["trials"]
    trials.is_good = tried
    plane.ok("PUT /v1/bdbs/1", {"roles_permissions": grants})
    assert "on (+get ~a:*) (+set ~w:*)" in seen


def test_writers_get_their_turn_in_order() -> None:
    queue, order = Queue(), list[int]()
    assert queue.acquire(0)
    assert not queue.acquire(0.01)

    def write(number: int) -> None:
        assert queue.acquire(30)
        order.append(number)
        queue.release()

    threads = list[threading.Thread]()
    for number in range(3):
        threads.append(threading.Thread(target=write, args=(number,)))
        threads[-1].start()
        while len(queue._waiting) <= number:
            pass
    queue.release()
    assert queue.acquire(30)  # a thread that takes it again and again comes behind those that wait
    assert order == [0, 1, 2]
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("name", ["alice", "a.b-c@d", "9", "o:p", "on", "x" * 128])
def test_plain_names_stand_in_lines_as_they_are(name: str) -> None:
    user = User(1, name, "certificate", (), certificate_subject_line="CN=x")
    (line,) = (one for one in policy.user_lines(user, ["+get  ~a"]) if one.startswith("user "))
    assert line == policy.core.canonical(f'user "{name}" on +get ~a')


# ---- Taking before giving ----


def generations(plane: ControlPlane, since: Any) -> Iterator[tuple[set[str], Any]]:
    """What the policy was before each generation, and the generation."""
    changes = plane.store.policies.changes(1, since.generation, since.digest)
    held = set(plane.store.policies.whole(1)[1])
    for change in reversed(changes or ()):
        held = (held - set(change.added)) | set(change.removed)
    for change in changes or ():
        yield held, change
        held = (held - set(change.removed)) | set(change.added)


def swapped(plane: ControlPlane) -> list[dict[str, int]]:
    """Grants by which the first users get the database, and the last ones, who have it, lose it."""
    last = plane.ok("POST /v1/roles", {"name": "last", "management": "none"})["uid"]
    for number in range(4):
        plane.certificate_user(f"z{number}", f"CN=z{number},O=acme", role_uids=[last])
    acl = mine(plane).uid
    plane.ok("PUT /v1/bdbs/1", {"roles_permissions": [{"role_uid": last, "redis_acl_uid": acl}]})
    return [{"role_uid": 5, "redis_acl_uid": acl}]


def test_what_one_piece_gives_comes_behind_what_all_take(plane: ControlPlane) -> None:
    grants = swapped(plane)
    before = plane.store.policies.target(1)
    plane.ok("PUT /v1/bdbs/1", {"roles_permissions": grants})
    given = False
    for _, change in generations(plane, before):
        taken = any(one.startswith("user z") for one in change.removed)
        assert not (taken and given)
        given = given or any(one.startswith("user u") for one in change.added)
    assert given
    assert len(held(plane)) == USERS


def test_what_is_opened_meets_no_rights_of_before(plane: ControlPlane) -> None:
    """A change that opens a database and takes rights away does not do the first before the
    second: between the two, more would be allowed than before it and after it."""
    before, opened = plane.store.policies.target(1), False
    plane.ok("PUT /v1/bdbs/1", {"default_user": True, "roles_permissions": []})
    for held_then, change in generations(plane, before):
        if "user default adopt off" in change.removed:
            opened = True
            assert not [one for one in held_then if one.startswith("user u")]
    assert opened


def test_taking_goes_on_first_after_it_was_cut_off(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process, which renders all again when it starts."""
    grants = swapped(plane)
    before = plane.store.policies.target(1)
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "do_piece", cut_off)
        with pytest.raises(KeyboardInterrupt):
            plane.ok("PUT /v1/bdbs/1", {"roles_permissions": grants})
    again = Store(plane.url)
    while again.policies.do_piece():
        pass
    again.close()
    plane.store.request.enter()
    given = False
    for _, change in generations(plane, before):
        assert not (given and any(one.startswith("user z") for one in change.removed))
        given = given or any(one.startswith("user u") for one in change.added)
    assert len(held(plane)) == USERS


def cut_off(*_: Any) -> set[int]:
    raise KeyboardInterrupt


# ---- Nothing is said before it is so ----


def test_the_same_change_again_is_not_done_before_the_first(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose answer was lost sends its request again, which finds nothing to change."""
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "do_piece", cut_off)
        with pytest.raises(KeyboardInterrupt):
            plane.ok("PUT /v1/bdbs/1", {"roles_permissions": []})
    assert plane.store.policies.unfinished() == {1}
    plane.ok("PUT /v1/bdbs/1", {"roles_permissions": []})
    assert plane.store.policies.unfinished() == frozenset()
    assert held(plane) == []


def test_a_change_whose_pieces_fail_is_made_and_not_in_force(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed: to answer that it was refused would be untrue. The sync worker goes on."""

    def away(*_: Any) -> set[int]:
        raise Away("the disk is full")

    path = f"PUT /v1/redis_acls/{mine(plane).uid}?wait_for_sync=0"
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "do_piece", away)
        answer = plane(path, {"acl": "+get ~b:*"})
    assert answer.status == 202
    assert "lines of its users are not all there yet" in str(answer.json)
    assert mine(plane).acl == "+get ~b:*"
    while plane.store.policies.do_piece():
        pass
    assert held(plane) == sorted(f"user u{n} on +get ~b:*" for n in range(USERS))


def test_a_database_that_goes_meanwhile_does_not_fail_the_change(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = pieces.do_piece, list[int]()

    def do_piece(kernel: Any, users: int) -> set[int]:
        if not gone:
            gone.append(1)
            plane.store.objects.delete(Database, 1)
            plane.store.nodes.forget_database(1)
        return real(kernel, users)

    monkeypatch.setattr(pieces, "do_piece", do_piece)
    plane.ok(f"PUT /v1/redis_acls/{mine(plane).uid}", {"acl": "+get ~b:*"})
    assert mine(plane).acl == "+get ~b:*"
