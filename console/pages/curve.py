"""The backlog of the last hour: samples that the console keeps in memory, and the curve that they draw."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from outbox.errors import OutboxError

SAMPLE_SECONDS = 10.0
SPAN_MS = 3_600_000
GAP_MS = 60_000
"""Where samples are farther apart, as after an outage of the database, the curve has a gap."""
WIDTH, HEIGHT = 600, 100
"""Size of the drawing, in its own units."""


class Sample(NamedTuple):
    """The backlog at one time."""

    at_ms: int
    pending: int


class Curve(NamedTuple):
    """What the drawing shows."""

    lines: list[str]
    """Points of each line, as SVG writes them."""
    highest: Sample
    first: Sample
    last: Sample


class BacklogSampler:
    """Samples the backlog in a thread of its own, from the first request on.

    Args:
        count: returns the number of pending rows.
        clock: returns the time in milliseconds since the epoch.
    """

    def __init__(self, count: Callable[[], int], clock: Callable[[], int]) -> None:
        self._count, self._clock = count, clock
        self._samples: deque[Sample] = deque(maxlen=int(SPAN_MS / 1000 / SAMPLE_SECONDS))
        self._started = threading.Lock()
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread, unless it runs; after a fork, so that it is in the process that answers."""
        if self._started.acquire(blocking=False):
            threading.Thread(target=self._run, name="backlog sampler", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def sample(self) -> None:
        """Take a sample; without an answer of the database there is none, and the curve has a gap."""
        try:
            pending = self._count()
        except OutboxError:
            return
        self._samples.append(Sample(self._clock(), pending))

    def samples(self) -> list[Sample]:
        """Return the samples of the last hour, in order."""
        oldest = self._clock() - SPAN_MS
        return [sample for sample in tuple(self._samples) if sample.at_ms >= oldest]

    def _run(self) -> None:
        self.sample()
        while not self._stop.wait(SAMPLE_SECONDS):
            self.sample()


def draw(samples: Sequence[Sample], now_ms: int) -> Curve | None:
    """Return the curve of the last hour; None: there are too few samples for a line.

    Args:
        samples: in order.
        now_ms: the right end of the curve.
    """
    if len(samples) < 2:
        return None
    highest = max(samples, key=lambda sample: sample.pending)
    scale = max(1, highest.pending)
    lines: list[list[str]] = [[]]
    for before, sample in zip((samples[0], *samples), samples, strict=False):
        if sample.at_ms - before.at_ms > GAP_MS:
            lines.append([])
        x = WIDTH * (1 - (now_ms - sample.at_ms) / SPAN_MS)
        lines[-1].append(f"{x:.1f},{HEIGHT * (1 - sample.pending / scale):.1f}")
    return Curve([" ".join(points) for points in lines], highest, samples[0], samples[-1])
