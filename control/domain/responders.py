"""Asking OCSP responders, off the handshake: what they call revoked is revoked on every server.

A responder is asked about the certificates of its CA that are in the inventory, where each client
is that has logged in. Questions are sent under the rules by which revocation lists are fetched.
"""

import logging
import os
import time
from dataclasses import replace

from control.ages import Pulse
from control.domain import revocation
from control.domain.routine import Routine
from control.errors import Refusal
from control.pki import ocsp
from control.pki.guarded import CrlError
from control.pki.pem import identity_of
from control.records import Responder
from control.reports import OcspAnswer
from control.store import Question, Store

log = logging.getLogger(__name__)
BYTES = 1 << 16  # of an answer
LOOK = 1.0  # seconds between two looks at the clock
STILL = 300.0  # seconds without a good look; there may be many certificates to ask about
BATCH = 50  # questions until what they brought is written down
TURN = 20.0  # seconds until the next responder has its turn
AGAIN = 60  # seconds until a question that brought nothing is asked again
NONCE = 16  # bytes


class Responders(Routine):
    """Asks about each certificate when it is due."""

    def __init__(self, store: Store, pulse: Pulse | None = None) -> None:
        super().__init__(
            "responders", store, pulse, lambda: look(store, int(time.time())), LOOK, STILL
        )


def look(store: Store, now: int) -> None:
    """All that is due at a time."""
    for responder in store.objects.all(Responder):
        dead: dict[str, str] = {}  # URLs that have not answered, and why
        end = time.monotonic() + TURN
        while due := store.responders.due(responder, now, BATCH):
            store.responders.record(responder, _asked(store, responder, due, dead, now))
            if time.monotonic() > end:
                break
        store.responders.settle(responder, now)


def _asked(
    store: Store, responder: Responder, due: tuple[Question, ...], dead: dict[str, str], now: int
) -> list[OcspAnswer]:
    """What came of questions, up to the first certificate that turns out revoked: that does not
    wait for the others."""
    found = list[OcspAnswer]()
    for one in due:
        url = responder.url or one.url
        try:
            if url in dead:
                raise CrlError("ocsp_fetch", dead[url])
            made = ask(store, responder, one, now)
        except (CrlError, Refusal) as error:
            if isinstance(error, CrlError) and error.code == "ocsp_fetch":
                dead[url] = str(error)
            if str(error) != one.before.problem:
                log.warning("the responder '%s': %s", responder.name, error)
            made = _unanswered(responder, one.before, now, str(error))
        found.append(made)
        if made.status == "revoked" and one.before.status != "revoked":
            break
    return found


def _unanswered(responder: Responder, before: OcspAnswer, now: int, problem: str) -> OcspAnswer:
    """What is known after a question that brought no answer that counts."""
    due = now + min(responder.interval, AGAIN)
    return replace(before, asked=now, due=due, problem=problem)


def ask(store: Store, responder: Responder, one: Question, now: int) -> OcspAnswer:
    """Asks about a certificate. Raises CrlError."""
    issuer = issuer_of(store, responder.ca)
    asked = ocsp.Asked(issuer, one.before.serial, os.urandom(NONCE))
    url = responder.url or one.url
    if not url:
        raise CrlError("ocsp_url", "the certificate names no responder (AIA): set a url")
    content = _fetched(url, ocsp.request(asked))
    found = ocsp.read(content, asked, now, store.revocations.any_of, responder.nonce)
    if found.this_update < one.before.this_update:
        raise CrlError("ocsp_older", "the answer is older than the one before it")
    return OcspAnswer(
        responder.uid, one.before.serial, one.before.ends,
        "revoked" if found.revoked else "good", found.this_update, found.next_update, now,
        _due(responder, found, now),
    )  # fmt: skip


def _due(responder: Responder, found: ocsp.Answer, now: int) -> int:
    """After the interval, and before the last quarter of the answer's time, so that there is time
    to ask again; never at once."""
    last = found.next_update - (found.next_update - found.this_update) // 4
    return max(now + min(responder.interval, AGAIN), min(now + responder.interval, last))


def _fetched(url: str, content: bytes) -> bytes:
    check_url(url)
    try:
        return revocation.fetch(url, "application/ocsp-response", BYTES, sent=content)
    except CrlError as error:
        raise CrlError("ocsp_fetch", str(error)) from error


def check_url(url: str) -> None:
    """Raises CrlError where nobody would be asked there."""
    try:
        revocation.check_url(url)
    except CrlError as error:
        raise CrlError("ocsp_url", str(error)) from error


def issuer_of(store: Store, ca: str) -> bytes:
    """The certificate, DER, of a trusted CA by its key id. Raises CrlError."""
    for der in store.settings.authorities():
        if identity_of(der).key == ca:
            return der
    raise CrlError("ocsp_ca", "the CA is not trusted here any more")


def check(store: Store, responder: Responder, now: int) -> None:
    """Asks about one certificate of the CA, where any is known, so that a responder that does not
    answer is not switched on. Raises CrlError, Refusal."""
    anyone = replace(responder, uid=0)  # of which nothing is known
    for one in store.responders.due(anyone, now, 1):
        try:
            ask(store, anyone, one, now)
        except CrlError as error:
            if error.code != "ocsp_unknown":  # it has answered, as it should
                raise
