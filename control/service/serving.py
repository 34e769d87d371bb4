"""The control plane at work: the API, the page, and the threads beside them."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from wsgiref.types import WSGIApplication

from control.ages import Pulse
from control.api.app import create_app
from control.domain import issuing
from control.domain.following import Sources
from control.domain.issuing import Authority
from control.domain.responders import Responders
from control.domain.revocation import Lists, Signer
from control.domain.routine import Routine
from control.errors import Refusal
from control.http.bridge import peer_cert
from control.http.protocol import Limits
from control.http.server import Listen, Server
from control.nodes.audit import Collector, Follower
from control.nodes.auditing import Auditor
from control.nodes.worker import Worker
from control.pki.issue import open_authority
from control.records import API, Certificate
from control.service import logs, ready
from control.service.config import SETTINGS, Config, DatabaseAway, ServiceError, load_config
from control.service.home import check_home, open_store, own_certificates, renew, rotate
from control.service.signals import END_SECONDS, stop_on_signal
from control.store import UNAVAILABLE_ERRORS, Store, first_line
from control.ui.app import create_ui

log = logging.getLogger(__name__)
GRACE_SECONDS = 2.0  # for requests that are under way at the end
RENEWAL_SECONDS = 3600.0  # seconds between two looks at their age
START_SECONDS = 1.0  # between two tries to open a database that is not there yet
WAITING_SECONDS = 60.0  # between two lines of the log about that
STALLED_SECONDS = 300.0  # seconds without a good one
WATCH_SECONDS = 60.0  # seconds between two looks at the ages of clients' certificates
# People are fewer than programs, and both fronts together stay below 1024 descriptors.
UI_LIMITS = Limits(connections=100, connections_per_source=64)


# ---- serve ---------------------------------------------------------------------------------------


@contextmanager
def running(config: Config) -> Iterator[Server]:
    """The control plane at work: API and sync. Raises ServiceError, then nothing was started."""
    check_home(config)
    with ExitStack() as stack:
        try:
            front = _start(config, stack)
        except UNAVAILABLE_ERRORS as error:
            raise DatabaseAway(f"the database: {first_line(error)}") from error
        yield front


def _start(config: Config, stack: ExitStack) -> Server:
    """Everything, until the stack is closed."""
    store = open_store(config)
    stack.callback(store.close)
    try:
        renew(config, store)
        authorities = (config.home / "ca.crt").read_text()
        authority = Authority(config.home, config.passphrase, config.public_url)
        if (config.home / issuing.CLIENTS).exists():
            authority()
    except OSError as error:
        raise ServiceError(f"{error.filename}: {error.strerror}") from error
    except Refusal as error:
        raise ServiceError(error.description) from error
    api = store.settings.certificates()[API]
    auditor = Auditor(store)
    collector, pulse = Collector(store, auditor), Pulse()
    worker = Worker(store, config.identity, authorities, collector, pulse)
    app = create_app(
        store,
        peer_cert,
        rotate=lambda: rotate(config, store),
        authority=authority,
        ask=worker.ask,
        figures=collector.figures,
        pulse=pulse,
        own=lambda: own_certificates(config),
        sink=auditor.figures,
        signers=lambda: crl_signers(config),
    )
    tls_min = store.settings.cluster().min_control_TLS_version
    fronts = [_front(config, app, api, tls_min)]
    stack.callback(fronts[0].stop, GRACE_SECONDS)
    if config.ui_port:
        fronts.append(_ui(config, create_ui(app, peer_cert), store, tls_min))
        stack.callback(fronts[1].stop, GRACE_SECONDS)
    if config.audit_file:
        follower = Follower(store, config.home / config.audit_file, pulse)
        start_until_exit(stack, follower)  # ends behind the others
    start_until_exit(stack, auditor)
    start_until_exit(stack, worker)
    start_until_exit(stack, CertificateKeeper(config, store, fronts, pulse))
    start_until_exit(stack, Sources(store, pulse))
    start_until_exit(stack, Responders(store, pulse))
    start_until_exit(stack, Lists(store, lambda: crl_signers(config), pulse))
    return fronts[0]


_opened = lru_cache(maxsize=16)(open_authority)  # decrypting a key takes longer than signing


def crl_signers(config: Config) -> list[Signer]:
    """The CAs of clients that are or were here, each of which has a revocation list and answers
    OCSP."""

    def signer(file: Path) -> Signer:
        text = file.read_text()
        public = issuing.certificate_of(text)
        return Signer(public, lambda: _opened(text, config.passphrase()))

    return [signer(file) for file in issuing.files(config.home)]


class _Startable(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


def start_until_exit(stack: ExitStack, one: _Startable) -> None:
    """Starts it, to be stopped with the stack."""
    one.start()
    stack.callback(one.stop)


def _front(config: Config, app: WSGIApplication, api: Certificate, tls_min: str) -> Server:
    listen = Listen(config.host, config.port)
    shown = (api.certificate.encode(), api.key.encode())
    front = Server(
        app,
        listen,
        *shown,
        tls_min=config.tls_min,
        proxy_socket=config.proxy,
        proxy_header=config.proxy_header,
    )
    front.replace_certificate(*shown, tls_min=tls_min)
    return _started(front, listen)


def _ui(config: Config, app: WSGIApplication, store: Store, tls_min: str) -> Server:
    """The front of the web page, whose TLS names the CAs that people may log in from."""
    listen, api = Listen(config.host, config.ui_port), store.settings.certificates()[API]
    shown = (api.certificate.encode(), api.key.encode())
    asked = login_authorities(store)
    front = Server(app, listen, *shown, tls_min=config.tls_min, authorities=asked, limits=UI_LIMITS)
    front.replace_certificate(*shown, asked, tls_min)
    return _started(front, listen)


def login_authorities(store: Store) -> tuple[bytes, ...]:
    """DER of the CAs whose certificates log in here; none where none does."""
    return (
        store.settings.trust().cas
        if store.settings.cluster().mtls_certificate_authentication
        else ()
    )


def _started(front: Server, listen: Listen) -> Server:
    try:
        front.start()
    except OSError as error:
        where = error.filename or f"{listen.host}:{listen.port}"
        raise ServiceError(f"cannot listen on {where}: {error.strerror}") from error
    return front


class CertificateKeeper(Routine):
    """Shows the API's certificate of the moment, names the CAs of the moment where there is a web
    page, renews ours before they end, and has the event log tell which of clients' end soon.
    `fronts` are that of the API, and that of the page."""

    def __init__(
        self, config: Config, store: Store, fronts: Sequence[Server], pulse: Pulse
    ) -> None:
        seconds = min(WATCH_SECONDS, RENEWAL_SECONDS)
        super().__init__("certificates", store, pulse, self._keep, seconds, STALLED_SECONDS)
        self._config, self._store, self._fronts = config, store, fronts
        self._shown: list[object] = [None for _ in fronts]
        self._renewed = self._watched = time.monotonic()

    def _keep(self) -> str | None:
        try:
            if time.monotonic() > self._renewed + RENEWAL_SECONDS:
                self._renewed = time.monotonic()
                renew(self._config, self._store)
            self._show()
        except UNAVAILABLE_ERRORS:
            raise
        except OSError as error:
            log.error("our certificates are not renewed: %s", error)
            return str(error)
        if time.monotonic() > self._watched + WATCH_SECONDS:
            self._watched = time.monotonic()
            self._store.inventory.watch(int(time.time()))
        return None

    def _show(self) -> None:
        api = self._store.settings.certificates().get(API)
        for number, front in enumerate(self._fronts if api else ()):
            authorities = login_authorities(self._store) if number else None
            tls_min = self._store.settings.cluster().min_control_TLS_version
            if api and self._shown[number] != (api, authorities, tls_min):
                shown = (api.certificate.encode(), api.key.encode())
                front.replace_certificate(*shown, authorities, tls_min)
                self._shown[number] = (api, authorities, tls_min)


def serve(config: Config) -> None:
    """Runs until SIGINT or SIGTERM, and at most END_SECONDS longer, whatever hangs then. At the
    start it waits for its database. Raises ServiceError."""
    logs.configure(config)
    for text in config.warnings:
        log.warning("%s", text)
    stop = stop_on_signal(lambda: reload(config), END_SECONDS)
    told = -math.inf
    while not stop.is_set():
        with ExitStack() as stack:
            try:
                stack.enter_context(running(config))
            except DatabaseAway as error:
                if time.monotonic() > told + WAITING_SECONDS:
                    told = time.monotonic()
                    log.warning("it waits for its database: %s", error)
                stop.wait(START_SECONDS)
                continue
            log.info("the REST API listens on https://%s:%d", config.host, config.port)
            if config.ui_port:
                log.info("the web page is https://%s:%d/ui", config.host, config.ui_port)
            ready.tell("READY=1")
            stop.wait()
            ready.tell("STOPPING=1")


LIVE = ("log_level", "log_format", "log_file", "request_log")  # settings that need no restart


def reload(began: Config) -> None:
    """Reads the settings again: those of the log count from now on, and its file is opened again.
    What else differs from those that it `began` with is said. Raises ServiceError."""
    now = load_config(began.home)
    logs.configure(now)
    later = [
        name for name in SETTINGS if name not in LIVE and getattr(now, name) != getattr(began, name)
    ]
    log.info("the settings are read again, and the log is opened again")
    if later:
        log.warning("these settings count from the next start on: %s", ", ".join(later))
