"""/v1/cluster and /v1/cluster/policy: the settings of the control plane itself."""

from dataclasses import asdict, replace
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api import demands, enterprise
from control.api.demands import DemandsAnswer, DemandsBody
from control.api.models import Answer, Body, Many, SubjectBody, words
from control.api.web import CHANGING, answer, in_field, needs, store, unchanged
from control.errors import invalid
from control.policy import lines as policy
from control.records import (
    AlertSettings,
    Cluster,
    Demands,
    PubsubDefault,
    Subject,
    TlsVersion,
    Validation,
    rendered_time,
)


class AlertSettingBody(Body):
    """What is not sent stays as it is. `threshold` is days, as text."""

    enabled: bool = False
    threshold: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}$")] = ""


class AlertSettingsBody(Body):
    cluster_certs_about_to_expire: AlertSettingBody = AlertSettingBody()
    cluster_ca_cert_about_to_expire: AlertSettingBody = AlertSettingBody()

    IGNORED = enterprise.ALERTS_IGNORED


class AlertSettingAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    enabled: bool
    threshold: str


class AlertSettingsAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    cluster_certs_about_to_expire: AlertSettingAnswer
    cluster_ca_cert_about_to_expire: AlertSettingAnswer


class ClusterBody(DemandsBody):
    mtls_certificate_authentication: bool = False
    mtls_client_cert_subject_validation_type: Validation = "disabled"
    mtls_authorized_subjects: Many[SubjectBody] = []
    control_plane_basic_authentication: bool = True
    password_complexity: bool = False
    password_min_length: Annotated[int, Field(ge=8, le=256)] = 8
    password_expiration_duration: Annotated[int, Field(ge=0, le=36_500)] = 0
    min_control_TLS_version: TlsVersion = "1.2"
    min_data_TLS_version: TlsVersion = "1.2"
    options_method_forbidden: bool = False
    alert_settings: AlertSettingsBody = AlertSettingsBody()
    log_retention: Annotated[int, Field(ge=1, le=36_500)] = 400

    IGNORED = enterprise.CLUSTER_IGNORED | words("name created_time")
    HELD = enterprise.CLUSTER_HELD


Seconds = Annotated[int, Field(ge=0, le=10**9)]


class PolicyBody(Body):
    login_lockout_threshold: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    login_lockout_counter_reset_after: Seconds = 900
    login_lockout_duration: Seconds = 1800
    master_healthcheck_api_auth: bool = True
    acl_pubsub_default: PubsubDefault = "resetchannels"
    db_conns_auditing: bool = False

    IGNORED = enterprise.POLICY_IGNORED
    HELD = enterprise.POLICY_HELD


class ClusterAnswer(DemandsAnswer, Answer):
    name: str
    created_time: str
    mtls_certificate_authentication: bool
    mtls_client_cert_subject_validation_type: Validation
    mtls_authorized_subjects: list[SubjectBody]
    control_plane_basic_authentication: bool
    password_complexity: bool
    password_min_length: int
    password_expiration_duration: int
    min_control_TLS_version: TlsVersion
    min_data_TLS_version: TlsVersion
    options_method_forbidden: bool
    alert_settings: AlertSettingsAnswer
    log_retention: int


class PolicyAnswer(Answer):
    login_lockout_threshold: int
    login_lockout_counter_reset_after: int
    login_lockout_duration: int
    master_healthcheck_api_auth: bool
    acl_pubsub_default: PubsubDefault
    db_conns_auditing: bool


blueprint = Blueprint("cluster", __name__)


@blueprint.get("/v1/cluster")
@needs("view_cluster_info", scoped=True, answers=ClusterAnswer)
def read() -> Response:
    return answer(render(store().settings.cluster()), store().settings.cluster())


@blueprint.put("/v1/cluster")
@needs("update_cluster", takes=ClusterBody, answers=ClusterAnswer, query=(*CHANGING, "force"))
def update(sent: ClusterBody) -> Response:
    said = sent.sent()
    no_fields = {"min_data_TLS_version", *demands.FIELDS}
    changes = {
        name: value
        for name, value in said.items()
        if name not in no_fields and name != "alert_settings"
    }
    if "mtls_authorized_subjects" in changes:
        changes["mtls_authorized_subjects"] = subjects(
            "mtls_authorized_subjects", changes["mtls_authorized_subjects"]
        )

    def change(cluster: Cluster) -> Cluster:
        after = data_tls(cluster.demands, demands.demanded(cluster.demands, sent), said)
        wanted = alerted(cluster.alert_settings, said.get("alert_settings"))
        return replace(unchanged(cluster), **changes, demands=after, alert_settings=wanted)

    if no_fields & said.keys():
        demands.check_own(change(store().settings.cluster()))
        demands.check_sessions(lambda stage: stage.settings.configure(change))
    changed = store().settings.configure(change)
    return answer(render(changed), changed)


@blueprint.get("/v1/cluster/policy")
@needs("view_cluster_info", answers=PolicyAnswer)
def read_policy() -> Response:
    return answer(rendered_policy(store().settings.cluster()), store().settings.cluster())


@blueprint.put("/v1/cluster/policy")
@needs("update_cluster", takes=PolicyBody, answers=PolicyAnswer, query=CHANGING)
def update_policy(sent: PolicyBody) -> Response:
    changes = sent.sent()
    changed = store().settings.configure(lambda cluster: replace(unchanged(cluster), **changes))
    return answer(rendered_policy(changed), changed)


def data_tls(before: Demands, after: Demands, said: dict[str, Any]) -> Demands:
    """With Redis Enterprise's name for `min_tls_version`. Who sends an object back as it was read
    sends both, one of them changed. Raises Refusal 400 where both are, and differ."""
    theirs = said.get("min_data_TLS_version")
    if theirs is None:
        return after
    if "min_tls_version" not in said:
        return replace(after, min_tls_version=theirs)
    if theirs == shown_data_tls(before) or theirs == after.min_tls_version:
        return after
    if (after.min_tls_version or "") == (before.min_tls_version or ""):
        return replace(after, min_tls_version=theirs)
    text = (
        "min_data_TLS_version: this is the same setting as min_tls_version: send only one of them"
    )
    raise invalid("invalid_param", text)


def alerted(before: AlertSettings, sent: AlertSettingsBody | None) -> AlertSettings:
    """The alerts after a request."""
    changed = before
    for name, one in sent.sent().items() if sent else ():
        said = one.sent()
        if "threshold" in said:
            said["threshold"] = int(said["threshold"])
        changed = replace(changed, **{name: replace(getattr(before, name), **said)})
    return changed


def rendered_alerts(settings: AlertSettings) -> dict[str, Any]:
    return {
        name: {"enabled": one.enabled, "threshold": str(one.threshold)}
        for name, one in vars(settings).items()
    }


def shown_data_tls(demanded: Demands) -> TlsVersion:
    return "1.3" if demanded.min_tls_version == "1.3" else "1.2"


def subjects(field: str, entries: list[Any]) -> tuple[Subject, ...]:
    """The records of an allow list, checked. Raises Refusal 400."""
    records = tuple(entry.record() for entry in entries)
    in_field(field, lambda: policy.check_gate(records))
    return records


def rendered_subjects(entries: tuple[Subject, ...]) -> list[dict[str, Any]]:
    """An allow list as answers show it: only what is set."""
    return [{name: value for name, value in asdict(entry).items() if value} for entry in entries]


def render(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "created_time": rendered_time(cluster.created),
        "mtls_certificate_authentication": cluster.mtls_certificate_authentication,
        "mtls_client_cert_subject_validation_type": (
            cluster.mtls_client_cert_subject_validation_type
        ),
        "mtls_authorized_subjects": rendered_subjects(cluster.mtls_authorized_subjects),
        "control_plane_basic_authentication": cluster.control_plane_basic_authentication,
        "password_complexity": cluster.password_complexity,
        "password_min_length": cluster.password_min_length,
        "password_expiration_duration": cluster.password_expiration_duration,
        "min_control_TLS_version": cluster.min_control_TLS_version,
        "min_data_TLS_version": shown_data_tls(cluster.demands),
        "options_method_forbidden": cluster.options_method_forbidden,
        "alert_settings": rendered_alerts(cluster.alert_settings),
        "log_retention": cluster.log_retention,
        **demands.rendered(cluster.demands.over(demands.NOTHING)),
    }


def rendered_policy(cluster: Cluster) -> dict[str, Any]:
    return {
        "login_lockout_threshold": cluster.login_lockout_threshold,
        "login_lockout_counter_reset_after": cluster.login_lockout_counter_reset_after,
        "login_lockout_duration": cluster.login_lockout_duration,
        "master_healthcheck_api_auth": cluster.master_healthcheck_api_auth,
        "acl_pubsub_default": cluster.acl_pubsub_default,
        "db_conns_auditing": cluster.db_conns_auditing,
    }
