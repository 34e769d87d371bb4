"""What is demanded of certificates: the fields in the form of a database, and the page of what
counts where a database says nothing."""

import json
from http import HTTPStatus
from typing import Any

from flask import Blueprint, render_template, request

from control.api.demands import NOTHING as UNDEMANDED
from control.api.demands import rendered
from control.errors import Refusal
from control.ui import audit, changes, objects, revert
from control.ui.ask import answer, ask, may
from control.ui.changes import Change, Item
from control.ui.fields import ANY, CLUSTER, Demand, Field, Number, Oids
from control.ui.objects import Kind

SEVERAL = {
    "refuse": "are refused",
    "same": "are taken where all that are known are one user's",
}


def fields_of(inherited: bool) -> tuple[Field, ...]:
    """A field for each demand. `inherited`: what is left empty is what the cluster demands, as in
    the form of a database; of the cluster, nothing."""
    empty = "what the cluster demands" if inherited else "nothing is demanded"
    tls = {CLUSTER: "what the cluster demands"} if inherited else {}
    tls |= {ANY: "any", "1.2": "1.2", "1.3": "1.3"}
    several = {CLUSTER: "what the cluster says", **SEVERAL} if inherited else SEVERAL
    return (
        Number(
            "max_certificate_lifetime",
            "Longest lifetime of certificates",
            f"Seconds from notBefore to notAfter; 0: any. Empty, here and below: {empty}.",
        ),
        Oids(
            "required_extended_key_usages",
            "Extended key usages that they need",
            "Names such as clientAuth, or OIDs; none: none.",
        ),
        Oids(
            "required_certificate_policies",
            "Certificate policies that they need",
            "OIDs; none: none.",
        ),
        Number("min_key_bits", "Least size of their keys", "Bits, as of RSA; 0: any."),
        Demand("min_tls_version", "Oldest TLS version", choices=tls.items),
        Demand(
            "several_names",
            "Several names of a kind of which one is an identity",
            choices=several.items,
        ),
    )


API = "/v1/cluster"
NOTHING = rendered(UNDEMANDED)  # what null is, of the cluster
LOOKED_AT, SHOWN = 1000, 10  # changes of the cluster's settings, and those of its demands
KIND = Kind(
    "cluster", "Demands", "", "demands", API, ("update_cluster",) * 3, (),
    fields_of(inherited=False), noun_in_log="cluster",
)  # fmt: skip
blueprint = Blueprint(KIND.place, __name__, url_prefix=KIND.address)


@blueprint.get("/")
def show() -> Any:
    found = answer(f"GET {API}")
    return form(found.content, found.etag)


@blueprint.post("/")
def update() -> Any:
    now, etag = ask(f"GET {API}"), request.form.get("etag", "")
    try:
        body = objects.carried_body() or objects.changed(KIND, now)
        change = Change(
            "PUT", API, body, "Change the demands on certificates", "The demands were changed.",
            f"{KIND.address}/", etag, name="demands", was=now, fields=KIND.fields,
        )  # fmt: skip
        carried = {"body": json.dumps(body), "etag": etag}
        return changes.run(change, carried, lambda _: f"{KIND.address}/")
    except Refusal as error:
        if error.status == HTTPStatus.BAD_REQUEST and "body" not in request.form:
            return form(now, etag, error)
        raise


def form(now: Item, etag: str, error: Refusal | None = None) -> Any:
    """The page; after an `error`, the form as it was sent."""
    values = objects.values(KIND, now, error is not None)
    wrong = changes.problems(error, KIND.labels) if error else []
    page = render_template(
        "demands.html", kind=KIND, etag=etag, values=values, errors=wrong, item=now,
        wrong={name: text for name, _, text in wrong if name}, editable=may("update_cluster"),
        history=undoable(now),
    )  # fmt: skip
    return page, error.status if error else HTTPStatus.OK


def undoable(now: Item) -> list[Item]:
    """The last changes of the demands; each but those that are undone already has a way back."""
    if not may("view_logged_events"):
        return []
    found = ask("GET /v1/logs", type="cluster_updated", order="desc", limit=LOOKED_AT)
    told = [{**audit.told(one), "event": one} for one in found if "demands" in one["fields"]]
    for one in told:
        body = before(one["event"], now) if may("update_cluster") else {}
        if body:
            one["revert"] = {"address": f"{KIND.address}/", "body": json.dumps(body)}
    return told[:SHOWN]


def before(event: Item, now: Item) -> Item:
    """What differs of the demands of before an event; nothing where the log does not have them."""
    was = revert.body_of(event, now) or {}
    said = {name: NOTHING[name] if value is None else value for name, value in was.items()}
    return {name: value for name, value in said.items() if value != now[name]}
