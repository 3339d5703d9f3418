"""Metrics of several processes are added up."""

import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from app.shared_metrics import SNAPSHOT_BYTES, SharedMetrics, SharedSlots


@pytest.fixture
def slots() -> SharedSlots:
    """Slots for three processes."""
    return SharedSlots(3)


class Process:
    """Metrics of one process, which claims a slot."""

    def __init__(self, slots: SharedSlots) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "A metric.", ["outcome"], registry=self.registry)
        self.seconds = Histogram("seconds", "A metric.", buckets=(1, 2), registry=self.registry)
        self.rows = Gauge("rows", "A metric.", registry=self.registry)
        self.slot = slots.claim()
        self.metrics = SharedMetrics(self.registry, slots, self.slot)

    def scrape(self) -> dict[str, float]:
        """The samples that a scrape of this process returns."""
        lines = generate_latest(self.metrics).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs if "_created" not in name}


def test_counters_and_histograms_are_added_up_and_gauges_are_not(slots: SharedSlots) -> None:
    """Labels that the scraped process has never used are included; a gauge is that of the scraped process."""
    one, other = Process(slots), Process(slots)
    one.requests.labels("accepted").inc(2)
    other.requests.labels("accepted").inc(3)
    other.requests.labels('with "quotes", commas\n').inc()
    one.seconds.observe(0.5)
    other.seconds.observe(1.5)
    one.rows.set(7)
    other.rows.set(8)
    other.metrics.publish()
    assert one.scrape() == {
        'requests_total{outcome="accepted"}': 5,
        'requests_total{outcome="with \\"quotes\\", commas\\n"}': 1,
        'seconds_bucket{le="1.0"}': 1,
        'seconds_bucket{le="2.0"}': 2,
        'seconds_bucket{le="+Inf"}': 2,
        "seconds_count": 2,
        "seconds_sum": 2,
        "rows": 7,
    }


def test_a_process_adds_to_the_values_of_its_predecessor(slots: SharedSlots) -> None:
    """Ten processes one after the other use one slot, and their counts add up."""
    for number in range(1, 11):
        process = Process(slots)
        process.requests.labels("accepted").inc()
        assert process.scrape()['requests_total{outcome="accepted"}'] == number
        slots.release(process.slot)


class PausingCollector(Collector):
    """Pauses its first reader after the metrics were read."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry
        self.has_read, self.may_return = threading.Event(), threading.Event()

    def collect(self) -> Iterator[Metric]:
        """The registry's metrics; the first call returns after ``may_return`` is set."""
        families = list(self._registry.collect())
        if not self.has_read.is_set():
            self.has_read.set()
            assert self.may_return.wait(30)
        yield from families


def test_an_older_snapshot_never_replaces_a_newer_one(slots: SharedSlots) -> None:
    """Even if a thread pauses between reading the counters and publishing them."""
    process = Process(slots)
    collector = PausingCollector(process.registry)
    metrics = SharedMetrics(collector, slots, process.slot)
    process.requests.labels("accepted").inc()
    slow = threading.Thread(target=metrics.publish)
    slow.start()
    assert collector.has_read.wait(30)
    process.requests.labels("accepted").inc()
    scrape = threading.Thread(target=lambda: list(metrics.collect()))
    scrape.start()
    scrape.join(1)
    collector.may_return.set()
    slow.join(30)
    scrape.join(30)
    assert process.slot is not None
    assert [value for name, value in slots.read(process.slot).items() if "requests_total" in name] == [2]


def test_an_incomplete_or_oversized_snapshot_leaves_the_last_one(slots: SharedSlots) -> None:
    """A snapshot with a wrong checksum is ignored, and one that does not fit is not written."""
    slot = slots.claim()
    assert slot is not None
    for number in (1.0, 2.0):
        slots.write(slot, {"a": number}, number)
    assert slots.read(slot) == {"a": 2.0}
    offset = slots.memory.find(b'{"a": 2.0}')
    slots.memory[offset] ^= 1
    assert slots.read(slot) == {"a": 1.0}
    slots.write(slot, {"b" * SNAPSHOT_BYTES: 1.0}, 3.0)
    assert slots.read(slot) == {"a": 1.0}
    slots.write(slot, {"a": 3.0}, 3.0)
    assert slots.read(slot) == {"a": 3.0}
    assert slots.memory.find(b'{"a": 1.0}') >= 0


def test_a_process_without_a_slot_exports_only_what_the_others_count(slots: SharedSlots) -> None:
    """Its own counts would make counters go back at the next scrape of another process."""
    processes = [Process(slots) for _ in range(4)]
    for process in processes:
        process.requests.labels("accepted").inc()
        process.metrics.publish()
    assert processes[3].slot is None
    assert {process.scrape()['requests_total{outcome="accepted"}'] for process in processes} == {3}


def test_a_slot_is_claimed_once_until_it_is_released(slots: SharedSlots) -> None:
    """With all slots taken, ``claim`` returns None."""
    assert [slots.claim() for _ in range(4)] == [0, 1, 2, None]
    slots.release(None)
    slots.release(1)
    assert slots.claim() == 1
