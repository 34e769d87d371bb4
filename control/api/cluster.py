"""/v1/cluster and /v1/cluster/policy: the settings of the control plane itself."""

from dataclasses import asdict, replace
from typing import Any

from flask import Blueprint, Response

from control.api.answers import ClusterAnswer, PolicyAnswer
from control.api.models import ClusterBody, PolicyBody
from control.api.web import CHANGING, answer, in_field, needs, store, unchanged
from control.policy import lines as policy
from control.records import Cluster, Subject, rendered_time

blueprint = Blueprint("cluster", __name__)


@blueprint.get("/v1/cluster")
@needs("view_cluster_info", answers=ClusterAnswer)
def read() -> Response:
    return answer(render(store().settings.cluster()), store().settings.cluster())


@blueprint.put("/v1/cluster")
@needs("update_cluster", takes=ClusterBody, answers=ClusterAnswer, query=CHANGING)
def update(sent: ClusterBody) -> Response:
    changes = sent.sent()
    if "mtls_authorized_subjects" in changes:
        changes["mtls_authorized_subjects"] = subjects(
            "mtls_authorized_subjects", changes["mtls_authorized_subjects"]
        )
    changed = configured(changes)
    return answer(render(changed), changed)


@blueprint.get("/v1/cluster/policy")
@needs("view_cluster_info", answers=PolicyAnswer)
def read_policy() -> Response:
    return answer(rendered_policy(store().settings.cluster()), store().settings.cluster())


@blueprint.put("/v1/cluster/policy")
@needs("update_cluster", takes=PolicyBody, answers=PolicyAnswer, query=CHANGING)
def update_policy(sent: PolicyBody) -> Response:
    changed = configured(sent.sent())
    return answer(rendered_policy(changed), changed)


def configured(changes: dict[str, Any]) -> Cluster:
    return store().settings.configure(lambda cluster: replace(unchanged(cluster), **changes))


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
    }


def rendered_policy(cluster: Cluster) -> dict[str, Any]:
    return {
        "login_lockout_threshold": cluster.login_lockout_threshold,
        "login_lockout_counter_reset_after": cluster.login_lockout_counter_reset_after,
        "login_lockout_duration": cluster.login_lockout_duration,
        "master_healthcheck_api_auth": cluster.master_healthcheck_api_auth,
    }
