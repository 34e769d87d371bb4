"""Patterns: many certificates by one line, each a user of its own, or all of them one."""

from collections.abc import Iterator
from typing import get_args

from control.records import PatternKind
from control.ui import objects
from control.ui.fields import Field, Many, Pick, Words
from control.ui.objects import Column, Kind
from control.ui.users import roles


def kinds() -> Iterator[tuple[str, str]]:
    return ((kind, kind) for kind in get_args(PatternKind))


KIND = Kind(
    "pattern",
    "Patterns",
    "Many certificates by one line: each is a user of its own, with its own keys, or all of them "
    "are one certificate user.",
    "patterns",
    "/v1/certauth/patterns",
    ("create_new_user", "update_user", "delete_user"),
    (
        Column(
            "Certificates", lambda one: f"{one['kind']} {one['template']}", code=True, sort="kind"
        ),
        Column("Are the user", lambda one: one["user"], code=True, sort="user"),
        Column("For", lambda one: one["comment"]),
    ),
    (
        Field("name", "Name", required=True),
        Pick("kind", "What of a certificate", choices=kinds),
        Field(
            "template",
            "Template",
            "Such as spiffe://acme/ns/{ns}/sa/{sa}, or CN={id},OU=devices,O=acme.",
            required=True,
        ),
        Field(
            "user",
            "User",
            "With placeholders of the template, such as app:{ns}:{sa}; or without, the name of a "
            "certificate user who they all are.",
            required=True,
        ),
        Many(
            "role_uids",
            "Roles",
            "Of users with a placeholder. An ACL may hold placeholders too: ~{ns}:*",
            choices=roles,
        ),
        Field("ca", "Only below this CA", "A trusted one, by its name, SHA-256 or key id."),
        Words("from", "Only from", "Addresses and networks; none: from everywhere."),
        Field("session", "Longest session", "Such as 8h; none: until the certificate ends."),
        Field("comment", "Comment"),
    ),
    noun_in_log="pattern",
)
blueprint = objects.blueprint_of(KIND)
