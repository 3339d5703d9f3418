"""Metrics of several processes as one."""

import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from app.shared_metrics import COPY_BYTES, SharedMetrics, SharedSlots


@pytest.fixture
def slots() -> SharedSlots:
    """Room for three processes."""
    return SharedSlots(3)


class Process:
    """What one process counts.

    Args:
        slots: shared with the others.
    """

    def __init__(self, slots: SharedSlots) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Of tests.", ["outcome"], registry=self.registry)
        self.seconds = Histogram("seconds", "Of tests.", buckets=(1, 2), registry=self.registry)
        self.rows = Gauge("rows", "Of tests.", registry=self.registry)
        self.slot = slots.claim()
        self.metrics = SharedMetrics(self.registry, slots, self.slot)

    def shown(self) -> dict[str, float]:
        """What it answers to a scrape."""
        lines = generate_latest(self.metrics).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs if "_created" not in name}


def test_counters_and_histograms_are_added_up_and_gauges_are_not(slots: SharedSlots) -> None:
    """Also labels that the process that is asked has never used; a gauge is its own."""
    one, other = Process(slots), Process(slots)
    one.requests.labels("accepted").inc(2)
    other.requests.labels("accepted").inc(3)
    other.requests.labels('with "quotes", commas\n').inc()
    one.seconds.observe(0.5)
    other.seconds.observe(1.5)
    one.rows.set(7)
    other.rows.set(8)
    other.metrics.copy()
    assert one.shown() == {
        'requests_total{outcome="accepted"}': 5,
        'requests_total{outcome="with \\"quotes\\", commas\\n"}': 1,
        'seconds_bucket{le="1.0"}': 1,
        'seconds_bucket{le="2.0"}': 2,
        'seconds_bucket{le="+Inf"}': 2,
        "seconds_count": 2,
        "seconds_sum": 2,
        "rows": 7,
    }


def test_a_process_adds_to_what_the_one_before_left(slots: SharedSlots) -> None:
    """Counters never go back, and slots do not run out."""
    for number in range(1, 11):
        process = Process(slots)
        process.requests.labels("accepted").inc()
        assert process.shown()['requests_total{outcome="accepted"}'] == number
        slots.release(process.slot)


class Halting(Collector):
    """Metrics whose first reader is held up after it has read them.

    Args:
        registry: what is read.
    """

    def __init__(self, registry: Collector) -> None:
        self._registry = registry
        self.has_read, self.may_return = threading.Event(), threading.Event()

    def collect(self) -> Iterator[Metric]:
        """What the registry has, for the first reader once it may return."""
        families = list(self._registry.collect())
        if not self.has_read.is_set():
            self.has_read.set()
            assert self.may_return.wait(30)
        yield from families


def test_what_was_shown_is_never_less_later(slots: SharedSlots) -> None:
    """Also where a thread is held up between reading the counters and leaving its copy."""
    process = Process(slots)
    halting = Halting(process.registry)
    metrics = SharedMetrics(halting, slots, process.slot)
    process.requests.labels("accepted").inc()
    slow = threading.Thread(target=metrics.copy)
    slow.start()
    assert halting.has_read.wait(30)
    process.requests.labels("accepted").inc()
    scrape = threading.Thread(target=lambda: list(metrics.collect()))
    scrape.start()
    scrape.join(1)
    halting.may_return.set()
    slow.join(30)
    scrape.join(30)
    assert process.slot is not None
    assert [value for name, value in slots.read(process.slot).items() if "requests_total" in name] == [2]


def test_a_copy_that_is_just_being_written_or_does_not_fit_takes_nothing_away(slots: SharedSlots) -> None:
    """The one before counts meanwhile, also for a process that has never read it, and after a kill in the middle."""
    slot = slots.claim()
    assert slot is not None
    for number in (1.0, 2.0):
        slots.write(slot, {"a": number}, number)
    assert slots.read(slot) == {"a": 2.0}
    place = slots._memory.find(b'{"a": 2.0}')
    slots._memory[place] ^= 1
    assert slots.read(slot) == {"a": 1.0}
    slots.write(slot, {"b" * COPY_BYTES: 1.0}, 3.0)
    assert slots.read(slot) == {"a": 1.0}
    slots.write(slot, {"a": 3.0}, 3.0)
    assert slots.read(slot) == {"a": 3.0}
    assert slots._memory.find(b'{"a": 1.0}') >= 0


def test_where_there_is_no_slot_no_counter_goes_back(slots: SharedSlots) -> None:
    """A process without one shows what the others count, whatever it counts itself."""
    processes = [Process(slots) for _ in range(4)]
    for process in processes:
        process.requests.labels("accepted").inc()
        process.metrics.copy()
    assert processes[3].slot is None
    assert {process.shown()['requests_total{outcome="accepted"}'] for process in processes} == {3}


def test_a_process_has_no_slot_where_there_is_none(slots: SharedSlots) -> None:
    """``claim`` says so, and no slot is given twice."""
    assert [slots.claim() for _ in range(4)] == [0, 1, 2, None]
    slots.release(None)
    slots.release(1)
    assert slots.claim() == 1
