"""OCSP responders: who is asked about the certificates of which CA, and what they have said."""

from collections.abc import Iterator
from typing import get_args

from control.records import Stale
from control.ui import objects
from control.ui.ask import ask
from control.ui.changes import Item
from control.ui.fields import Field, Flag, Number, Pick
from control.ui.objects import Column, Kind

WORDS = {"warn": "they stay good, and a warning says so", "refuse": "they are refused"}


def cas() -> Iterator[tuple[str, str]]:
    return ((one["ca"], one["subject"]) for one in ask("GET /v1/certauth/ca")["cas"])


def stale() -> Iterator[tuple[str, str]]:
    return ((word, WORDS[word]) for word in get_args(Stale))


def status(one: Item) -> str:
    if one["problem"]:
        return f"{one['overdue']} overdue: {one['problem']}"
    return f"last asked at {one['asked']}" if one["asked"] else "not asked yet"


def kind(one: Item) -> str:
    if one["overdue"] and one["stale"] == "refuse":
        return "bad"
    return "warn" if one["problem"] else "good"


KIND = Kind(
    "responder",
    "OCSP responders",
    "Who is asked whether the certificates of a CA are revoked. Logins never wait for it.",
    "responders",
    "/v1/certauth/responders",
    ("update_cluster", "update_cluster", "update_cluster"),
    (
        Column("Good", lambda one: str(one["good"])),
        Column("Revoked", lambda one: str(one["revoked"])),
        Column("Status", status, kind),
    ),
    (
        Field("name", "Name", required=True),
        Pick("ca", "CA", choices=cas),
        Field("url", "URL", "None: the URL that each certificate names (AIA)."),
        Number("interval", "Asked again after", "Seconds, for each certificate."),
        Pick("stale", "When the next answer is overdue", choices=stale),
        Flag("nonce", "Only fresh answers", "Each answer must repeat the nonce of the question."),
    ),
    noun_in_log="responder",
)
blueprint = objects.blueprint_of(KIND)
