"""Add up the metrics of several processes: each publishes snapshots of its own in shared memory.

The memory is not a file, so no disk, folder or permission can be missing. A new process takes over the slot of one
that has ended, and adds to the values in it, so counters never go back.
"""

import itertools
import json
import mmap
import os
import select
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

PUBLISH_SECONDS = 1.0
"""A process publishes a snapshot this often, and when it is requested."""
REFRESH_TIMEOUT_SECONDS = 0.2
"""How long to wait for requested snapshots."""
SNAPSHOT_BYTES = 512 * 1024
"""Largest snapshot, enough for 300 secrets. A slot has room for two: one is complete while the other is written."""
_HEADER = struct.Struct("<dII")  # time by time.monotonic, which processes share; length; checksum of time and data
_SUMMED_TYPES = ("counter", "histogram", "summary")

Values = dict[str, float]
"""Value of each sample, by name and labels as JSON."""


class SharedSlots:
    """Shared memory with a slot for each process, created before the processes are forked.

    Args:
        count: Number of slots.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.memory = mmap.mmap(-1, 2 * count * SNAPSHOT_BYTES)
        self._pipes = [os.pipe() for _ in range(count)]
        """A byte in the pipe of a slot requests a snapshot from its process."""
        for end in itertools.chain(*self._pipes):
            os.set_blocking(end, False)
        self._free = set(range(count))

    def claim(self) -> int | None:
        """Reserve a slot for a process that is about to be forked; None if all are taken."""
        if not self._free:
            return None
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def release(self, slot: int | None) -> None:
        """Free the slot of a process that has ended; the next one takes it over with its values."""
        if slot is not None:
            self._free.add(slot)

    def write(self, slot: int, values: Values, taken_at: float) -> None:
        """Write a snapshot beside the last one. If it does not fit, the last one stands.

        Args:
            slot: Slot of this process.
            values: The snapshot.
            taken_at: Time by ``time.monotonic`` before the values were read.
        """
        data = json.dumps(values).encode()
        if len(data) <= SNAPSHOT_BYTES - _HEADER.size:
            last = max(self._snapshots(slot), default=None)
            start = next(start for start in _offsets(slot) if last is None or start != last[1])
            snapshot = _HEADER.pack(taken_at, len(data), _checksum(taken_at, data)) + data
            self.memory[start : start + len(snapshot)] = snapshot

    def read(self, slot: int) -> Values:
        """The last complete snapshot in a slot, even if its process was killed while writing."""
        last = max(self._snapshots(slot), default=None)
        values: Values = {} if last is None else json.loads(last[2])
        return values

    def wait_for_request(self, slot: int, seconds: float) -> None:
        """Wait until a snapshot is requested from this slot, at most for the given time."""
        reader = self._pipes[slot][0]
        if select.select([reader], [], [], seconds)[0]:
            os.read(reader, 4096)

    def refresh_all(self) -> None:
        """Request a snapshot from every running process, and wait for them until the timeout."""
        requested_at = monotonic()
        running = [slot for slot in range(self.count) if self._taken_at(slot) > requested_at - 3 * PUBLISH_SECONDS]
        for slot in running:
            with suppress(BlockingIOError):  # the pipe is full of requests
                os.write(self._pipes[slot][1], b".")
        deadline, pause = requested_at + REFRESH_TIMEOUT_SECONDS, threading.Event()
        while monotonic() < deadline and any(self._taken_at(slot) < requested_at for slot in running):
            pause.wait(0.001)

    def _taken_at(self, slot: int) -> float:
        return max(self._header(start)[0] for start in _offsets(slot))

    def _snapshots(self, slot: int) -> Iterator[tuple[float, int, bytes]]:
        """Time, offset and data of the complete snapshots."""
        for start in _offsets(slot):
            taken_at, length, checksum = self._header(start)
            data = self.memory[start + _HEADER.size : start + min(_HEADER.size + length, SNAPSHOT_BYTES)]
            if data and _checksum(taken_at, data) == checksum:
                yield taken_at, start, data

    def _header(self, start: int) -> tuple[float, int, int]:
        header: tuple[float, int, int] = _HEADER.unpack_from(self.memory, start)
        return header


def _offsets(slot: int) -> tuple[int, int]:
    """Where the two snapshots of a slot start."""
    return 2 * slot * SNAPSHOT_BYTES, (2 * slot + 1) * SNAPSHOT_BYTES


def _checksum(taken_at: float, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<d", taken_at)))


class SharedMetrics(Collector):
    """The metrics of a registry, added up over all processes. Gauges are those of this process.

    Args:
        registry: Metrics of this process.
        slots: Shared with the other processes.
        slot: Slot of this process. None: it exports only what the others count, so that no counter goes back.
    """

    def __init__(self, registry: Collector, slots: SharedSlots, slot: int | None) -> None:
        self._registry, self._slots, self._slot = registry, slots, slot
        self._inherited = {} if slot is None else slots.read(slot)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread that publishes snapshots."""
        if self._slot is not None:
            threading.Thread(target=self._run, args=(self._slot,), name="metrics", daemon=True).start()

    def collect(self) -> Iterable[Metric]:
        """The sums over all processes. They are computed from published snapshots, so they never go back."""
        self._slots.refresh_all()
        families = self.publish()
        totals: Values = {}
        for slot in range(self._slots.count):
            _add(totals, self._slots.read(slot))
        return [_sum(family, totals) if family.type in _SUMMED_TYPES else family for family in families]

    def publish(self) -> list[Metric]:
        """Publish a snapshot, and return the metrics that are in it."""
        with self._lock:  # around the reading as well: an older snapshot must not replace a newer one
            taken_at = monotonic()
            families = list(self._registry.collect())
            values = dict(self._inherited)
            _add(values, dict(_values(families)))
            if self._slot is not None:
                self._slots.write(self._slot, values, taken_at)
        return families

    def _run(self, slot: int) -> None:
        while True:
            self.publish()
            self._slots.wait_for_request(slot, PUBLISH_SECONDS)


def _add(totals: Values, values: Values) -> None:
    for key, value in values.items():
        totals[key] = totals.get(key, 0.0) + value


def _values(families: Iterable[Metric]) -> Iterator[tuple[str, float]]:
    for family in families:
        if family.type in _SUMMED_TYPES:
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    yield json.dumps([family.name, sample.name, sample.labels]), sample.value


def _sum(family: Metric, totals: Values) -> Metric:
    summed = Metric(family.name, family.documentation, family.type, family.unit)
    for key, value in totals.items():
        name, sample_name, labels = _parse_key(key)
        if name == family.name:
            summed.samples.append(Sample(sample_name, labels, value))
    return summed


def _parse_key(key: str) -> tuple[str, str, dict[str, Any]]:
    name, sample, labels = json.loads(key)
    return name, sample, labels
