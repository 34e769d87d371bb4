"""What a thread does again and again: at once when something changes here, and else in its time."""

import logging
import threading
from collections.abc import Callable

from control.ages import Pulse
from control.store import UNAVAILABLE_ERRORS, Store, first_line

log = logging.getLogger(__name__)


class Routine(threading.Thread):
    """Calls `work` every `seconds`, and when the store has changed. `part`: what `pulse` calls it,
    which is told to expect a beat within `still` seconds. An error is told there and in the log,
    and the next call goes on. What `work` returns is why it could not be done, which it has put
    into the log itself."""

    def __init__(
        self, part: str, store: Store, pulse: Pulse | None, work: Callable[[], str | None],
        seconds: float, still: float,
    ) -> None:  # fmt: skip
        super().__init__(name=part.replace("_", " "), daemon=True)
        self._part, self._pulse, self._work = part, pulse or Pulse(), work
        self._seconds, self._still = seconds, still
        self._wake, self._stopping = threading.Event(), False
        store.listen(self._wake.set)

    def run(self) -> None:
        """Works at once, then until `stop`; UNAVAILABLE_ERRORS leave no traceback in the log."""
        self._pulse.expect(self._part, self._still)
        while not self._stopping:
            try:
                problem = self._work()
                if problem:
                    self._pulse.fail(self._part, problem)
                else:
                    self._pulse.beat(self._part)
            except UNAVAILABLE_ERRORS as error:
                self._pulse.fail(self._part, first_line(error))
            except Exception as error:
                log.exception("%s are looked at again, after an error", self.name)
                self._pulse.fail(self._part, str(error) or type(error).__name__)
            self._wake.wait(self._seconds)
            self._wake.clear()

    def stop(self) -> None:
        """Returns when the work under way is done."""
        self._stopping = True
        self._wake.set()
        self.join()
