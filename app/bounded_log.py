"""Log warnings about requests at a limited rate, however many requests cause them."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 60.0
_KNOWN_POINTERS = frozenset(
    ["", "/id", "/channel", "/timestamp", "/customer", "/customer/email", "/agent", "/agent/id"],
)
"""Other pointers contain field names that the sender has chosen."""


class EventKind(NamedTuple):
    """Events that are counted together.

    Attributes:
        action: Key of the log line.
        outcome: Of the request.
        text: A constant sentence without any value of the request.
        secret: Label of the secret in the request, or ``none``.
    """

    action: str
    outcome: str
    text: str
    secret: str


@dataclass
class _Repeats:
    count: int = 0
    pointers: set[str] = field(default_factory=set)


class BoundedLog:
    """Logs the first event of a kind at once, and those that follow as one line at the end of the interval.

    So there are at most two lines of a kind in an interval, and every event is counted if ``flush`` is called last.

    Args:
        interval_seconds: Length of an interval; it begins with the first event.
    """

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._repeats: dict[EventKind, _Repeats] = {}

    def warning(self, kind: EventKind, pointers: Iterable[str] = ()) -> None:
        """Count an event, and log it if it is the first of its kind.

        Args:
            kind: What happened.
            pointers: JSON Pointers to the fields concerned; names chosen by the sender are not logged.
        """
        shown = {pointer if pointer in _KNOWN_POINTERS else "unknown field" for pointer in pointers}
        with self._lock:
            if not self._repeats:  # a new timer for each interval: threads do not survive a fork
                timer = threading.Timer(self._interval_seconds, self.flush)
                timer.daemon = True
                timer.start()
            is_first = kind not in self._repeats
            repeats = self._repeats.setdefault(kind, _Repeats())
            if not is_first:
                repeats.count += 1
                repeats.pointers |= shown
        if is_first:
            _write(kind, _Repeats(1, shown))

    def flush(self) -> None:
        """End the interval: log the events that were counted in it."""
        with self._lock:
            ended, self._repeats = self._repeats, {}
        for kind, repeats in ended.items():
            if repeats.count:
                _write(kind, repeats)


def _write(kind: EventKind, repeats: _Repeats) -> None:
    action, outcome, text, secret = kind
    log.warning(
        "%s (%d)", text, repeats.count, action=action, outcome=outcome, secret=secret, count=repeats.count,
        pointers=sorted(repeats.pointers),
    )  # fmt: skip
