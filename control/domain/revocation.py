"""Revocation lists at work: taking those of other CAs in, fetching them on time, telling which are
overdue, and publishing our own.

Addresses that are fetched from are an administrator's; still, no answer is ever shown, nothing is
sent along, no redirect is followed, and no address is asked that is only for one machine's
neighbours (169.254.0.0/16, where clouds keep credentials).
"""

import base64
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from control.ages import Pulse
from control.domain.routine import Routine
from control.errors import Refusal
from control.http.verify import verifying
from control.pki import crl, ocsp
from control.pki.guarded import CertificateError, CrlError
from control.pki.pem import Issued, is_issued_by, pem_to_ders
from control.pki.uploads import check_authorities
from control.policy import core
from control.records import Issuer
from control.reports import OwnCrl, RevocationList
from control.store import Store, revoking_lines

log = logging.getLogger(__name__)

BYTES = 64 << 20  # of a list that is fetched: a million entries
SECONDS = 30.0  # for all of a fetch
PATIENCE = 10.0  # for each step of it
LOOK = 1.0  # seconds between two looks at the clock
STILL = 300.0  # seconds without a good look; there may be many lists to fetch
AGAIN = 60  # seconds until a fetch that brought nothing is tried again, or one that is overdue
LIFETIME = timedelta(days=7)  # of our own lists
OCSP_REQUEST = {"Content-Type": "application/ocsp-request"}
DAILY = 86400  # seconds until our own list is signed again


# ---- Taking lists in -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What comes with a list: settings, where they are given, and PEM of CAs that lead from its
    signer to one that is trusted."""

    settings: dict[str, Any]
    authorities: str = ""


def take(
    store: Store, content: bytes, wish: Wish, now: int, of: RevocationList | None = None
) -> list[RevocationList]:
    """Judges each list of a file or upload, and puts them in force: all, or none. `of` is what one
    of them must be the next one of; the others then have records of their own. Raises
    CertificateError, CrlError, Refusal."""
    given = check_authorities(wish.authorities) if wish.authorities else ""
    born = (der for one in store.objects.all(Issuer) for der in pem_to_ders(one.manufacturer_ca))
    above, trusted = pem_to_ders(given), (*store.settings.authorities(), *born)
    crl.check_authorities(above, trusted)
    kept = [*above, *(der for one in store.crls.all() for der in pem_to_ders(one.authorities))]
    known = [*trusted, *crl.vouched(kept, trusted)]
    ders = dict.fromkeys(crl.lists_of(content))
    found = _next(ders, known, now, of) if of else [crl.read(der, known, now) for der in ders]

    def change(before: RevocationList) -> RevocationList:
        if of and (before.uid, before.url) != (of.uid, of.url):
            raise CrlError(
                "crl_other", "somebody deleted this list, or changed its url, in the meantime"
            )
        return replace(before, **wish.settings, authorities=given or before.authorities)

    if twins := {one.keys[0] for one in found if _count(found, one) > 1}:
        raise CrlError("crl_several", f"several lists of one CA ({', '.join(sorted(twins))}): send "
                       "the newest alone")  # fmt: skip
    return [store.crls.put(one, change) for one in found]


def _next(
    ders: Iterable[bytes], known: Sequence[bytes], now: int, of: RevocationList
) -> list[crl.Crl]:
    """The one among lists that is the next one of `of`. Raises CrlError."""
    problem: CrlError | None = None
    for der in ders:
        try:
            found = crl.read(der, known, now)
        except CrlError as error:
            problem = problem or error
            continue
        if (found.keys[0], found.scope) == (of.ca, of.scope):
            return [found]
    raise problem or CrlError(
        "crl_other", f"the list there is not the one of '{of.issuer}' any more"
    )


def _count(found: Sequence[crl.Crl], one: crl.Crl) -> int:
    return sum((other.keys[0], other.scope) == (one.keys[0], one.scope) for other in found)


def fetched(
    store: Store, url: str, wish: Wish, of: RevocationList | None = None
) -> list[RevocationList]:
    """Fetches lists and takes them in. Raises as `take`."""
    content, now = fetch(url), int(time.time())
    return take(store, content, Wish({**wish.settings, "tried": now}, wish.authorities), now, of)


# ---- Fetching ------------------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Raises CrlError where nothing would be fetched from there."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise CrlError("crl_url", f"url: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise CrlError(
            "crl_url", "url: must look like http://ca.example/ca.crl, without a password"
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise CrlError("crl_url", "url: a character in it must be escaped")


def fetch(
    url: str, kind: str = "application/pkix-crl", most: int = 0, ca: str = "", sent: bytes = b""
) -> bytes:
    """What is at a URL: of this media type, at most so many bytes (0: BYTES), from a server that is
    verified with these CAs (PEM), or those of the system. With `sent`, what is answered to this
    OCSP request. Raises CrlError, which holds nothing of the answer."""
    check_url(url)
    try:
        parts = urlsplit(url)
        deadline = time.monotonic() + SECONDS
        connection = _connected(parts.scheme, parts.hostname or "", parts.port, ca, deadline)
        # Anyone who answers a byte at a time is cut off too.
        left = max(0.0, deadline - time.monotonic())
        watchdog = threading.Timer(left, connection.sock.shutdown, [socket.SHUT_RDWR])
        watchdog.start()
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            method, more = ("POST", OCSP_REQUEST) if sent else ("GET", {})
            connection.request(method, path, sent or None, {"Accept": kind, **more})
            return _content(url, connection.getresponse(), deadline, most or BYTES)
        finally:
            watchdog.cancel()
            connection.close()
    except http.client.HTTPException as error:  # its text may be a line of the answer
        raise CrlError(
            "crl_fetch", f"{url}: it does not speak HTTP ({type(error).__name__})"
        ) from error
    # UnicodeError: a host name that is none, such as a..b (the codec idna).
    except (OSError, UnicodeError) as error:
        raise CrlError("crl_fetch", f"{url}: {error or type(error).__name__}") from error


def _connected(
    scheme: str, host: str, port: int | None, ca: str, deadline: float
) -> http.client.HTTPConnection:
    """To an address that was looked at first: a name may stand for any, and for many, none of which
    answers. No other address is tried after the deadline (time.monotonic)."""
    port = port or (443 if scheme == "https" else 80)
    made = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    problem: OSError | None = None
    for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        _check_address(host, str(where[0]))
        if problem and time.monotonic() > deadline - PATIENCE:
            break
        try:
            made.sock = socket.create_connection((str(where[0]), port), timeout=PATIENCE)
            break
        except OSError as error:
            problem = error
    if made.sock is None:
        raise problem or OSError("it has no address")
    if scheme == "https":
        made.sock = verifying(cadata=ca or None).wrap_socket(made.sock, server_hostname=host)
    return made


NAT64 = ip_network("64:ff9b::/96")  # RFC 6052
CREDENTIALS = ip_address("fd00:ec2::254")  # a cloud's, which 169.254.169.254 is in IPv4


def _check_address(host: str, text: str) -> None:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = ip_address(address.packed[-4:]) if address in NAT64 else None
        address = inner or address.ipv4_mapped or address.sixtofour or address
    secret = address.is_link_local or address == CREDENTIALS
    if secret or address.is_multicast or address.is_unspecified:
        raise CrlError(
            "crl_url",
            f"url: {host} is {address}, and the control plane never fetches from such an address",
        )


def _content(url: str, response: http.client.HTTPResponse, deadline: float, most: int) -> bytes:
    if response.status != 200:
        moved = " (redirects are not followed)" if 300 <= response.status < 400 else ""
        raise CrlError("crl_fetch", f"{url}: answered {response.status}{moved}")
    content = response.read(most + 1)
    if len(content) > most:
        raise CrlError("crl_fetch", f"{url}: more than {most} bytes")
    if time.monotonic() > deadline:
        raise CrlError("crl_fetch", f"{url}: not there after {SECONDS:.0f} seconds")
    return content


# ---- On time -------------------------------------------------------------------------------------


class Signer(NamedTuple):
    """A CA of ours: its certificate, PEM, and how it is had with its key, which may be sealed."""

    certificate: str
    opened: Callable[[], Issued]


Authorities = Callable[[], Sequence[Signer]]


class Lists(Routine):
    """Fetches lists when they are due, marks those that are overdue, and publishes ours: those of
    `authorities`, our CAs that sign for clients."""

    def __init__(self, store: Store, authorities: Authorities, pulse: Pulse | None = None) -> None:
        def work() -> None:
            look(store, authorities, int(time.time()))

        super().__init__("revocation_lists", store, pulse, work, LOOK, STILL)


def look(store: Store, authorities: Authorities, now: int) -> None:
    """All that is due at a time."""
    store.crls.mark_overdue(now)
    store.locks.finish(now)
    for signer in authorities():
        try:
            publish(store, signer, now)
        except CertificateError as error:  # its file does not open: no other list waits for it
            log.warning("the revocation list of a CA of ours is not signed: %s", error)
    for one in store.crls.all():
        if one.url and is_due(one, now):
            _fetch_again(store, one, now)


def is_due(one: RevocationList, now: int) -> bool:
    """Whether the list should be fetched at `now` (seconds since 1970): `interval` seconds after
    the last attempt, at most AGAIN where that failed or the list is overdue."""
    patience = min(one.interval, AGAIN) if one.problem or one.overdue else one.interval
    return now >= one.tried + patience


def _fetch_again(store: Store, one: RevocationList, now: int) -> None:
    try:
        fetched(store, one.url, Wish({}), one)
    except (ValueError, Refusal) as error:  # CrlError too: one bad list holds up no other
        log.warning("the revocation list of '%s': %s", one.issuer, error)
        store.crls.record_failure(one.uid, now, str(error))


# ---- Our own -------------------------------------------------------------------------------------


def answered(store: Store, signers: Sequence[Signer], ca: str, asked: Callable[[], bytes]) -> bytes:
    """What the CA of ours with this key id answers to an OCSP request."""
    of = {core.identity(one.certificate.encode()).key: one for one in signers}.get(ca)
    try:
        content = asked()
        asks = ocsp.question(content, pem_to_ders(of.certificate)[0]) if of else None
    except ValueError:  # CrlError, and what is not base64
        return ocsp.no_answer("MALFORMED_REQUEST")
    if of is None or asks is None:
        return ocsp.no_answer("UNAUTHORIZED")
    known = store.inventory.by_serial(ca, asks.serial)
    line = f"revoke serial {ca} {asks.serial}"
    revoked = store.revocations.first_of([line, *(revoking_lines(known) if known else ())])
    entry = crl.Entry(asks.serial, revoked.time, revoked.reason) if revoked else None
    try:
        good = known is not None or asks.serial in _below(signers, of)
        return ocsp.answer(of.opened(), asks, entry, good, int(time.time()))
    except ValueError as error:  # CertificateError: its file does not open
        log.warning("a CA of ours cannot answer for its certificates: %s", error)
        return ocsp.no_answer("INTERNAL_ERROR")


def _below(signers: Sequence[Signer], of: Signer) -> set[str]:
    """The serial numbers of those of our CAs that another one of them has issued."""
    above = pem_to_ders(of.certificate)[0]
    ours = (pem_to_ders(one.certificate)[0] for one in signers)
    return {core.identity(one).serial for one in ours if is_issued_by(one, above)}


def publish(store: Store, signer: Signer, now: int) -> None:
    """Signs the list of a CA of ours again where it has changed, or is a day old."""
    key = core.identity(signer.certificate.encode()).key
    last, revoked = store.crls.published(key), store.revocations.of_ca(key)
    entries = [crl.Entry(one.line.split()[-1], one.time, one.reason) for one in revoked]
    serials = tuple(entry.serial for entry in entries)
    if last and last.certificates == serials and now < last.this_update + DAILY:
        return
    # By the clock, so that a control plane that is restored from a backup never goes back.
    number = max(now, last.number + 1 if last else 0)
    at = datetime.fromtimestamp(now, UTC)
    der = crl.sign(signer.opened(), entries, number, at, LIFETIME)
    until = now + int(LIFETIME.total_seconds())
    store.crls.publish(OwnCrl(key, number, now, until, serials, base64.b64encode(der).decode()))
