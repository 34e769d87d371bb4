"""The one JSON shape of all errors: {error_code, description, message}, for a `Refusal` and for
what Flask raises.

Pages of Redis Enterprise's documentation name either of the last two, so both are sent."""

import logging

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from control.api.absent import not_here
from control.errors import Refusal

log = logging.getLogger(__name__)


def install(app: Flask) -> None:
    """Makes every error of `app` come out in the one shape, also those that Flask raises."""
    app.register_error_handler(Refusal, answer)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _bug)


def answer(refusal: Refusal) -> Response:
    """The response to a request that is refused."""
    text = refusal.description
    body = {"error_code": refusal.error_code, "description": text, "message": text}
    response = jsonify(body)
    response.status_code = refusal.status
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="redis-certauth", charset="UTF-8"'
    return response


def _http(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    text = _told(error.code) or error.description or code
    response = answer(Refusal(error.code or 500, code, text))
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _told(status: int | None) -> str:
    """What our own 404 and 405 say: those of Flask are made for a person with a browser."""
    if status == 404:
        return (
            not_here(request.path)
            or "this address does not exist; /openapi.json lists all addresses"
        )
    if status == 405:
        return (
            f"{request.method} is not a method of this address: the header Allow lists its methods"
        )
    return ""


def _bug(error: Exception) -> Response:
    # The text of an unexpected error may hold anything, so it goes to the log and not to strangers.
    log.error("a request failed", exc_info=error)
    return answer(Refusal(500, "internal_error", "the control plane failed; its log says why"))
