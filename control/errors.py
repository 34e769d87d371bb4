"""One family of errors and one JSON shape for all of them.

Every refusal of the REST API is a `Refusal`: an HTTP status, an `error_code` that clients compare,
and a sentence for the person who must act. The body is `{error_code, description, message}`: pages
of Redis Enterprise's documentation name either of the last two, so both are sent.
"""

import logging

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that is not carried out; nothing was changed."""

    def __init__(self, status: int, error_code: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.error_code = error_code
        self.description = description


def invalid(error_code: str, description: str) -> Refusal:
    """The request itself is wrong: 400."""
    return Refusal(400, error_code, description)


def unauthorized(error_code: str, description: str) -> Refusal:
    """Nobody, or not who they say: 401."""
    return Refusal(401, error_code, description)


def forbidden(error_code: str, description: str) -> Refusal:
    """Somebody, but not with that right: 403."""
    return Refusal(403, error_code, description)


def missing(what: str) -> Refusal:
    """No such object: 404."""
    return Refusal(404, "not_found", f"there is no {what}")


def refused(error_code: str, description: str) -> Refusal:
    """Well said, but it cannot be done: 406, which is what Redis Enterprise answers."""
    return Refusal(406, error_code, description)


def conflict(error_code: str, description: str) -> Refusal:
    """Something else stands in the way: 409."""
    return Refusal(409, error_code, description)


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
    response = answer(Refusal(error.code or 500, code, error.description or code))
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _bug(error: Exception) -> Response:
    # The text of an unexpected error may hold anything, so it goes to the log and not to strangers.
    log.error("a request failed", exc_info=error)
    return answer(Refusal(500, "internal_error", "the control plane failed; its log says why"))
