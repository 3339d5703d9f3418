"""Metrics of the backlog, from the web process: they are there when no relay is.

A thread counts on a connection of its own and opens it anew for each count, so it takes none from the intake, and
finds a database that has moved. What it meets, it keeps to itself: the last count stands, with its time.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic, time

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import make_url

from config.version import VERSION
from outbox.backlog import Backlog, count_backlog
from outbox.db.engine import create_outbox_engine
from outbox.errors import DatabaseUnavailableError, OutboxError

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 10.0
"""Between two counts; longer if counting takes long."""
PAUSE_TIMES = 20
"""The pause is so many times what the count took: a process takes a twentieth of a database's time at most."""


class BacklogMetrics(Collector):
    """Counts the backlog in the background and exports the last count.

    Each process counts for itself, so that whichever answers a scrape has a count.

    Args:
        url: of the outbox.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._families: Sequence[Metric] = ()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def start(self) -> None:
        """Count from now on, unless the thread runs already: threads do not survive a fork."""
        with self._start:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="backlog-metrics", daemon=True)
                self._thread.start()

    def collect(self) -> Iterable[Metric]:
        """The last count, all of one moment; none before the first."""
        self.start()
        yield from self._families
        build = GaugeMetricFamily("outbox_build_info", "1, by the version that runs.", labels=["version"])
        build.add_metric([VERSION], 1)
        yield build

    def _run(self) -> None:
        pause = threading.Event()
        seconds = 0.0
        while not pause.wait(seconds):
            began = monotonic()
            self._count()
            seconds = max(PAUSE_SECONDS, (monotonic() - began) * PAUSE_TIMES)

    def _count(self) -> None:
        try:
            self._families = _families(_counted(self._url), time())
        except OutboxError as error:
            self._note(str(error))
        except Exception as error:  # noqa: BLE001 - not its message, which may quote the URL
            self._note(f"unexpected {type(error).__name__}")
        else:
            self._note(None)

    def _note(self, failure: str | None) -> None:
        """Log what keeps it from counting, once."""
        if failure is not None and self._failure is None:
            log.warning("the backlog is not counted, the last count stands: %s", failure, action="backlog_not_counted")
        if failure is None and self._failure is not None:
            log.info("the backlog is counted again", action="backlog_counted_again")
        self._failure = failure


def _counted(url: str) -> Backlog:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise DatabaseUnavailableError(f"{parsed.database} does not exist")  # connecting would make an empty one
    engine = create_outbox_engine(url)
    try:
        return count_backlog(engine)
    finally:
        engine.dispose()


def _families(backlog: Backlog, counted_at: float) -> list[Metric]:
    return [
        _by_state("outbox_backlog_rows", "Rows not sent, by state; a million at most is counted.", {
            "pending": backlog.pending, "parked": backlog.parked,
        }),
        GaugeMetricFamily(
            "outbox_backlog_oldest_age_seconds",
            "Age of the oldest pending row when the backlog was counted.",
            value=backlog.oldest_age_ms / 1000,
        ),
        _by_state("outbox_shards", "Shards by state.", {
            "owned": backlog.owned, "unowned": backlog.unowned, "paused": backlog.paused,
        }),
        _by_state("outbox_calls", "Inference calls not done, by state; a million at most is counted.", {
            "due": backlog.calls_due, "parked": backlog.calls_parked,
        }),
        GaugeMetricFamily(
            "outbox_backlog_counted_timestamp_seconds", "When the backlog was counted.", value=counted_at
        ),
    ]  # fmt: skip


def _by_state(name: str, text: str, counts: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state, count in counts.items():
        family.add_metric([state], count)
    return family
