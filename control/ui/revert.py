"""To undo a change of an object: what the event log says it was, as the API takes it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from control.policy import bindings
from control.records import Binding

PLAIN = {
    "name", "email", "auth_method", "role_uids", "management", "resources", "acl", "tls_mode",
    "enforcement", "enforce_client_authentication", "client_cert_subject_validation_type",
    "roles_permissions", "endpoints", "default_user", "adopt_users", "tls_server_ca",
    "tls_server_name", "sentinel_master", "allow_unbound_peers", "allow_trust_on_internal_links",
    "kind", "template", "user", "session", "comment", "ca", "node_keys",
    "url", "interval", "stale", "nonce",
}  # fmt: skip
OTHERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "networks": ("from", lambda value: value),
    "authentication_ssl_client_certs": (
        "authentication_ssl_client_certs",
        lambda value: [{"client_cert": "".join(value)}] if value else [],
    ),
}
IDENTITIES = ("certificate_subject_line", "bindings")


def body_of(event: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any] | None:
    """The body of a PUT that gives the object its fields of before an event; None where the log
    does not have them whole, or they are that already."""
    fields, before = event.get("fields", []), event.get("before", [])
    if not event["type"].endswith("_updated") or not fields or len(fields) != len(before):
        return None
    try:
        was = {name: json.loads(text) for name, text in zip(fields, before, strict=True)}
    except ValueError:
        return None
    body = dict[str, Any]()
    for name, value in was.items():
        if name in IDENTITIES:
            body["certificate_identities"] = identities(was, now)
        elif name == "demands":
            body |= value
        elif name in PLAIN:
            body[name] = value
        elif name in OTHERS:
            other, turned = OTHERS[name]
            body[other] = turned(value)
        elif name != "client_ca_uses":  # which follows from the certificates
            return None
    return body if any(now.get(name) != value for name, value in body.items()) else None


def identities(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a user: the subject line is one of them."""
    if "bindings" in was:
        found = [bindings.shown(Binding(**one)) for one in was["bindings"]]
    else:
        line = now.get("certificate_subject_line")
        found = [one for one in now["certificate_identities"] if one != {"subject": line}]
    line = was.get("certificate_subject_line", now.get("certificate_subject_line", ""))
    return [{"subject": line}, *found] if line else found
