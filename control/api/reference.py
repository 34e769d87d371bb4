"""/openapi.json, /docs and /v1/jsonschema: this API's description of itself."""

from functools import cache
from typing import Any, cast

from flask import Blueprint, Flask, Response, current_app, render_template, request

from control.api.bdb_models import BdbBody
from control.api.cluster import ClusterBody, PolicyBody
from control.api.models import Body
from control.api.openapi import body_schema, describe
from control.api.redis_acls import RedisAclBody
from control.api.roles import RoleBody
from control.api.users import UserBody
from control.api.web import PUBLIC, answer, needs
from control.errors import refused

blueprint = Blueprint("reference", __name__)
OBJECTS: dict[str, type[Body]] = {
    "bdb": BdbBody,
    "cluster": ClusterBody,
    "cluster_settings": PolicyBody,
    "redis_acl": RedisAclBody,
    "role": RoleBody,
    "user": UserBody,
}


@blueprint.get("/openapi.json")
@needs(PUBLIC, answers=dict[str, Any])
def openapi() -> Response:
    return answer(described(application()))


@blueprint.get("/docs")
@needs(PUBLIC, answers="text/html")
def page() -> Response:
    """The same for people, as one HTML page that loads nothing from anywhere."""
    response = Response(rendered(application()))
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return response


def application() -> Flask:
    return cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]


# Nobody needs a login to ask, so it must cost nothing.
described = cache(describe)


@cache
def rendered(app: Flask) -> str:
    return render_template("reference.html", api=described(app))


@blueprint.get("/v1/jsonschema")
@needs("any", answers=dict[str, Any], query=("object",))
def read() -> Response:
    if "object" in request.args:
        return answer(schema(request.args["object"]))
    return answer({name: schema(name) for name in sorted(OBJECTS)})


@blueprint.get("/v1/jsonschema/<name>")
@needs("any", answers=dict[str, Any])
def read_named(name: str) -> Response:
    return answer(schema(name))


def schema(name: str) -> dict[str, Any]:
    if name not in OBJECTS:
        raise refused("invalid_object", f"object: there are {', '.join(sorted(OBJECTS))}")
    return body_schema(OBJECTS[name])
