"""control/api/openapi.py, control/api/reference.py: the API's description of itself, and a fuzzer
that goes by it."""

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.api import models
from control.api.models import Body
from control.api.openapi import declared, describe
from control.api.reference import OBJECTS
from control.domain import tokens
from control.domain.guard import PERMISSIONS
from control.http.server import Listen, Server
from control.records import Management, Role, User
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki


def operations(document: dict[str, Any]) -> dict[str, Any]:
    """ "METHOD path" → operation."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


# ---- The description ----


def test_every_route_is_described(api: ControlPlane) -> None:
    """With its permission, its body and its parameters, from the handlers' own declarations."""
    document = api.ok("GET /openapi.json", auth=None)
    found = operations(document)
    for route, rule, _ in declared(api.app):
        path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", route.rule)
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}:
            operation = found.pop(f"{method} {path}")
            assert operation.get("x-permission", "nobody's") == rule.permission
            assert ("requestBody" in operation) == (rule.takes is not None)
            names = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert names == re.findall(r"{(\w+)}", path)
    assert found == {}
    assert len({one["operationId"] for one in operations(document).values()}) == len(
        operations(document)
    )


def test_every_reference_leads_somewhere(api: ControlPlane) -> None:
    """And no schema is there that nothing leads to."""
    document = api.ok("GET /openapi.json", auth=None)
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert found == set(document["components"]["schemas"])


def test_the_schemas_say_what_the_models_do(api: ControlPlane) -> None:
    """What is accepted, refused, required and ignored."""
    user = api.ok("GET /v1/jsonschema?object=user")["properties"]
    assert user["name"]["maxLength"] == 255
    assert user["role"]["enum"] == list(get_args(Management))
    assert user["account_id"]["description"] == "Accepted and ignored."
    schemas = api.ok("GET /openapi.json")["components"]["schemas"]
    assert schemas["NewBdbBody"]["required"] == ["name", "endpoints"]
    for name, schema in schemas.items():
        model = getattr(models, name, None)
        if isinstance(model, type) and issubclass(model, Body):
            assert schema["additionalProperties"] is False
            assert set(schema.get("properties", {})) == (
                set(model.model_fields) | model.IGNORED | model.HELD.keys()
            )


def test_an_object_has_its_schema_by_both_spellings(api: ControlPlane) -> None:
    """406 for one that is none."""
    for name in OBJECTS:
        assert api.ok(f"GET /v1/jsonschema?object={name}") == api.ok(f"GET /v1/jsonschema/{name}")
    for path in ("?object=shard", "/shard", "?object="):
        answer = api(f"GET /v1/jsonschema{path}")
        assert (answer.status, answer.code) == (406, "invalid_object")


def test_the_page_names_everything_and_loads_nothing(api: ControlPlane) -> None:
    """For people, without a login, a script or another host."""
    response = api.client.get("/docs")
    page = response.get_data(as_text=True)
    assert response.mimetype == "text/html"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    document = describe(api.app)
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    for name, schema in document["components"]["schemas"].items():
        assert f'id="{name}"' in page
        assert all(field in page for field in schema.get("properties", {}))
    for permission in PERMISSIONS.keys() - {"any"}:
        assert permission in page
    assert all(management in page for management in get_args(Management))
    assert not re.search(r"<script|https?://|src=", page)


# ---- The fuzzer ----


class Front:
    """A running server with a database, a user and an action, and requests to it."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.api = ControlPlane(folder)
        self.api.trust(pki.ca)
        self.api.certificate_user("alice", "CN=alice")
        self.api.database()
        chain, key = pki.server.pem, pki.server.key_pem
        self.server = Server(self.api.app, Listen("127.0.0.1", 0), chain, key)
        context = ssl.create_default_context(cadata=pki.server_ca.pem.decode())
        self.connection = http.client.HTTPSConnection(
            "localhost", self.server.start(), timeout=20, context=context
        )

    def token(self) -> str:
        """Of an administrator, no matter who that is by now."""
        store = self.api.store
        admins = (
            user
            for user in store.objects.all(User)
            if Role(1, "Admin", "admin") in store.objects.roles_of(user)
        )
        return tokens.make(next(admins), store.settings.cluster(), 60)

    def __call__(self, method: str, path: str, content: bytes | None) -> tuple[int, str, bytes]:
        """Status, media type and body."""
        headers = {"Authorization": f"JWT {self.token()}", "Content-Type": "application/json"}
        self.connection.request(method, path, content, headers)
        response = self.connection.getresponse()
        return response.status, response.headers.get_content_type(), response.read()

    def close(self) -> None:
        self.connection.close()
        self.server.stop()
        self.api.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Front]:
    made = Front(tmp_path_factory.mktemp("front"), pki)
    yield made
    made.close()


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def values(schema: dict[str, Any], document: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a schema allows, to speak of what this API's schemas say; and now and then, at any
    depth, what it does not."""
    allowed = st.deferred(lambda: allowed_by(schema, document))
    return st.integers(0, 9).flatmap(lambda dice: JUNK if dice == 0 else allowed)


def allowed_by(schema: dict[str, Any], document: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return allowed_by(document["components"]["schemas"][name], document)
    if "anyOf" in schema:
        return st.one_of([allowed_by(one, document) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "properties" in schema:
        fields = {name: values(one, document) for name, one in schema["properties"].items()}
        required = {name: fields.pop(name) for name in schema.get("required", ())}
        few = st.sets(st.sampled_from(sorted(fields)), max_size=4) if fields else st.just(set())
        return few.flatmap(
            lambda names: st.fixed_dictionaries(required | {name: fields[name] for name in names})
        )
    least, most = schema.get("minLength", 0), min(schema.get("maxLength", 300), 300)
    simple: dict[str | None, st.SearchStrategy[Any]] = {
        "string": st.from_regex(schema["pattern"], fullmatch=True)
        if "pattern" in schema
        else st.text(min_size=least, max_size=most),
        "integer": st.integers(schema.get("minimum", 0), schema.get("maximum", 2**31)),
        "boolean": st.booleans(),
        "null": st.none(),
        "array": st.lists(values(schema.get("items", {}), document), max_size=3),
    }
    return simple.get(schema.get("type"), JUNK)


def paths(path: str, operation: dict[str, Any]) -> st.SearchStrategy[str]:
    """The path with its parameters filled in, and a query."""
    text = st.text(max_size=20)
    known = st.sampled_from(["1", "2", "8", "bdb", "admin", "api", "mtls_trusted_ca"])
    inside = {
        one["name"]: (known | text.filter(bool)).map(lambda value: quote(value, safe=""))
        for one in operation["parameters"]
        if one["in"] == "path"
    }
    query = {
        one["name"]: text | st.sampled_from(["1", "asc", "user", "2026-01-01T00:00:00Z"])
        for one in operation["parameters"]
        if one["in"] == "query"
    }
    return st.builds(
        lambda fill, asked: (
            path.format(**fill)
            + "?"
            + "&".join(f"{name}={quote(value)}" for name, value in asked.items())
        ),
        st.fixed_dictionaries(inside),
        st.fixed_dictionaries({}, optional=query),
    )


def test_whatever_is_sent_the_server_does_not_fail(front: Front) -> None:
    """Every operation with what its schema allows and with what it does not: never a 5xx but the
    ones that say that roles for some databases are not supported, or that no control plane leads;
    always JSON, or what the operation says that it answers, or a sentence of EST's (RFC 7030,
    4.2.3)."""
    document = describe(front.api.app)
    found = operations(document)
    requests = []
    for name, operation in found.items():
        method, path = name.split(" ")
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        content = values(body["schema"], document) if body else st.none()
        answers = {
            kind for one in operation["responses"].values() for kind in one.get("content", ())
        }
        if path.startswith("/.well-known/est/"):
            answers.add("text/plain")
        requests.append(
            st.tuples(st.just(method), paths(path, operation), content, st.just(answers))
        )

    @settings(
        max_examples=600,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(requests))
    def send(request: tuple[str, str, Any, set[str]]) -> None:
        method, path, body, answers = request
        content = None if body is None else json.dumps(body).encode()
        status, kind, answered = front(method, path, content)
        # No worker runs, so that nothing here is ready.
        told = any(
            one in answered for one in (b"unsupported_resource", b'"inactive"', b'"waiting"')
        )
        assert status < 500 or (status in (501, 503) and told), answered
        if kind == "application/json":
            json.loads(answered)
        else:
            assert kind in answers or (status, answered) == (204, b""), kind
        assert status != 401 or "/users/" in path or "/enrol" in path, answered

    send()
