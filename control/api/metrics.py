"""/metrics: for Prometheus."""

from flask import Blueprint, Response, current_app

from control.api.web import needs, store
from control.domain.metrics import render

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@needs("view_cluster_stats", answers="text/plain")
def read() -> Response:
    """In Prometheus's text format: the control plane, its certificates, its nodes."""
    found = current_app.extensions
    content = render(store(), found["figures"], found["pulse"], found["own"](), found["sink"])
    return Response(content, mimetype="text/plain; version=0.0.4; charset=utf-8")
