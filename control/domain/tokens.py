"""Tokens of the REST API, for clients that do not want to send a password each time: the only file
that knows JWT.

A token says whose it is, until when, and how that user logged in when it was made (`stamp`): one
made before a password was changed, taken away or locked no longer fits, without a list of tokens
anywhere. They are signed with a key of the cluster (RFC 7519, HS256).
"""

import hashlib
import secrets
import time

import jwt

from control.errors import Refusal, unauthorized
from control.records import Cluster, User

ALGORITHM = "HS256"
LONGEST = 86400  # seconds: no token lives longer
CLAIMS = ["exp", "iat", "iss", "stamp", "sub"]


def make(user: User, cluster: Cluster, ttl: int, login: str = "") -> str:
    """A token that is good for `ttl` seconds, of a new login or, where it is renewed, of the same:
    that has a name, by which all of its tokens end at once."""
    now = int(time.time())
    claims = {"iss": cluster.identifier, "sub": str(user.uid), "iat": now, "exp": now + ttl}
    claims["login"] = login or secrets.token_urlsafe(16)
    return jwt.encode({**claims, "stamp": _stamp(user)}, cluster.jwt_key, ALGORITHM)


def owner(token: str, cluster: Cluster) -> tuple[int, str, str]:
    """The uid of a token's user, its stamp for `fits`, and its login. Raises Refusal 401."""
    try:
        claims = jwt.decode(
            token,
            cluster.jwt_key,
            algorithms=[ALGORITHM],
            issuer=cluster.identifier,
            options={"require": CLAIMS},
        )
        return int(claims["sub"]), str(claims["stamp"]), str(claims.get("login", ""))
    except jwt.ExpiredSignatureError:
        raise refusal("it has expired") from None
    except (jwt.InvalidTokenError, ValueError):
        raise refusal("this control plane did not make it, or it is not valid yet") from None


def fits(stamp: str, user: User) -> bool:
    """Whether the user still logs in as when the token was made."""
    return stamp == _stamp(user)


def refusal(why: str) -> Refusal:
    """401 `invalid_token`: OAuth's token as a client shows it is not good (RFC 6750 3.1)."""
    return unauthorized("invalid_token", f"the token was refused: {why}; log in again")


def _stamp(user: User) -> str:
    hashes = [one.hash for one in user.passwords]
    text = repr((user.auth_method, hashes, user.locked))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
