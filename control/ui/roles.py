"""Roles: what their holders may do here, and a name to give rights on databases to."""

from collections.abc import Iterator

from control.records import BUILTIN_ROLES
from control.ui import objects
from control.ui.fields import Field, Pick
from control.ui.objects import Column, Kind


def managements() -> Iterator[tuple[str, str]]:
    for one in sorted({role.management for role in BUILTIN_ROLES}, key=lambda it: it != "none"):
        yield one, one.replace("_", " ")


KIND = Kind(
    "role",
    "Roles",
    "What users may do here (management), and a name that databases give rights to. The first "
    "seven stay as they are.",
    "roles",
    "/v1/roles",
    ("create_role", "update_role", "delete_role"),
    (Column("Management", lambda role: role["management"].replace("_", " ")),),
    (
        Field("name", "Name", required=True),
        Pick(
            "management",
            "Management",
            "What its holders may do here; none is right for programs.",
            choices=managements,
        ),
    ),
)
blueprint = objects.blueprint_of(KIND)
