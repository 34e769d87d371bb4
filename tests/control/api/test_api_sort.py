"""`sort` of lists: by a column that has an index, either way, with filters and in pages."""

import re
from dataclasses import replace

import sqlalchemy as sa

from control.records import User
from control.reports import ClientCertificate
from control.store import CERTIFICATE_SORTS, SORTS
from control.store.schema import TABLES, client_certificates
from control.store.sorting import order_of
from tests.kit.rest import ControlPlane

BLANK = ClientCertificate(
    cert="a", key="k", ca="c", issuer="", serial="1", subject="", user="", not_before=0,
    not_after=0, first=0,
)  # fmt: skip


def names(api: ControlPlane, query: str) -> list[str]:
    return [one["name"] for one in api.ok(f"GET {query}")]


def test_lists_are_sorted_either_way_in_pages(api: ControlPlane) -> None:
    """With a search and a role as without; those alike come by their key, each once."""
    for name in ("zoe", "bob", "eve"):
        api.certificate_user(name, f"CN={name}", role_uids=[4 if name == "eve" else 6])
    users = "/v1/users"
    assert names(api, f"{users}?sort=name") == ["admin", "bob", "eve", "zoe"]
    assert names(api, f"{users}?sort=-name") == ["zoe", "eve", "bob", "admin"]
    assert names(api, f"{users}?sort=-uid&limit=2") == ["eve", "bob"]
    assert names(api, f"{users}?sort=name&role_uid=6") == ["bob", "zoe"]
    assert names(api, f"{users}?sort=-name&search=O") == ["zoe", "bob"]
    by_method = names(api, f"{users}?sort=auth_method")
    assert by_method == ["zoe", "bob", "eve", "admin"]
    paged = [
        one
        for at in range(4)
        for one in names(api, f"{users}?sort=auth_method&limit=1&offset={at}")
    ]
    assert paged == by_method
    api.database("b"), api.database("a", port=6400)
    assert names(api, "/v1/bdbs?sort=name") == ["a", "b"]
    assert names(api, "/v1/bdbs?limit=5") == ["b", "a"]


def test_certificates_are_sorted(api: ControlPlane) -> None:
    """By their end unless something else is asked for; and counted, where that is cheap."""
    for cert, subject, user, end, login in (
        ("a1", "CN=c", "bob", 9_000_000_000, 5), ("a2", "CN=a", "eve", 8_000_000_000, 7),
        ("a3", "CN=b", "bob", 7_000_000_000, 6),
    ):  # fmt: skip
        one = replace(BLANK, cert=cert * 32, subject=subject, user=user, not_after=end)
        api.store.inventory.record_seen(replace(one, last_login=login))

    def found(query: str) -> str:
        got = api.ok(f"GET /v1/certauth/certificates?{query}")
        return "".join(one["subject"][-1] for one in got)

    assert found("") == found("sort=not_after") == "bac"
    assert (found("sort=-not_after"), found("sort=subject")) == ("cab", "abc")
    assert (found("sort=user"), found("sort=-last_login")) == ("bca", "abc")
    assert found("sort=subject&user=bob&limit=1&offset=1") == "c"
    counted = api("GET /v1/certauth/certificates?limit=1&user=bob").headers
    assert counted["X-Total-Count"] == "2"
    assert "X-Total-Count" not in api("GET /v1/certauth/certificates?limit=1&state=valid").headers


def test_each_kind_of_objects_has_its_columns(api: ControlPlane) -> None:
    """Its list would be a 500 else."""
    assert SORTS.keys() == TABLES.keys()
    for noun in ("responders", "issuers", "trust_sources", "profiles", "patterns"):
        for sort in ("", "?sort=name", "?sort=-name"):
            assert api(f"GET /v1/certauth/{noun}{sort}").status == 200


def test_nothing_else_is_sorted_by(api: ControlPlane) -> None:
    """No other column, no SQL, not two."""
    for path in ("/v1/users", "/v1/certauth/certificates", "/v1/bdbs"):
        for wrong in ("passwords", "--uid", "uid desc", "-", "uid,name"):
            answer = api(f"GET {path}?sort={wrong}")
            assert (answer.status, answer.code) == (400, "invalid_param")
            assert answer.text.startswith("sort: give one of ")


def test_long_lists_are_sorted_by_an_index(api: ControlPlane) -> None:
    """Each way, whole pages of it: nothing is sorted by hand, whatever the number of rows."""
    both = [(TABLES[User], one) for one in SORTS[User]]
    both += [(client_certificates, one) for one in CERTIFICATE_SORTS]
    engine = sa.create_engine(api.url)
    with engine.connect() as connection:
        for table, name in both:
            for sort in (name, f"-{name}"):
                query = sa.select(table).order_by(*order_of(table, sort)).limit(50).offset(100)
                text = query.compile(engine, compile_kwargs={"literal_binds": True})
                plan = str(connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}")).all())
                assert re.search(r"USING (COVERING )?INDEX", plan), (table.name, sort, plan)
                assert "TEMP B-TREE" not in plan, (table.name, sort, plan)
    engine.dispose()
