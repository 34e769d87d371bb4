"""Profiles: what certificates are like that are issued here."""

from typing import get_args

from control.ui import objects
from control.ui.fields import Field, Lines, Many, Number, Several
from control.ui.objects import Column, Kind
from control.ui.users import roles
from control.words import KeyUsage

DAY, HOUR = 86_400, 3_600  # seconds


def lasting(seconds: int) -> str:
    """A lifetime, for people."""
    for size, name in ((DAY, "day"), (HOUR, "hour")):
        if seconds % size == 0:
            return f"{seconds // size} {name}{'' if seconds == size else 's'}"
    return f"{seconds} seconds"


KIND = Kind(
    "profile",
    "Profiles",
    "What a certificate is like that is issued here from a CSR, and who may have one. What was "
    "issued before a change stays as it is.",
    "profiles",
    "/v1/certauth/profiles",
    ("update_cluster",) * 3,
    (
        Column("Lifetime", lambda one: lasting(one["lifetime"]), sort="lifetime"),
        Column("Subject", lambda one: one["subject"] or "the user's own", code=True),
        Column("SANs", lambda one: " ".join(one["sans"]), code=True),
    ),
    (
        Field("name", "Name", required=True),
        Number("lifetime", "Lifetime", "Seconds, from an hour (3600) to 366 days (31622400)."),
        Field(
            "subject",
            "Subject",
            "Such as CN={name},O=acme, where {name} is the user's. Empty: the user's own subject.",
        ),
        Lines(
            "sans",
            "Subject alternative names",
            "One per line, such as uri:spiffe://acme/{name}, dns:…, email:…, ip:… or upn:…",
        ),
        Several(
            "key_usage",
            "Key usage",
            choices=lambda: [(one, one.replace("_", " ")) for one in get_args(KeyUsage)],
        ),
        Many(
            "role_uids",
            "Only for users with one of these roles",
            "None is chosen: for all users.",
            choices=roles,
        ),
    ),
    noun_in_log="profile",
)
blueprint = objects.blueprint_of(KIND)
