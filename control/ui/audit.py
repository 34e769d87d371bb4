"""Who did what, here and on every node: the event log, searched, followed, and taken along."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, render_template, request

from control.errors import Refusal
from control.ui.ask import ask, may, offset_of

blueprint = Blueprint("audit", __name__, url_prefix="/ui/audit")
PAGE = 50
PART, MOST = 5_000, 100_000  # events of a file: read at once, and in all
# What is asked for most: beginnings of types, and what they are called.
KINDS = (
    ("", "everything"),
    ("client_refused,client_handshake,login_failed", "refused logins"),
    ("client_login,client_choose,login", "logins"),
    ("client_", "all of clients of databases"),
    ("user_,role_,redis_acl_,profile_,pattern_", "changes of users, patterns, roles and ACLs"),
    ("bdb_,node_", "changes of databases"),
    ("cluster_,certificate_,ca_", "settings and certificates"),
    ("revo,crl_,ocsp_,responder_,lock", "revocations and locks"),
)
FILTERS = ("kind", "type", "user", "search", "since", "until")
OWN = {
    "time", "type", "severity", "reason", "bdb_name", "node", "username", "address", "fields",
    "before", "after", "added", "removed", "originating_username", "originating_address",
}  # fmt: skip
LABELS = {"kind": "What", "stime": "From", "etime": "Until"}
# The noun of an event's object, and where that is; databases come last, since others name theirs.
PLACES = (
    ("user", "users"), ("role", "roles"), ("redis_acl", "acls"), ("pattern", "patterns"),
    ("profile", "profiles"), ("responder", "responders"), ("bdb", "databases"),
)  # fmt: skip
COLUMNS = ("time", "type", "severity", "object", "by", "from", "where", "reason", "change", "more")


@blueprint.get("/")
def show() -> Any:
    offset, error, found = offset_of(request.args), None, []
    chosen = filters()
    try:
        found = ask("GET /v1/logs", **asked(chosen), limit=PAGE + 1, offset=offset)
    except Refusal as refused:
        if refused.status != 400:
            raise
        error = Refusal(400, refused.error_code, worded(refused.description))
    page = render_template(
        "audit.html", events=[told(one) for one in found[:PAGE]], more=len(found) > PAGE,
        offset=offset, limit=PAGE, chosen=chosen, kinds=KINDS, error=error,
        args={name: value for name, value in chosen.items() if value},
        follow="follow" in request.args and not error and not offset, kept=retention(),
    )  # fmt: skip
    return page, error.status if error else 200


def filters() -> dict[str, str]:
    return {name: request.args.get(name, "").strip() for name in FILTERS}


def asked(chosen: Mapping[str, str]) -> dict[str, Any]:
    """The query of /v1/logs for what is chosen, the newest first."""
    return {
        "type": chosen["type"] or chosen["kind"] or None, "user": chosen["user"] or None,
        "search": chosen["search"] or None, "stime": chosen["since"] or None,
        "etime": chosen["until"] or None, "order": "desc",
    }  # fmt: skip


def worded(text: str) -> str:
    """What is wrong with a query, by the names that its fields have here."""
    name, _, why = text.partition(": ")
    return f"{LABELS[name]}: {why}, such as 2026-12-24T18:00" if name in LABELS else text


def retention() -> int:
    """Days for which changes are kept; 0 for who may not know."""
    return int(ask("GET /v1/cluster")["log_retention"]) if may("view_cluster_info") else 0


@blueprint.get("/export.<any(csv, jsonl):form>")
def export(form: str) -> Any:
    """What is chosen, as a file: CSV for people, JSON lines for programs."""
    found = list(parts(asked(filters())))
    if form == "csv":
        return as_csv("audit", COLUMNS, map(cells, found))
    text = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in found)
    headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
    return Response(text, mimetype="application/x-ndjson", headers=headers)


def parts(query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for offset in range(0, MOST, PART):
        found = ask("GET /v1/logs", **query, limit=PART, offset=offset)
        yield from found
        if len(found) < PART:
            return


def cells(event: dict[str, Any]) -> list[str]:
    """An event as COLUMNS."""
    one = told(event)
    change = "; ".join(f"{name}: {was} -> {now}" for name, was, now in one["changes"])
    more = "; ".join(f"{name}={value}" for name, value in one["rest"].items())
    return [*(one[name] for name in COLUMNS[:-2]), change, more]


def as_csv(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Response:
    """A file for people and their spreadsheets."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(heads)
    writer.writerows([harmless(str(cell)) for cell in row] for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(out.getvalue(), mimetype="text/csv", headers=headers)


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: what stands in it, others have written."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


# ---- Events --------------------------------------------------------------------------------------


def told(event: dict[str, Any]) -> dict[str, Any]:
    """An event as its row shows it."""
    name, link = subject(event)
    by = event.get("originating_username", "")
    if event["type"].startswith(("client_", "login")):
        by = by or event.get("username", "")
    rest = {key: value for key, value in event.items() if key not in OWN and value != ""}
    where = event.get("node", "")
    return {
        "time": event["time"],
        "type": event["type"],
        "severity": event["severity"],
        "object": name,
        "link": link,
        "by": by,
        "from": event.get("originating_address") or event.get("address", ""),
        "where": f"{event['bdb_name']}, {where}" if where and event.get("bdb_name") else where,
        "reason": event.get("reason", ""),
        "changes": changes(event),
        "rest": {key: ", ".join(v) if isinstance(v, list) else v for key, v in rest.items()},
        "explain": explained(event),
    }


def subject(event: Mapping[str, Any]) -> tuple[str, str]:
    """What an event is about, and where that is, if it is still anywhere."""
    if event["type"].startswith(("client_", "certificate_")) and event.get("cert"):
        name = event.get("subject") or ", ".join(event.get("sans", ())) or event["cert"]
        known = event["type"] in ("client_login", "client_choose") or "issued" in event["type"]
        return name, f"/ui/certificates/{event['cert']}" if known else ""
    if "certificate" in event:
        return event["certificate"], "/ui/cas/" if event["certificate"] == "mtls_trusted_ca" else ""
    for noun, place in PLACES:
        if f"{noun}_name" in event or event["type"].startswith(f"{noun}_"):
            uid, name = event.get(f"{noun}_uid"), event.get(f"{noun}_name", "")
            gone = event["type"].endswith("_deleted") or not uid or not place
            return name or f"{noun} {uid}", "" if gone else f"/ui/{place}/{uid}"
    if lines := event.get("lines"):
        return ", ".join(lines[:3]), "/ui/certificates/#revoked"
    return event.get("subject") or event.get("username", ""), ""


def changes(event: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The fields that a change was about: name, what it was, what it is."""
    found = [("added", "", one) for one in event.get("added", ())]
    found += [("removed", "", one) for one in event.get("removed", ())]
    fields = event.get("fields", [])
    empty = [""] * len(fields)
    both = zip(fields, event.get("before", empty), event.get("after", empty), strict=False)
    return [*found, *((name, plain(was), plain(now)) for name, was, now in both)]


def plain(text: str) -> str:
    """A value in JSON, for people."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return shown(value)


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, dict):
        return " ".join(
            f"{name}={shown(one)}" for name, one in value.items() if one not in ("", [])
        )
    return str(value)


def explained(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """The query that has /ui/explain say why a client was refused."""
    known = ("serial", "cert", "key")
    if event["type"] not in ("client_refused", "client_would_refuse"):
        return None
    if not all(event.get(name) for name in known):
        return None
    names = ("subject", *known, "sans", "ca", "not_after", "bdb_uid", "address")
    return {name: event[name] for name in names if event.get(name)}


def history(noun: str, uid: int, limit: int = 10) -> list[dict[str, Any]]:
    """The last changes of an object; none for who may not see the log."""
    if not may("view_logged_events"):
        return []
    found = ask("GET /v1/logs", object=f"{noun}/{uid}", order="desc", limit=limit)
    return [{**told(one), "event": one} for one in found]
