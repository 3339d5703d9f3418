"""Log lines about requests at a bounded rate, however many requests bring them about."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 60.0
_POINTERS = frozenset(
    ["", "/id", "/channel", "/timestamp", "/customer", "/customer/email", "/agent", "/agent/id"],
)
"""Pointers that hold no word of the sender's: any other names fields that the sender has named."""


class Kind(NamedTuple):
    """What events are counted together.

    Attributes:
        action: key of the line.
        outcome: of the request.
        text: what happened, a constant, never a value of the request.
        secret: label of the secret that was shown, or ``none``.
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

    So a kind has two lines an interval at most, and none of its events goes unmentioned if ``flush`` is called last.

    Args:
        interval_seconds: from the first line until the next.
    """

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._repeats: dict[Kind, _Repeats] = {}

    def note(self, kind: Kind, pointers: Iterable[str] = ()) -> None:
        """Count an event, and log it if it is the first of its kind.

        Args:
            kind: what happened to the request.
            pointers: JSON pointers of the fields concerned; those that the sender named are not logged.
        """
        shown = {pointer if pointer in _POINTERS else "unknown field" for pointer in pointers}
        with self._lock:
            if not self._repeats:  # threads do not survive a fork, so there is none between intervals
                timer = threading.Timer(self._interval_seconds, self.flush)
                timer.daemon = True
                timer.start()
            first = kind not in self._repeats
            repeats = self._repeats.setdefault(kind, _Repeats())
            if not first:
                repeats.count += 1
                repeats.pointers |= shown
        if first:
            _write(kind, _Repeats(1, shown))

    def flush(self) -> None:
        """End the interval: log what has been counted in it."""
        with self._lock:
            ended, self._repeats = self._repeats, {}
        for kind, repeats in ended.items():
            if repeats.count:
                _write(kind, repeats)


def _write(kind: Kind, repeats: _Repeats) -> None:
    action, outcome, text, secret = kind
    log.warning(
        "%s (%d)", text, repeats.count, action=action, outcome=outcome, secret=secret, count=repeats.count,
        pointers=sorted(repeats.pointers),
    )  # fmt: skip
