"""The policy of a database: the lines that its servers hold, what each means, and whose it is."""

from base64 import b64decode
from typing import Any

from flask import Blueprint, render_template, request

from control.policy import core, taking
from control.ui.ask import answer, ask, may, offset_of
from control.ui.changes import Item

blueprint = Blueprint("policy", __name__, url_prefix="/ui/databases/<int(max=2147483647):uid>")
PAGE = 50
OWNERS = (
    ("", "everything"), ("database", "the database itself"), ("user", "users"),
    ("pattern", "patterns"), ("revocations", "revocations"),
)  # fmt: skip
# What a line is for, by its first word.
MEANINGS = {
    "set": "a setting",
    "ca": "clients with a certificate of this CA are let in, if a line names them",
    "anchor": "trusted above a CA of clients; admits nobody by itself",
    "pin": "exactly this certificate is trusted, no matter who issued it",
    "allow": "certificates with these names may log in at all",
    "bind": "whom a certificate with this name logs in as",
    "pattern": "certificates of this form log in as users with these rights",
    "revoke": "certificates that nobody logs in with any more",
    "lock": "held out by an administrator",
    "user": "what this user may do",
    "limit": "rules that no user has more rights than",
    "was": "what an adopted user was before",
}
SETTINGS = {
    "enforce": "whether certificates count at all",
    "gate": "which certificates may log in at all, by `allow` lines",
    "unmatched": "what happens to a certificate that no line names",
    "several-names": "what happens to a certificate with several names of a kind",
    "plain": "what happens to a client without a certificate",
    "password-auth": "whether a client with a certificate may also use a password",
    "tls-client-auth": "whether the server asks each client for a certificate",
    "internal-trust": "whether CAs of clients are trusted on links between nodes",
    "max-lifetime": "the longest lifetime of a certificate that logs in",
    "require-eku": "extended key usages that a certificate needs",
    "require-policy": "certificate policies that a certificate needs",
    "min-key-bits": "the smallest key of a certificate, in bits of RSA",
    "min-tls": "the oldest TLS version of a connection",
}
PEER = "a node of this database, by its key"


@blueprint.get("/policy")
def show(uid: int) -> Any:
    """A page of it: what servers hold who are in step, and which of them are not."""
    database, offset = ask(f"GET /v1/bdbs/{uid}"), offset_of(request.args)
    text, owner = request.args.get("search", "").strip(), request.args.get("owner", "")
    query = {"search": text, "owner": owner, "limit": PAGE, "offset": offset}
    found = answer(f"GET /v1/certauth/policies/{uid}", query=query)
    nodes = ask("GET /v1/certauth/nodes")["nodes"]
    return render_template(
        "policy.html", database=database, policy=found.content, search=text, owner=owner,
        owners=OWNERS, lines=[told(one) for one in found.content["lines"]], offset=offset,
        limit=PAGE, total=found.total or 0, args={"uid": uid, **kept(search=text, owner=owner)},
        behind=[one for one in nodes if one["bdb_uid"] == uid and not one["in_step"]],
    )  # fmt: skip


def kept(**args: str) -> dict[str, str]:
    return {name: value for name, value in args.items() if value}


def told(one: Item) -> Item:
    """A line as its row shows it: in short where it holds a certificate, what it means, and the
    page of the object that it is from."""
    line: str = one["line"]
    word, _, rest = line.partition(" ")
    held = core.identity(b64decode(rest)) if word in ("ca", "anchor", "pin") else None
    name, link = source(one, word, held)
    return {
        "line": f"{word} …" if held else line, "meaning": meaning(word, rest, line), "name": name,
        "link": link, "subject": (held.subject or held.key) if held else "",
    }  # fmt: skip


def meaning(word: str, rest: str, line: str) -> str:
    if word == "set":
        return SETTINGS.get(rest.partition(" ")[0], MEANINGS[word])
    if word == "bind" and taking.is_peer(taking.user_of(line)):
        return PEER
    return MEANINGS.get(word, "")


def source(one: Item, word: str, authority: core.Identity | None) -> tuple[str, str]:
    """What a line follows from, and where that is, for who may see it."""
    uid, name = one["owner_uid"], one["owner_name"]
    if one["owner"] in ("user", "pattern"):
        place = f"/ui/{one['owner']}s/{uid}" if may("view_all_users_info") else ""
        return name or f"{one['owner']} {uid}", place
    if one["owner"] == "revocations":
        return "revocations", "/ui/certificates/#revoked"
    if word in ("ca", "anchor") and authority:
        return "CAs", f"/ui/cas/{authority.key}"
    return ("locks", "/ui/sessions/#locks") if word == "lock" else ("", "")
