"""/v1/cluster: the settings of the control plane itself."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response

from control import policy
from control.models import ClusterBody
from control.records import Cluster, Subject
from control.web import answer, body, dry_run, in_field, needs, store

blueprint = Blueprint("cluster", __name__)


@blueprint.get("/v1/cluster")
@needs("view_cluster_info")
def read() -> Response:
    return answer(render(store().cluster()))


@blueprint.put("/v1/cluster")
@needs("update_cluster")
def update() -> Response:
    changes = body(ClusterBody).sent()
    if "mtls_authorized_subjects" in changes:
        changes["mtls_authorized_subjects"] = subjects(
            "mtls_authorized_subjects", changes["mtls_authorized_subjects"]
        )
    changed = store().configure(lambda cluster: replace(cluster, **changes), dry_run())
    return answer(render(changed))


def subjects(field: str, entries: list[Any]) -> tuple[Subject, ...]:
    """The records of an allow list, checked. Raises Refusal 400."""
    records = tuple(entry.record() for entry in entries)
    in_field(field, lambda: policy.check_gate(records))
    return records


def rendered_subjects(entries: tuple[Subject, ...]) -> list[dict[str, Any]]:
    """An allow list as answers show it: only what is set."""
    return [{name: value for name, value in asdict(entry).items() if value} for entry in entries]


def rendered_time(seconds: int) -> str:
    """Seconds since 1970 as answers show them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    }
