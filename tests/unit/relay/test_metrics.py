"""What the relay exports: whole counts, every row, and no more series than are of use."""

import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from relay.health import Health
from relay.metrics import SECONDS, DegradedGauge, DeliveryHistogram, Snapshot

NOW_MS = 1_764_187_200_000


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Labels to value, of one metric in a scrape."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {tuple(sorted(s.labels.items())): s.value for family in families for s in family.samples if s.name == name}


@given(st.lists(st.lists(st.integers(-1000, 4_000_000), max_size=50), max_size=4))
def test_each_row_is_counted_in_its_bucket(transactions: list[list[int]]) -> None:
    """As if each were observed by itself; a row from the future counts as 0 seconds."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    delivery = DeliveryHistogram(ours)
    reference = Histogram("outbox_delivery_seconds", "x", buckets=SECONDS, registry=theirs)
    for ages_ms in transactions:
        delivery.observe([NOW_MS - age_ms for age_ms in ages_ms], NOW_MS)
        for age_ms in ages_ms:
            reference.observe(max(0, age_ms) / 1000)
    for suffix in ("bucket", "count"):
        name = f"outbox_delivery_seconds_{suffix}"
        assert samples(ours, name) == samples(theirs, name)
    (total,) = samples(ours, "outbox_delivery_seconds_sum").values()
    (wanted,) = samples(theirs, "outbox_delivery_seconds_sum").values()
    assert abs(total - wanted) < 0.01


def test_a_scrape_never_sees_parts_of_two_counts() -> None:
    """However often the gauges change."""
    registry = CollectorRegistry()
    snapshot, stop = Snapshot(registry), threading.Event()

    def families(value: int) -> list[Any]:
        made = [GaugeMetricFamily(name, "x", labels=["shard"]) for name in ("a", "b")]
        for family in made:
            for shard in range(50):
                family.add_metric([str(shard)], value)
        return made

    def replace() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            snapshot.replace(families(value))

    snapshot.replace(families(0))
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(200):
            scrape = text_string_to_metric_families(generate_latest(registry).decode())
            seen = [sample.value for family in scrape for sample in family.samples]
            assert len(seen) == 100
            assert len(set(seen)) == 1
    finally:
        stop.set()
        thread.join()


def test_degraded_subjects_are_exported() -> None:
    """One series per subject that was ever reported, without the reason, which may name a person."""
    registry, health = CollectorRegistry(), Health()
    DegradedGauge(registry, health.subjects)
    assert samples(registry, "outbox_degraded") == {}
    health.degraded("shard 1", "paused by ann: drill")
    assert samples(registry, "outbox_degraded") == {(("subject", "shard 1"),): 1.0}
    assert "ann" not in generate_latest(registry).decode()
    health.recovered("shard 1")
    health.recovered("kafka")
    assert samples(registry, "outbox_degraded") == {(("subject", "kafka"),): 0.0, (("subject", "shard 1"),): 0.0}
