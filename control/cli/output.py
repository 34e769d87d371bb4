"""What a command prints: tables, JSON, and the API's answers as lines of plain text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from control.policy import bindings

Fields = Mapping[str, Any]
IDENTITIES = "certificate_identities"  # a field of users


def render_explanation(found: Fields) -> Iterator[str]:
    """An answer of /v1/certauth/explain."""
    yield from found["trace"]
    yield f"decision: {found['action']} {' '.join(found['users'])}".rstrip()


def render_preview(databases: Sequence[Fields]) -> Iterator[str]:
    """An answer of /v1/certauth/preview."""
    if not databases:
        yield "no policy changes"
    for one in databases:
        yield f"{one['bdb_name']}:"
        yield from (f"  - {line}" for line in one["removed"])
        yield from _rest(one["lines_removed"], one["removed"], "lines that go")
        yield from (f"  + {line}" for line in one["added"])
        yield from _rest(one["lines_added"], one["added"], "lines that come")
        for node in one["nodes"]:
            yield from (f"  {line}" for line in _node(node))
        for certificate in one["certificates"]:
            was, will = (_outcome(certificate[when]) for when in ("before", "after"))
            yield f"  certificate {certificate['subject']}: {was} -> {will}"
        yield from _rest(one["certificates_changed"], one["certificates"], "certificates")


def render_refusals(node: Fields) -> Iterator[str]:
    """What of a change a server refuses, which is a node of such an answer."""
    for one in node["refused"]:
        what = f"the user {one['user']}" if one["user"] else f"'{one['line']}'"
        yield f"server {node['address']} refuses {what}: {one['why']}"


def _node(node: Fields) -> Iterator[str]:
    if node["error"]:
        yield f"{node['address']}: not known: {node['error']}"
        return
    yield from render_refusals(node)
    yield f"{node['address']}: {node['ends']} of {node['sessions']} sessions end"
    for one in node["ending"]:
        who = one["user"] or "nobody"
        certificate = f" ({one['subject']})" if one["subject"] else ""
        then = {**one["then"], "users": [one["then"]["user"]] if one["then"]["user"] else []}
        yield f"  {who} from {one['address'] or 'a unix socket'}{certificate} -> {_outcome(then)}"
    yield from _rest(node["ends"], node["ending"], "sessions")
    for user in node["users"]:
        what = "needs no password" if user["nopass"] else f"{user['passwords']} passwords"
        yield f"  user {user['name']} loses its password ({what})"


def _outcome(found: Fields) -> str:
    who = " or ".join(found["users"])
    return who or f"{found['action']} ({found['reason']})"


def _rest(count: int, shown: Sequence[Any], what: str) -> Iterator[str]:
    if count > len(shown):
        yield f"  and {count - len(shown)} more {what}"


HIDDEN = {
    "time", "type", "severity", "time_us", "seq", "client", "cert", "key", "ca", "bdb_uid",
    "not_after",
}  # fmt: skip


def render_events(events: Sequence[Fields]) -> Iterator[str]:
    """Events of /v1/logs; hashes and numbers that only programs need are left out."""
    for event in events:
        details = " ".join(f"{name}={_told(event[name])}" for name in event if name not in HIDDEN)
        yield f"{event['time']} {event['type']} {details}".rstrip()


def _told(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- Showing -------------------------------------------------------------------------------------

AS_JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


def clean(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(one if one.isprintable() or one == "\n" else escaped(one) for one in text)


def escaped(text: str) -> str:
    """Its bytes in hex, as RFC 4514 has them."""
    return "".join(f"\\{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def cell(value: Any) -> Text:
    """As people read it. A Text, since a string would be read as rich's markup."""
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list) and all(not isinstance(one, dict) for one in value):
        return Text(clean(", ".join(map(str, value))))
    if isinstance(value, list | dict):
        return Text(clean(json.dumps(value, ensure_ascii=False)))
    return Text(clean(str(value).strip()))


def readable(name: str, value: Any) -> Any:
    """A field's value as people read it, where its JSON is not that."""
    return "; ".join(map(bindings.written, value)) if name == IDENTITIES and value else value


def echo(value: Any, as_json: bool, columns: tuple[str, ...] = ()) -> None:
    """An object as two columns, a list as rows of `columns`; or either of them as JSON. Nothing for
    None."""
    if value is None:
        return
    if as_json:
        click.echo(json.dumps(value, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_header=isinstance(value, list))
    if isinstance(value, list):
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for one in value:
            table.add_row(*(cell(readable(column, one.get(column, ""))) for column in columns))
    else:
        for name, content in value.items():
            table.add_row(Text(name), cell(readable(name, content)))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=1000)
    console.print(table, crop=False)


def render_time(time: int) -> str:
    """Seconds since 1970 as people read them; 0 is not known."""
    return datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds") if time else ""
