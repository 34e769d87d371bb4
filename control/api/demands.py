"""What the cluster and each database demand of certificates: the fields, and the confirmation that
a demand wants which would end sessions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from flask import current_app, request
from pydantic import BaseModel, Field, StringConstraints

from control.api.models import Body
from control.api.web import caller, flag, guard, in_field, rehearsing, store
from control.domain import preview
from control.errors import refused
from control.policy import lines as policy
from control.records import Cluster, Demands, MinTls, SeveralNames
from control.store import Stage

Oid = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.]{1,128}$")]
Oids = Annotated[list[Oid], Field(max_length=32)]
REASONS = frozenset(
    {"lifetime", "required_eku", "required_policy", "key_too_small", "tls_version", "ambiguous"}
)
SEVERAL = "set several-names same"
NAMED = 10  # sessions in an error


class DemandsBody(Body):
    """null: of a database, what the cluster demands; of the cluster, nothing."""

    max_certificate_lifetime: Annotated[int, Field(ge=0, le=24855 * 86400)] | None = None
    required_extended_key_usages: Oids | None = None
    required_certificate_policies: Oids | None = None
    min_key_bits: Annotated[int, Field(ge=0, le=16384)] | None = None
    min_tls_version: MinTls | None = None
    several_names: SeveralNames | None = None


class DemandsAnswer(BaseModel):
    """null: of a database, what the cluster demands."""

    max_certificate_lifetime: int | None
    required_extended_key_usages: list[str] | None
    required_certificate_policies: list[str] | None
    min_key_bits: int | None
    min_tls_version: MinTls | None
    several_names: SeveralNames | None


FIELDS = frozenset(DemandsBody.model_fields)
NOTHING = Demands(0, (), (), 0, "", "refuse")


def demanded(before: Demands, sent: DemandsBody) -> Demands:
    """What is demanded after a request. Raises Refusal 400 with the field."""
    said = sent.sent()
    return replace(before, **{name: checked(name, said[name]) for name in FIELDS & said.keys()})


def checked(name: str, value: Any) -> Any:
    """A field as it is kept: lists in the order and spelling of a policy line."""
    line = in_field(name, lambda: policy.demand_line(name, value))
    if isinstance(value, list):
        return tuple(line.rpartition(" ")[2].split(",")) if line else ()
    return value


def rendered(demands: Demands) -> dict[str, Any]:
    lists = {name: list(one) for name, one in vars(demands).items() if isinstance(one, tuple)}
    return {**vars(demands), **lists}


def check_sessions(change: Callable[[Stage], Any]) -> None:
    """Raises Refusal 409 where a change demands what somebody who is connected does not meet; not
    with ?force, nor in a preview, which says more."""
    if rehearsing() or flag("force"):
        return
    found = [one for one in preview.differences(store(), change) if grows(one)]
    ending = [
        (one.database.name, node, session)
        for one in found
        for node in preview.nodes(one, frozenset(), servers_of(one.database.uid), ask())
        for session in node["ending"]
        if session["then"]["reason"] in REASONS
    ]
    if not ending:
        return
    named = "; ".join(
        f"{session['user'] or 'nobody'} at {session['address']} ({session['subject']}, on "
        f"{node['address']} of '{name}'): {session['then']['reason']}"
        for name, node, session in ending[:NAMED]
    )
    more = f"; and {len(ending) - NAMED} more" if len(ending) > NAMED else ""
    raise refused(
        "demand_refuses_clients",
        f"open sessions do not meet these demands: {named}{more}. Give these clients other "
        "certificates first; ?force ends their sessions. POST /v1/certauth/preview lists all of "
        "them",
    )


def check_own(after: Cluster) -> None:
    """Raises Refusal 409 where who asks for it by certificate could not log in any more; not with
    ?force, nor in a preview."""
    if rehearsing() or flag("force") or caller().by != "certificate":
        return
    reason = guard().own_reason(request, after)
    if reason in REASONS:
        raise refused(
            "demand_refuses_clients",
            f"your own certificate does not meet these demands: {reason}. Log in with another "
            "certificate or a password first; ?force makes the change anyway",
        )


def grows(one: preview.Difference) -> bool:
    """Whether a database would demand something more, one name of each kind included."""
    return any(map(is_demand, one.added)) or SEVERAL in one.removed


def is_demand(line: str) -> bool:
    settings = tuple(f"set {name} " for name in policy.SETTINGS.values())
    return line != SEVERAL and line.startswith(settings)


def ask() -> preview.Ask:
    found: preview.Ask = current_app.extensions["ask"]
    return found


def servers_of(bdb_uid: int) -> list[Any]:
    return [node for node in store().nodes.of(bdb_uid) if node.role != "sentinel"]
