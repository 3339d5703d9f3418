"""Work that a thread of the relay repeats until the stop."""

import threading
from collections.abc import Callable
from time import monotonic

import structlog

from outbox.errors import OutboxError
from relay.health import report_unexpected

log = structlog.get_logger(__name__)


def repeat(
    subject: str,
    work: Callable[[], None],
    stop: threading.Event,
    *,
    pause: Callable[[float], float],
    unavailable: Callable[[OutboxError], object],
) -> None:
    """Repeat some work until the stop; errors do not end it.

    Args:
        subject: what the log calls it.
        work: done each time.
        stop: ends the repetition and every pause.
        pause: seconds until the next time, given how many seconds the work took.
        unavailable: called with each database error.
    """
    while not stop.is_set():
        began = monotonic()
        try:
            work()
        except OutboxError as error:
            unavailable(error)
        except Exception as error:  # noqa: BLE001 - a bug in one thread must not stop it for good
            report_unexpected(log, subject, error)
        stop.wait(pause(monotonic() - began))
