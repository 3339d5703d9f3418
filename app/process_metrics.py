"""Metrics of the web service as the operating system sees it: gunicorn's master and the processes below it."""

import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ProcessMetrics(Collector):
    """Exports the usual ``process_*`` metrics of all processes together, whichever of them answers.

    Args:
        master: Process id of gunicorn's master.
    """

    def __init__(self, master: int) -> None:
        self._master = psutil.Process(master)

    def collect(self) -> Iterable[Metric]:
        """What the processes use now; nothing while the master is ending."""
        with suppress(psutil.Error):
            yield from self._families()

    def _families(self) -> Iterator[Metric]:
        times = self._master.cpu_times()
        # A process that has ended counts as its parent's child, so the sum never goes back.
        seconds = times.user + times.system + times.children_user + times.children_system
        memory, descriptors = self._master.memory_info().rss, self._master.num_fds()
        for process in self._master.children():
            with suppress(psutil.Error):  # it has just ended
                its = process.cpu_times()
                seconds += its.user + its.system
                memory += process.memory_info().rss
                descriptors = max(descriptors, process.num_fds())
        yield CounterMetricFamily("process_cpu_seconds", "CPU time of all web processes.", value=seconds)
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory of all web processes; what they share counts in each.",
            value=memory,
        )
        yield GaugeMetricFamily(
            "process_open_fds", "Open file descriptors of the web process that has most.", value=descriptors
        )
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield GaugeMetricFamily("process_max_fds", "Limit of open file descriptors of each process.", value=limit)
        yield GaugeMetricFamily("process_start_time_seconds", "When web was started.", value=self._master.create_time())
