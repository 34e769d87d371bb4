"""What is fetched on time from elsewhere: the keys of issuers, and CAs that are followed."""

import logging
import time

from control.ages import Pulse
from control.domain import enrolment, trust_sources
from control.domain.routine import Routine
from control.records import Issuer, TrustSource
from control.store import Store

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between two looks at the clock
STILL = 300.0  # seconds without a good look; there may be many sources to ask


class Sources(Routine):
    """Asks each when it is due."""

    def __init__(self, store: Store, pulse: Pulse | None = None) -> None:
        super().__init__(
            "sources", store, pulse, lambda: look(store, int(time.time())), LOOK, STILL
        )


def look(store: Store, now: int) -> None:
    """All that is due at a time."""
    keys = store.issuers.all_keys()
    for issuer in store.objects.all(Issuer):
        known = keys.get(issuer.uid) or store.issuers.keys(issuer.uid)
        if enrolment.is_due(issuer, known, now):
            found = enrolment.refresh(store, issuer, now)
            if found.problem:
                log.warning("the keys of issuer '%s': %s", issuer.name, found.problem)
    states = store.trust_sources.states()
    for source in store.objects.all(TrustSource):
        state = states.get(source.uid)
        # One that was never read waits for the administrator who has made it: that says what.
        if state and trust_sources.is_due(source, state, now):
            made = trust_sources.follow(store, source, now)
            if made.problem and made.problem != state.problem:
                log.warning("the CAs of '%s': %s", source.name, made.problem)
