"""Export metrics of the backlog from the web process, so that they exist while no relay runs.

A thread counts. It opens a new connection for each count, so it takes none from the webhook, and finds a database that
has moved. If counting fails, the last count stands, with its time.
"""

import shutil
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
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

MIN_PAUSE_SECONDS = 10.0
"""Between two counts."""
FIRST_COUNT_SECONDS = 1.0
"""How long the first scrape of a process waits for its first count, so that a new process leaves no gap."""
PAUSE_FACTOR = 20
"""The pause is at least this many times as long as the count: counting uses at most 5 % of a database's time."""


class BacklogMetrics(Collector):
    """Counts the backlog in the background, and exports the last count.

    Each web process counts, so that any of them can answer a scrape.

    Args:
        url: URL of the outbox's database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        parsed = make_url(url)
        self._folder = Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else None
        self._families: Sequence[Metric] = [_counted_at(0)]
        self._has_tried = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_failing = False

    def start(self) -> None:
        """Start the thread, unless it is running. Threads do not survive a fork."""
        with self._start:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="backlog-metrics", daemon=True)
                self._thread.start()

    def collect(self) -> Iterable[Metric]:
        """The last count, the time of it (0: none yet), the free disk on SQLite, and the version."""
        self.start()
        self._has_tried.wait(FIRST_COUNT_SECONDS)
        yield from self._families
        if self._folder:
            yield from _disk(self._folder)
        build = GaugeMetricFamily(
            "outbox_build_info", "Always 1; the label is the running version.", labels=["version"]
        )
        build.add_metric([VERSION], 1)
        yield build

    def _run(self) -> None:
        pause = threading.Event()
        seconds = 0.0
        while not pause.wait(seconds):
            began = monotonic()
            self._count()
            self._has_tried.set()
            seconds = max(MIN_PAUSE_SECONDS, (monotonic() - began) * PAUSE_FACTOR)

    def _count(self) -> None:
        try:
            self._families = _families(_count_backlog(self._url), time())
        except OutboxError as error:
            self._log_failure(str(error))
        except Exception as error:  # noqa: BLE001 - its message is not logged: it may quote the URL
            self._log_failure(f"unexpected {type(error).__name__}")
        else:
            if self._is_failing:
                log.info("backlog count recovered", action="backlog_count_recovered")
            self._is_failing = False

    def _log_failure(self, reason: str) -> None:
        """Log the first failure of several in a row."""
        if not self._is_failing:
            log.warning("backlog count failed, the last count stands: %s", reason, action="backlog_count_failed")
        self._is_failing = True


def _count_backlog(url: str) -> Backlog:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise DatabaseUnavailableError(f"{parsed.database} does not exist")  # connecting would create an empty one
    engine = create_outbox_engine(url)
    try:
        return count_backlog(engine)
    finally:
        engine.dispose()


def _families(backlog: Backlog, counted_at: float) -> list[Metric]:
    return [
        _by_state("outbox_backlog_rows", "Rows not yet published, by state; counted up to one million.", {
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
        _by_state("outbox_calls", "Inference calls not yet done, by state; counted up to one million.", {
            "due": backlog.calls_due, "parked": backlog.calls_parked,
        }),
        GaugeMetricFamily(
            "outbox_clock_offset_seconds",
            "How far this process's clock is ahead of the database's; negative: behind.",
            value=backlog.clock_offset_seconds,
        ),
        _counted_at(counted_at),
    ]  # fmt: skip


def _counted_at(seconds: float) -> Metric:
    return GaugeMetricFamily(
        "outbox_backlog_counted_timestamp_seconds", "When the backlog was counted; 0: not yet.", value=seconds
    )


def _disk(folder: Path) -> Iterable[Metric]:
    """The file system of the SQLite file; nothing while it cannot be read."""
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        yield GaugeMetricFamily("outbox_disk_free_bytes", "Free space for the SQLite file.", value=free)


def _by_state(name: str, documentation: str, counts: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["state"])
    for state, count in counts.items():
        family.add_metric([state], count)
    return family
