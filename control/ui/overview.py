"""How it is with everything: what needs attention first, then servers, logins and certificates."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, render_template, request, url_for

from control.records import rendered_time
from control.ui import plot
from control.ui.ask import ask, may
from control.ui.audit import explained
from control.ui.databases import health, servers, summed

blueprint = Blueprint("overview", __name__, url_prefix="/ui")
HOUR, DAY = 3600, 86400
SOON = 30 * DAY
REFUSALS, GROUPS = 2000, 6  # entries of the log that are looked at, and groups that are shown
# How long a look back is, its spans in seconds, and what these are called.
RANGES = {
    "day": (DAY, HOUR, "%H:%M", "the last day"),
    "week": (7 * DAY, 6 * HOUR, "%a %H:%M", "the last week"),
    "hour": (HOUR, 120, "%H:%M", "the last hour"),
}
# Events of the last day that somebody should look at.
ALARMS = {
    "node_drift": "A server held a policy that was not ours, and was set right",
    "node_went_back": "A server held an older policy than before, as from a snapshot",
    "other_control_plane": "Another control plane with this identity writes to a server",
    "node_journal": "A server lost its journal, or cannot write to it",
    "node_trust": "Files of a server's trust were changed by hand, or it is managed no more",
    "node_lost": "A server left without being detached",
    "node_without_module": "A server without certauth was among the nodes",
    "client_log_gap": "Entries of a server's log are missing",
    "user_locked": "A user was locked by wrong passwords",
    "ca_removed_in_use": "A CA was removed while it was in use",
}


@dataclass(frozen=True)
class Matter:
    """What needs attention; `kind` is bad or warn."""

    kind: str
    text: str
    link: str = ""
    action: str = ""  # what the link is called, where it is not the text


@blueprint.get("/")
def show() -> Any:
    databases = ask("GET /v1/bdbs") if may("view_all_bdbs_info") else []
    nodes = servers(databases) if databases else []
    ending = certificates()
    matters = [
        *of_the_plane(), *of_servers(databases, nodes), *of_refusals(), *of_certificates(ending),
        *of_lists(), *of_responders(), *of_events(),
    ]  # fmt: skip
    matters.sort(key=lambda one: one.kind)  # bad before warn
    return render_template(
        "overview.html", databases=databases, servers=nodes, matters=matters, ending=ending,
        health=health, summed=summed, chart=chart(),
    )  # fmt: skip


def of_the_plane() -> Iterator[Matter]:
    """What of the control plane stands still; certificates and servers have their own lines."""
    if may("view_cluster_info"):
        (node,) = ask("GET /v4/cluster/health")["nodes"]
        for fault in node["faults"]:
            yield Matter("bad", fault)


def of_servers(databases: list[Any], nodes: list[Any]) -> Iterator[Matter]:
    if databases and (hold := ask("GET /v1/certauth/nodes")["hold"]):
        text = f"Nothing is sent to the servers ({hold}): redis-certauth release ends that"
        yield Matter("bad", text)
    for node in nodes:
        link = f"/ui/databases/{node['bdb_uid']}"
        where = f"{node['bdb_name']}, {node['address']}"
        if node["error"]:
            yield Matter("bad", f"{where}: {node['error']}", link)
        elif not node["in_step"]:
            yield Matter("warn", f"{where} is {node['lag']} generations behind", link)
    for one in databases:
        if one["status"] == "delete-pending":
            link = f"/ui/databases/{one['uid']}"
            yield Matter("warn", f"{one['name']} is being removed", link)


def of_refusals() -> Iterator[Matter]:
    """Clients that were refused in the last day and have not come in since: alike ones are one
    line, which leads to what helps."""
    if not (may("view_logged_events") and may("explain_certificates")):
        return
    since = rendered_time(int(time.time()) - DAY)
    found = ask("GET /v1/logs", stime=since, type="client_refused,client_login", order="desc",
                limit=REFUSALS)  # fmt: skip
    groups, inside = dict[tuple[str, ...], list[dict[str, Any]]](), set[tuple[str, int]]()
    for one in found:
        if one["type"] == "client_login":
            inside.add((one.get("cert", ""), one.get("bdb_uid", 0)))
        elif (one.get("cert", ""), one.get("bdb_uid", 0)) not in inside and explained(one):
            alike = (one.get("bdb_name", ""), one["reason"], one.get("subject") or one["cert"])
            groups.setdefault(alike, []).append(one)
    often = sorted(groups.items(), key=lambda one: -len(one[1]))
    for (name, reason, subject), ones in often[:GROUPS]:
        times = "once" if len(ones) == 1 else f"{len(ones):,} times"
        text = f"{subject} was refused on {name} {times}, last at {ones[0]['time']}: {reason}"
        yield Matter("warn", text, url_for("explain.show", **explained(ones[0]) or {}), "Repair")
    if len(often) > GROUPS:
        text = f"{len(often) - GROUPS:,} more certificates were refused in the last day"
        yield Matter("warn", text, "/ui/audit/?kind=client_refused,client_handshake,login_failed")


def certificates() -> list[Any]:
    """Those that end soon and have no successor."""
    if not may("view_all_users_info"):
        return []
    found: list[Any] = ask("GET /v1/certauth/certificates", expiring="", limit=20)
    return found


def of_certificates(ending: list[Any]) -> Iterator[Matter]:
    if ending:
        many = f"{len(ending)} certificates end" if len(ending) > 1 else "A certificate ends"
        first = f"{ending[0]['user']}'s at {rendered_time(ending[0]['not_after'])}"
        yield Matter("warn", f"{many} soon and have no successor, first {first}", "#ending")
    if not may("view_cluster_info"):
        return
    now = time.time()
    for one in ask("GET /v4/cluster/health")["certificates"]:
        ends = datetime.fromisoformat(one["valid_until"]).timestamp()
        text = f"The certificate '{one['type']}' of the control plane"
        if one["expired"]:
            yield Matter("bad", f"{text} has ended")
        elif ends < now + SOON and one["type"] not in ("api", "control"):  # which renew themselves
            yield Matter("warn", f"{text} ends at {one['valid_until']}")


def of_lists() -> Iterator[Matter]:
    """Of the CAs' revocation lists."""
    for one in ask("GET /v1/certauth/crls") if may("view_cluster_info") else ():
        what = f"The revocation list of {one['issuer']}"
        if one["overdue"]:
            kind = "bad" if one["stale"] == "refuse" else "warn"
            yield Matter(kind, f"{what} is overdue since {one['next_update']}")
        if one["problem"]:
            yield Matter("warn", f"{what} could not be fetched: {one['problem']}")


def of_responders() -> Iterator[Matter]:
    """Of those that are asked by OCSP."""
    for one in ask("GET /v1/certauth/responders") if may("view_cluster_info") else ():
        if one["overdue"]:
            kind = "bad" if one["stale"] == "refuse" else "warn"
            many = f"{one['overdue']} certificates" if one["overdue"] > 1 else "a certificate"
            yield Matter(kind, f"The answer of {one['name']} about {many} is overdue")
        if one["problem"]:
            yield Matter("warn", f"{one['name']} has not answered: {one['problem']}")


def of_events() -> Iterator[Matter]:
    """Each kind once, with how often it was."""
    if not may("view_logged_events"):
        return
    since = rendered_time(int(time.time()) - DAY)
    found = ask("GET /v1/logs", stime=since, type=",".join(ALARMS), order="desc", limit=1000)
    for kind, text in ALARMS.items():
        times = [one["time"] for one in found if one["type"] == kind]
        if times:
            yield Matter("warn", f"{text} ({len(times)} in the last day, last at {times[0]})")


def chart() -> dict[str, Any] | None:
    """Logins and refusals over time; None for who may not see the log."""
    if not may("view_logged_events"):
        return None
    name = request.args.get("range", "day")
    length, step, pattern, title = RANGES.get(name, RANGES["day"])
    end = (int(time.time()) // step + 1) * step
    times = {"stime": rendered_time(end - length), "etime": rendered_time(end)}
    found = ask("GET /v1/certauth/history", step=step, **times)
    counts: dict[int, list[int]] = {at: [0, 0] for at in range(end - length, end, step)}
    for one in found:
        counts[one["time"]][1 if one["reason"] else 0] += one["count"]
    spans = [
        (datetime.fromtimestamp(at, UTC).strftime(pattern), logins, refusals)
        for at, (logins, refusals) in counts.items()
    ]
    return {
        "name": name if name in RANGES else "day",
        "title": title,
        "ranges": RANGES,
        "plot": plot.plotted(spans),
        "spans": spans,
        "logins": sum(logins for _, logins, _ in spans),
        "reasons": plot.by_reason(found),
    }
