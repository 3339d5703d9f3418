"""A thread that goes on only when it is told to, and stops again at the next place that has a name.

So a test decides who takes a step when: a process that is not told to go on is a frozen one, and a
killed one dies where it stands, with nothing of its own cleaned up but what a process holds in memory.
"""

import threading
from collections.abc import Callable

PATIENCE_SECONDS = 60.0
"""A step that takes longer hangs: it waits for something that no fault explains."""


class KilledError(BaseException):
    """The process was killed here; nothing in the product catches it."""


class Paced:
    """A worker's thread, one step at a time.

    Args:
        work: what it does; calls ``reached`` at each place where it may stop.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.at = "start"
        self.over = False
        self.error: BaseException | None = None
        self._work = work
        self._dies = False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def reached(self, place: str) -> None:
        """Called by the work: stop here until told to go on, or die here."""
        if not self._dies:
            self.at = place
            self._stands.release()
            self._go.acquire()
        if self._dies:
            raise KilledError

    def advance(self) -> None:
        """Let it go on to the next place, or to its end."""
        if self.over:
            return
        self._go.release()
        assert self._stands.acquire(timeout=PATIENCE_SECONDS), f"it hangs after {self.at!r}"
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        """End it where it stands."""
        self._dies = True
        self.advance()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._dies:
                self._work()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - told to whoever paces it
            self.error = error
        finally:
            self.over, self.at = True, "over"
            self._stands.release()


class PacedEvent(threading.Event):
    """A stop signal whose waiters stop at a place of their own, whatever time they wanted to wait.

    Args:
        reached: as of ``Paced``.
    """

    def __init__(self, reached: Callable[[str], None]) -> None:
        super().__init__()
        self._reached = reached

    def wait(self, timeout: float | None = None) -> bool:
        """One wait is one step."""
        del timeout
        if not self.is_set():
            self._reached("waits")
        return self.is_set()
