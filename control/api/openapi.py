"""The description of the REST API, as OpenAPI 3.1: made from what the handlers declare (`needs`)
and the models that check their bodies, so that it cannot differ from what is done."""

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, get_origin

from flask import Flask
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule as Route

from control.api import models
from control.api.models import Problem
from control.api.web import PUBLIC, Rule
from control.nodes.waiting import LONGEST

COMPONENTS = "#/components/schemas/{model}"
TEXT = {"type": "string"}
NUMBER = {"type": "integer", "minimum": 0}
FLAG: dict[str, Any] = {"schema": {"type": "boolean"}, "allowEmptyValue": True}
QUERY: dict[str, dict[str, Any]] = {
    "dry_run": {"description": "Check only, change nothing.", **FLAG},
    "fields": {"description": "Names of fields, with commas: answer only those.", "schema": TEXT},
    "extended": {"description": "Accepted: answers are always extended.", **FLAG},
    "force": {"description": "Do it, even if clients are cut off.", **FLAG},
    "ignore_settings": {"description": "Also of alerts that are not enabled.", **FLAG},
    "interval": {"description": "Accepted: the figures are those of now.", "schema": TEXT},
    "issues_only": {"description": "Leave out what is well.", **FLAG},
    "object": {"description": "The name of an object; of the log: user/5.", "schema": TEXT},
    "stime": {"description": "ISO 8601: not before.", "schema": TEXT},
    "etime": {"description": "ISO 8601: not after.", "schema": TEXT},
    "order": {"schema": {"enum": ["asc", "desc"]}},
    "limit": {"schema": NUMBER},
    "days": {"description": "How many days to look ahead.", "schema": NUMBER},
    "bdb": {"description": "Only those of this database, by uid.", "schema": NUMBER},
    "type": {"description": "Types of events, or their beginnings, with commas.", "schema": TEXT},
    "name": {"description": "Only the one with this name.", "schema": TEXT},
    "search": {"description": "Only those whose name holds this.", "schema": TEXT},
    "sort": {"description": "By this; -name: the greatest first.", "schema": TEXT},
    "step": {"description": "Seconds of a span.", "schema": NUMBER},
    "user": {"description": "Only those of this user, by name.", "schema": TEXT},
    "ca": {"description": "Only those of the CA with this key id.", "schema": TEXT},
    "expires_before": {"description": "ISO 8601: only those that end by then.", "schema": TEXT},
    "owner": {
        "description": "Only lines for these.",
        "schema": {"enum": ["database", "user", "pattern", "revocations"]},
    },
    "role_uid": {"description": "Only those who hold this role.", "schema": NUMBER},
    "state": {"description": "Only those in one of these states, with commas.", "schema": TEXT},
    "serves": {"description": "Only certificates that are not restricted to clients.", **FLAG},
    "expiring": {"description": "Only those that end soon and have no successor.", **FLAG},
    "wait_for_sync": {
        "schema": {"type": "number", "minimum": 0, "maximum": LONGEST},
        "description": "Seconds to wait for the servers. 202: some are pending.",
    },
    "offset": {"schema": NUMBER},
    "page": {"description": "The number of a page; 1 is the first.", "schema": NUMBER},
    "page_size": {"description": "Entries of a page.", "schema": NUMBER},
    "tls_mode": {"schema": {"enum": ["enabled", "disabled", "replica_ssl"]}},
}
METHODS = ("GET", "POST", "PUT", "DELETE")


def describe(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of an application."""
    paths: dict[str, dict[str, Any]] = {}
    for route, rule, handler in declared(app):
        for method in METHODS:
            if method in (route.methods or ()):
                path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", route.rule)
                operation = _operation(method, path, route, rule, inspect.getdoc(handler) or "")
                paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "redis-certauth",
            "version": version("redis-certauth"),
            "description": "Certificate-based authentication for Redis and Valkey, with the REST "
            "API of Redis Enterprise. Errors are {error_code, description, message}.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _schemas(app), "securitySchemes": SECURITY},
        "security": [{name: []} for name in SECURITY],
    }


SECURITY = {
    "password": {"type": "http", "scheme": "basic"},
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "certificate": {"type": "mutualTLS"},
}


def declared(app: Flask) -> Iterator[tuple[Route, Rule, Any]]:
    """Every route of the application that is for somebody, what it declares, and its handler."""
    for route in sorted(app.url_map.iter_rules(), key=lambda route: route.rule):
        handler = app.view_functions[route.endpoint]
        if "rule" in handler.__dict__:
            yield route, handler.__dict__["rule"], handler


def body_schema(model: type[models.Body]) -> dict[str, Any]:
    """The JSON schema of a body by itself."""
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        _name_ignored(name, part)
        _drop_placeholders(part)
    return schema


def _operation(method: str, path: str, route: Route, rule: Rule, text: str) -> dict[str, Any]:
    parameters = [_path_parameter(route, name) for name in re.findall(r"{(\w+)}", path)]
    parameters += [{"name": name, "in": "query", **QUERY[name]} for name in rule.query]
    if rule.takes and method in ("PUT", "DELETE"):
        parameters.append({"name": "If-Match", "in": "header", "schema": TEXT})
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}_{route.endpoint.replace('.', '_')}",
        "summary": " ".join(text.split()),
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": _answered(rule.answers)},
            "default": {"description": "Refused.", "content": _content(_reference(Problem))},
        },
    }
    if "wait_for_sync" in rule.query:
        operation["responses"]["202"] = operation["responses"]["200"]
    if rule.permission == PUBLIC:
        operation["security"] = []
    else:
        operation["x-permission"] = rule.permission
    if rule.takes:
        content = _content(_reference(rule.takes))
        operation["requestBody"] = {"content": content, "required": not rule.takes.OPTIONAL}
    return operation


def _path_parameter(route: Route, name: str) -> dict[str, Any]:
    number = f":{name}>" in route.rule
    schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1} if number else TEXT
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _answered(kind: Any) -> dict[str, Any]:
    return {kind: {"schema": TEXT}} if isinstance(kind, str) else _content(_answer(kind))


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(model: type[Any]) -> dict[str, Any]:
    return {"$ref": COMPONENTS.format(model=model.__name__)}


def _answer(kind: Any) -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema(ref_template=COMPONENTS, mode="serialization")
    schema.pop("$defs", None)
    return schema if get_origin(kind) else _reference(kind)


def _schemas(app: Flask) -> dict[str, Any]:
    """All models that bodies and answers are made of, by name."""
    kinds: set[Any] = {Problem, *(_model(rule.answers) for _, rule, _ in declared(app))}
    kinds = {kind for kind in kinds if not isinstance(kind, str)}
    kinds |= {rule.takes for _, rule, _ in declared(app) if rule.takes}
    inputs = sorted(kinds - {Any}, key=lambda model: model.__name__)
    _, schema = models_json_schema(
        [(model, "validation") for model in inputs], ref_template=COMPONENTS
    )
    found: dict[str, Any] = schema["$defs"]
    for name, part in found.items():
        _name_ignored(name, part)
        _drop_placeholders(part)
    return found


def _model(kind: Any) -> Any:
    """The model inside of list[model] and dict[str, model]."""
    return kind.__args__[-1] if get_origin(kind) else kind


def _name_ignored(name: str, schema: dict[str, Any]) -> None:
    """Adds the fields that a body may have and that are not settings here."""
    known = {model.__name__: model for model in _below(models.Body)}
    for field in sorted(getattr(known.get(name), "IGNORED", ())):
        schema.setdefault("properties", {})[field] = {"description": "Accepted and ignored."}
    for field, held in sorted(getattr(known.get(name), "HELD", {}).items()):
        told = {"description": f"Other values are refused (406): {held.why}."}
        values = {"enum": list(held.values)} if held.values else {}
        schema.setdefault("properties", {})[field] = told | values


def _drop_placeholders(schema: dict[str, Any]) -> None:
    """A default that the field itself would refuse stands for one that was not sent: there is
    none."""
    for part in schema.get("properties", {}).values():
        if "default" in part and not _is_valid(part["default"], part):
            del part["default"]


def _is_valid(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0) and bool(
            re.search(schema.get("pattern", ""), value)
        )
    if isinstance(value, list):
        return len(value) >= int(schema.get("minItems", 0))
    return not isinstance(value, int) or value >= schema.get("minimum", value)


def _below(model: type[models.Body]) -> Iterator[type[models.Body]]:
    """The bodies that are made of one, which stand beside their handlers."""
    for one in model.__subclasses__():
        yield one
        yield from _below(one)
