"""One family of errors.

Every refusal of the REST API is a `Refusal`: an HTTP status, an `error_code` that clients compare,
and a sentence for the person who must act. control/api/errors.py makes the response of it.
"""


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


def database_away(locked: bool) -> Refusal:
    """The control plane's own database cannot be read or written, or is `locked`: somebody else
    writes to it for too long: 503."""
    text = (
        "another program locks the control plane's database for too long: your change was not "
        "made; try again"
        if locked
        else "the control plane cannot read or write its database now: its log says why"
    )
    return Refusal(503, "database_unavailable", text)
