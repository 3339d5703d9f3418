"""A thread that runs one step at a time: it stops at named points until the test lets it continue.

So a test decides which process takes a step. A process that is not stepped is frozen; a killed one ends where it
stopped, without any cleanup.
"""

import threading
from collections.abc import Callable

STEP_TIMEOUT_SECONDS = 60.0
"""A step that takes longer hangs."""


class KilledError(BaseException):
    """The process is killed here; the product catches no ``BaseException``."""


class SteppedThread:
    """A thread that is stepped by the test.

    Args:
        work: what it does; calls ``stop_at`` wherever it may stop.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.stopped_at = "start"
        self.ended = False
        self.error: BaseException | None = None
        self._work = work
        self._killed = False
        self._resume, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop_at(self, step: str) -> None:
        """Stop here until the test continues or kills the thread; called by the work."""
        if not self._killed:
            self.stopped_at = step
            self._stopped.release()
            self._resume.acquire()
        if self._killed:
            raise KilledError

    def advance(self) -> None:
        """Let it run to the next step or to its end."""
        if self.ended:
            return
        self._resume.release()
        assert self._stopped.acquire(timeout=STEP_TIMEOUT_SECONDS), f"it hangs after {self.stopped_at!r}"
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        """End it where it stopped."""
        self._killed = True
        self.advance()
        self._thread.join()

    def _run(self) -> None:
        self._resume.acquire()
        try:
            if not self._killed:
                self._work()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by advance()
            self.error = error
        finally:
            self.ended, self.stopped_at = True, "ended"
            self._stopped.release()


class SteppedEvent(threading.Event):
    """An event whose waits are one step each, whatever their timeout.

    Args:
        stop_at: of the ``SteppedThread``.
    """

    def __init__(self, stop_at: Callable[[str], None]) -> None:
        super().__init__()
        self._stop_at = stop_at

    def wait(self, timeout: float | None = None) -> bool:
        """Stop once, unless the event is set."""
        del timeout
        if not self.is_set():
            self._stop_at("waits")
        return self.is_set()
