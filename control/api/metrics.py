"""/metrics: for Prometheus."""

from flask import Blueprint, Response, current_app

from control.metrics import render
from control.web import needs, store

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@needs("view_cluster_stats", answers="text/plain")
def read() -> Response:
    """In Prometheus's text format: the control plane, its certificates, its nodes."""
    found = current_app.extensions
    content = render(store(), found["figures"], found["pulse"], found["own"]())
    return Response(content, mimetype="text/plain; version=0.0.4; charset=utf-8")
