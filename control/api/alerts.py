"""/v1/cluster/alerts: certificates that end soon. `alert_settings` of /v1/cluster says how soon."""

import time
from typing import Any, Literal

from flask import Blueprint, Response, current_app
from pydantic import BaseModel, ConfigDict

from control.api.models import Answer
from control.api.web import answer, flag, needs, store
from control.errors import missing
from control.policy import core
from control.records import API, AlertSetting, Database, rendered_time

DAY = 86_400  # seconds
CAS = "cluster_ca_cert_about_to_expire"
CERTIFICATES = "cluster_certs_about_to_expire"
NAMES = (CERTIFICATES, CAS)
NAMED = 20  # certificates in an alert


class ChangeValue(BaseModel):
    """Which certificates, and how long before their end the alert is on."""

    model_config = ConfigDict(strict=True, extra="forbid")
    state: bool
    threshold: str
    certificates: list[dict[str, str]]


class AlertBase(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    change_time: str
    change_value: ChangeValue
    enabled: bool
    severity: Literal["WARNING"]
    state: bool
    threshold: str


class AlertAnswer(AlertBase, Answer):
    pass


class AlertsAnswer(Answer):
    cluster_certs_about_to_expire: AlertBase
    cluster_ca_cert_about_to_expire: AlertBase


blueprint = Blueprint("alerts", __name__)


@blueprint.get("/v1/cluster/alerts")
@needs("view_cluster_alerts", answers=AlertsAnswer, query=("ignore_settings",))
def read_all() -> Response:
    return answer({name: render(name) for name in NAMES})


@blueprint.get("/v1/cluster/alerts/<name>")
@needs("view_cluster_alerts", answers=AlertAnswer, query=("ignore_settings",))
def read(name: str) -> Response:
    if name not in NAMES:
        raise missing(f"alert '{name}': there are {' and '.join(NAMES)}")
    return answer(render(name))


def render(name: str) -> dict[str, Any]:
    """An alert that is not enabled is off, unless the query asks for it all the same."""
    setting: AlertSetting = getattr(store().settings.cluster().alert_settings, name)
    ending = ends(name, setting.threshold)
    state = bool(ending) and (setting.enabled or flag("ignore_settings"))
    begun = min((end for _, end in ending), default=0) - setting.threshold * DAY
    since = begun if ending else store().settings.cluster().created
    shown = [{"name": what, "valid_until": rendered_time(end)} for what, end in ending[:NAMED]]
    return {
        "change_time": rendered_time(max(since, 0)),
        "change_value": {
            "state": state,
            "threshold": str(setting.threshold),
            "certificates": shown if state else [],
        },
        "enabled": setting.enabled,
        "severity": "WARNING",
        "state": state,
        "threshold": str(setting.threshold),
    }


def ends(name: str, days: int) -> list[tuple[str, int]]:
    """The certificates that end within so many days, or have ended, the first one first."""
    found = authorities() if name == CAS else certificates()
    limit = int(time.time()) + days * DAY
    return sorted((one for one in found if one[1] <= limit), key=lambda one: one[1])


def authorities() -> list[tuple[str, int]]:
    """The CAs that clients are judged by, and the control plane's own: subject, end."""
    ders = [*store().settings.authorities(), *map(str.encode, own().values())]
    identities = map(core.identity, ders)
    return list(dict.fromkeys((one.subject, one.not_after) for one in identities))


def certificates() -> list[tuple[str, int]]:
    """Those that are shown to clients: by the REST API, and by each server."""
    shown = store().settings.certificates()
    found = [(API, end_of(shown[API].certificate))] if API in shown else []
    for database in store().objects.all(Database):
        for node in store().nodes.of(database.uid):
            if node.certificate:
                found.append((f"{database.name} {node.address}", end_of(node.certificate)))
    return found


def own() -> dict[str, str]:
    found: dict[str, str] = current_app.extensions["own"]()
    return found


def end_of(pem: str) -> int:
    return core.identity(pem.encode()).not_after
