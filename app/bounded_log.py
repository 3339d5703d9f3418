"""Log lines about requests at a bounded rate, however many requests bring them about."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 60.0
_POINTERS = frozenset(
    ["", "/id", "/channel", "/timestamp", "/customer", "/customer/email", "/agent", "/agent/id"],
)
"""Pointers that hold no word of the sender's: any other names fields that the sender has named."""


@dataclass
class _Repeats:
    count: int = 0
    pointers: set[str] = field(default_factory=set)


class BoundedLog:
    """Logs the first event of a kind at once, and those that follow as one line at the end of the interval.

    So a kind has two lines an interval at most, and none of its events goes unmentioned.

    Args:
        interval_seconds: from the first line until the next.
    """

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._repeats: dict[tuple[str, str, str], _Repeats] = {}

    def note(self, action: str, subject: str, secret: str, pointers: Iterable[str] = ()) -> None:
        """Count an event, and log it if it is the first of its kind.

        Args:
            action: key of the line.
            subject: what happened: a constant, never a value of the request.
            secret: label of the secret that was shown, or ``none``.
            pointers: JSON pointers of the fields concerned; those that the sender named are not logged.
        """
        kind = (action, subject, secret)
        shown = {pointer if pointer in _POINTERS else "unknown field" for pointer in pointers}
        with self._lock:
            if not self._repeats:  # threads do not survive a fork, so there is none between intervals
                timer = threading.Timer(self._interval_seconds, self._end_interval)
                timer.daemon = True
                timer.start()
            first = kind not in self._repeats
            repeats = self._repeats.setdefault(kind, _Repeats())
            if not first:
                repeats.count += 1
                repeats.pointers |= shown
        if first:
            _write(kind, _Repeats(1, shown))

    def _end_interval(self) -> None:
        with self._lock:
            ended, self._repeats = self._repeats, {}
        for kind, repeats in ended.items():
            if repeats.count:
                _write(kind, repeats)


def _write(kind: tuple[str, str, str], repeats: _Repeats) -> None:
    action, subject, secret = kind
    log.warning(
        "%s (%d)", subject, repeats.count, action=action, secret=secret, count=repeats.count,
        pointers=sorted(repeats.pointers),
    )  # fmt: skip
