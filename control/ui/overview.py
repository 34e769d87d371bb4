"""How it is with everything: what needs attention first."""

from typing import Any

from flask import Blueprint, render_template

from control.ui.ask import ask

blueprint = Blueprint("overview", __name__, url_prefix="/ui")


@blueprint.get("/")
def show() -> Any:
    return render_template("overview.html", databases=ask("GET /v1/bdbs"))
