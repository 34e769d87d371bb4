"""What a command prints: tables, JSON, and the API's answers as lines of plain text."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import rich.console
import rich.table
import rich.text
import yaml

from control.policy import bindings

Fields = Mapping[str, Any]
SHOWN = 10  # sessions of a node, and certificates, that a preview names without --lines
IDENTITIES = "certificate_identities"  # a field of users


def render_explanation(found: Fields) -> Iterator[str]:
    """An answer of /v1/certauth/explain."""
    yield from found["trace"]
    yield f"decision: {found['action']} {' '.join(found['users'])}".rstrip()


def render_preview(databases: Sequence[Fields], lines: bool = False) -> Iterator[str]:
    """An answer of /v1/certauth/preview in people's words, with the first sessions that end and
    the first certificates that become somebody else; with `lines`, all of them, and the policy
    lines."""
    if not databases:
        yield "no policy changes"
    for one in databases:
        yield f"{one['bdb_name']}:"
        yield from (f"  {'! ' if each['cuts'] else ''}{each['text']}" for each in one["effects"])
        if not one["effects"]:
            yield "  nothing for clients: only its servers among each other"
        if lines:
            yield from (f"  - {line}" for line in one["removed"])
            yield from _rest(one["lines_removed"], one["removed"], "lines that go")
            yield from (f"  + {line}" for line in one["added"])
            yield from _rest(one["lines_added"], one["added"], "lines that come")
        for node in one["nodes"]:
            yield from (f"  {line}" for line in _node(node, lines))
        shown = one["certificates"][: None if lines else SHOWN]
        for certificate in shown:
            was, will = (_outcome(certificate[when]) for when in ("before", "after"))
            yield f"  certificate {certificate['subject']}: {was} -> {will}"
        yield from _rest(one["certificates_changed"], shown, "certificates")


def render_cuts(databases: Sequence[Fields], trust: bool = False) -> Iterator[str]:
    """What of a change cuts somebody off who comes in today; with `trust`, whom it trusts too."""
    for one in databases:
        yield from (
            each["text"] for each in one["effects"] if each["cuts"] or (trust and each["grave"])
        )
        for node in one["nodes"]:
            refused = {each["user"] for each in node.get("refused", ())}
            own = (user["name"] for user in node.get("users", ()))
            yield from (f"user {name} loses its password" for name in own if name not in refused)


def render_doubts(databases: Sequence[Fields]) -> Iterator[str]:
    """What may: something goes, and a server does not say what becomes of its sessions."""
    for one in databases:
        for node in one["nodes"]:
            if node["error"] and one["removed"]:
                yield f"{node['address']} does not say which sessions end: {node['error']}"


def render_refusals(node: Fields) -> Iterator[str]:
    """What of a change a server refuses, which is a node of such an answer."""
    for one in node["refused"]:
        what = f"the user {one['user']}" if one["user"] else f"'{one['line']}'"
        yield f"server {node['address']} refuses {what}: {one['why']}"


def _node(node: Fields, lines: bool) -> Iterator[str]:
    if node["error"]:
        yield f"{node['address']}: not known: {node['error']}"
        return
    yield from render_refusals(node)
    if lines or node["ends"]:
        shown = node["ending"][: None if lines else SHOWN]
        yield f"{node['address']}: {node['ends']} of {node['sessions']} sessions end"
        yield from (f"  {_ending(one)}" for one in shown)
        yield from _rest(node["ends"], shown, "sessions")
    for user in node["users"]:
        what = "needs no password" if user["nopass"] else f"{user['passwords']} passwords"
        yield f"  user {user['name']} loses its password ({what})"


def _ending(one: Fields) -> str:
    who = one["user"] or "nobody"
    certificate = f" ({one['subject']})" if one["subject"] else ""
    then = {**one["then"], "users": [one["then"]["user"]] if one["then"]["user"] else []}
    return f"{who} from {one['address'] or 'a unix socket'}{certificate} -> {_outcome(then)}"


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

FORMATS = ("table", "wide", "json", "yaml", "name")
FORMAT = "certauth.format"  # in the context of a command
TIMES = {"not_before", "not_after", "last_login", "since", "end", "password_issue_date"}
HASHES = {"cert", "key", "ca"}  # in hex: a table has the beginning, which is enough to name one
HASH = re.compile("[0-9a-f]{64}")  # not a file, which profiles have under the same names
SHORT = 16  # hex digits of them
# The first that an object has is what it is called.
NAMES = ("name", "id", "cert", "uid", "address")


def _chosen(context: click.Context, _: click.Parameter, value: str | bool) -> None:
    if value:
        context.meta[FORMAT] = value if isinstance(value, str) else "json"


def with_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options that `echo` obeys."""
    short = click.option("--json", is_flag=True, expose_value=False, callback=_chosen,
                         help="Short for -o json.")  # fmt: skip
    long = click.option("--output", "-o", type=click.Choice(FORMATS), expose_value=False,
                        envvar="CERTAUTH_OUTPUT", callback=_chosen,
                        help="Output format (default: table).")  # fmt: skip
    return long(short(command))


def wanted_format() -> str:
    """What `--output` says."""
    found: str = click.get_current_context().meta.get(FORMAT, "table")
    return found


def as_data() -> bool:
    """Whether a program reads it: then it gets all that the API answers."""
    return wanted_format() in ("json", "yaml")


def clean(text: str) -> str:
    """Without what would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else escaped(one) for one in text)


def escaped(text: str) -> str:
    """Its bytes in hex, as RFC 4514 has them."""
    return "".join(f"\\{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def cell(value: Any) -> str:
    """As people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(not isinstance(one, dict) for one in value):
        return clean(", ".join(map(str, value)))
    if isinstance(value, list | dict):
        return clean(json.dumps(value, ensure_ascii=False))
    return clean(str(value).strip())


def readable(name: str, value: Any) -> Any:
    """A field's value as people read it, where its JSON is not that."""
    if name == IDENTITIES and value:
        return "; ".join(map(written, value))
    if name in TIMES and isinstance(value, int):
        return render_time(value)
    if name in HASHES and wanted_format() == "table" and HASH.fullmatch(str(value)):
        return value[:SHORT]
    return value


PLAIN = re.compile(r"(?!(ca|from|session|comment)=|shared$)[A-Za-z0-9_./:@,=-]+")


def written(identity: Fields) -> str:
    """As bindings.written has it, which loads libcrypto: most identities need nothing of it, since
    they have no options, and the API spells them as they are to be shown."""
    if len(identity) == 1:
        ((kind, value),) = identity.items()
        if isinstance(value, str) and PLAIN.fullmatch(value):
            return f"{kind} {value}"
    return bindings.written(identity)


def echo(value: Any, columns: Sequence[str] = ()) -> None:
    """An object as two columns, a list as rows of `columns`; or what -o asks for. Nothing for
    None."""
    if value is None:
        return
    if as_data():
        echo_data(value)
    elif wanted_format() == "name":
        for one in value if isinstance(value, list) else [value]:
            click.echo(clean(name_of(one)))
    else:
        print_table(*(rows_of(value, columns) if isinstance(value, list) else fields_of(value)))


def echo_data(value: Any) -> None:
    """JSON, or YAML, of all of it."""
    if wanted_format() == "yaml":
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
        click.echo(text, nl=False)
    else:
        click.echo(json.dumps(value, indent=2))


def name_of(one: Fields) -> str:
    """The name of an object, by the first of its fields that can be one."""
    return next((str(one[name]) for name in NAMES if one.get(name)), "")


Row = Sequence[str]


def rows_of(found: Sequence[Fields], columns: Sequence[str]) -> tuple[list[Row], Row]:
    """Rows and their heading. Wide: with the fields that have no column otherwise."""
    more = dict.fromkeys(name for one in found for name in one if name not in columns)
    shown = [*columns, *more] if wanted_format() == "wide" else columns
    rows = [[cell(readable(column, one.get(column, ""))) for column in shown] for one in found]
    return list(rows), [column.upper() for column in shown]


def fields_of(found: Fields) -> tuple[list[Row], Row]:
    """Each field is a row; there is no heading."""
    return [(name, cell(readable(name, content))) for name, content in found.items()], ()


def print_table(rows: Sequence[Row], heading: Row) -> None:
    """As wide as the terminal; elsewhere a row is a line, whatever its length."""
    width = WIDEST
    if sys.stdout.isatty() and wanted_format() != "wide":
        width = shutil.get_terminal_size().columns
    head, *lines = aligned(rows, heading, width) or folded(rows, heading, width)
    click.echo(click.style(head, bold=bool(heading) and os.environ.get("TERM") != "dumb"))
    for line in lines:
        click.echo(line)


def aligned(rows: Sequence[Row], heading: Row, width: int) -> list[str]:
    """The lines of a table of plain ASCII that fits; none of any other, which is for `folded`."""
    every = [heading, *rows] if heading else list(rows)
    if not every or not all(text.isascii() and text.isprintable() for row in every for text in row):
        return []
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    if sum(widths) + len(GAP) * (len(widths) - 1) > width:
        return []
    pairs = (zip(row, widths, strict=True) for row in every)
    return [GAP.join(text.ljust(size) for text, size in row).rstrip() for row in pairs]


def folded(rows: Sequence[Row], heading: Row, width: int) -> list[str]:
    """The lines of any table: rich knows how wide each character is, and folds what does not fit.
    It takes a tenth of a second to load, which most tables need not wait for."""
    text = rich.text.Text
    table = rich.table.Table(box=None, pad_edge=False, show_header=bool(heading))
    for column in heading or [""] * len(rows[0] if rows else ()):
        table.add_column(text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(text, row))  # a string would be read as rich's markup
    console = rich.console.Console(
        highlight=False, width=width, color_system=None, file=io.StringIO()
    )
    with console.capture() as captured:
        console.print(table, crop=False)
    return [line.rstrip() for line in captured.get().splitlines()] or [""]


def error_console() -> rich.console.Console:
    """Rich's, on standard error. Here, since a lazy module is loaded when it is imported again."""
    return rich.console.Console(stderr=True)


GAP = "  "  # between two columns
WIDEST = 1000  # characters


def colour(text: str, name: str | None) -> str:
    """Coloured where somebody looks at standard output and has not asked for none."""
    shown = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=name) if shown and name else text


def render_time(time: int) -> str:
    """Seconds since 1970 as people read them, and as answers have them; 0 is not known."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else ""
