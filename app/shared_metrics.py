"""Metrics of several processes as one: each keeps its own, and leaves a copy where the others can read it.

The copies are in memory that the processes share, in no file: no disk, folder or right can be missing for them. A
process takes the place of one that has ended, and adds to what that one left, so counters never go back.
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

COPY_SECONDS = 1.0
"""A process leaves a copy so often, and when it is asked to."""
ANSWER_SECONDS = 0.2
"""How long to wait for the copies that were asked for."""
COPY_BYTES = 128 * 1024
"""Most bytes of a copy; a slot holds two, so that one is whole while the other is written."""
_HEADER = struct.Struct("<dII")  # when by time.monotonic, which the processes share; length; checksum of both
_ADDED_UP = ("counter", "histogram", "summary")

Values = dict[str, float]
"""Value of each sample, by name and labels as JSON."""


class SharedSlots:
    """Memory that is shared with the processes to come: made before they are forked.

    Args:
        count: most processes at a time.
    """

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, 2 * count * COPY_BYTES)
        self._bells = [os.pipe() for _ in range(count)]
        for end in itertools.chain(*self._bells):
            os.set_blocking(end, False)
        self._free = set(range(count))
        self.count = count

    def claim(self) -> int | None:
        """A slot for a process that is about to be forked; None if there is none."""
        if not self._free:
            return None
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def release(self, slot: int | None) -> None:
        """Its process has ended: the next one takes it over, with what it holds."""
        if slot is not None:
            self._free.add(slot)

    def write(self, slot: int, values: Values, taken_at: float) -> None:
        """Leave a copy beside the last one; what does not fit is left out whole.

        Args:
            slot: of this process.
            values: its counters.
            taken_at: by ``time.monotonic``, when they were read at the latest.
        """
        data = json.dumps(values).encode()
        if len(data) <= COPY_BYTES - _HEADER.size:
            last = max(self._copies(slot), default=None)
            start = next(start for start in _places(slot) if last is None or start != last[1])
            written = _HEADER.pack(taken_at, len(data), _checksum(taken_at, data)) + data
            self._memory[start : start + len(written)] = written

    def read(self, slot: int) -> Values:
        """The last copy in a slot that is whole, whether its process writes, has ended, or was killed while writing."""
        last = max(self._copies(slot), default=None)
        found: Values = {} if last is None else json.loads(last[2])
        return found

    def wait_asked(self, slot: int, seconds: float) -> None:
        """Wait until somebody asks for a copy in this slot, at most so long."""
        listener = self._bells[slot][0]
        if select.select([listener], [], [], seconds)[0]:
            os.read(listener, 4096)

    def ask_all(self) -> None:
        """Have every process that is alive leave a copy; returns when they have, or have not in time."""
        asked_at = monotonic()
        alive = [slot for slot in range(self.count) if self._taken_at(slot) > asked_at - 3 * COPY_SECONDS]
        for slot in alive:
            with suppress(BlockingIOError):  # it is asked already
                os.write(self._bells[slot][1], b".")
        pause = threading.Event()
        while monotonic() < asked_at + ANSWER_SECONDS and any(self._taken_at(slot) < asked_at for slot in alive):
            pause.wait(0.001)

    def _taken_at(self, slot: int) -> float:
        return max(self._header(start)[0] for start in _places(slot))

    def _copies(self, slot: int) -> Iterator[tuple[float, int, bytes]]:
        """Those that are whole: when they were taken, where they are, what they hold."""
        for start in _places(slot):
            taken_at, length, checksum = self._header(start)
            data = self._memory[start + _HEADER.size : start + min(_HEADER.size + length, COPY_BYTES)]
            if data and _checksum(taken_at, data) == checksum:
                yield taken_at, start, data

    def _header(self, start: int) -> tuple[float, int, int]:
        found: tuple[float, int, int] = _HEADER.unpack_from(self._memory, start)
        return found


def _places(slot: int) -> tuple[int, int]:
    """Where the two copies of a slot begin."""
    return 2 * slot * COPY_BYTES, (2 * slot + 1) * COPY_BYTES


def _checksum(taken_at: float, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<d", taken_at)))


class SharedMetrics(Collector):
    """A registry's metrics, added up over all processes; gauges are of the process that is asked.

    Args:
        registry: of this process.
        slots: shared with the others.
        slot: of this process; None: it shows what the others count, so that no scrape sees a counter go back.
    """

    def __init__(self, registry: Collector, slots: SharedSlots, slot: int | None) -> None:
        self._registry, self._slots, self._slot = registry, slots, slot
        self._before = {} if slot is None else slots.read(slot)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Leave a copy about once a second, and when it is asked for, in a thread."""
        if self._slot is not None:
            threading.Thread(target=self._run, args=(self._slot,), name="metrics", daemon=True).start()

    def collect(self) -> Iterable[Metric]:
        """What the processes have counted together. What is shown is in the copy, so it can never be less later."""
        self._slots.ask_all()
        families = self.copy()
        totals: Values = {}
        for slot in range(self._slots.count):
            _add(totals, self._slots.read(slot))
        return [_summed(family, totals) if family.type in _ADDED_UP else family for family in families]

    def copy(self) -> list[Metric]:
        """Leave a copy for the others, and return what is in it."""
        with self._lock:  # also while reading: an older copy must not replace a newer one
            taken_at = monotonic()
            families = list(self._registry.collect())
            values = dict(self._before)
            _add(values, dict(_values(families)))
            if self._slot is not None:
                self._slots.write(self._slot, values, taken_at)
        return families

    def _run(self, slot: int) -> None:
        while True:
            self.copy()
            self._slots.wait_asked(slot, COPY_SECONDS)


def _add(totals: Values, values: Values) -> None:
    for key, value in values.items():
        totals[key] = totals.get(key, 0.0) + value


def _values(families: Iterable[Metric]) -> Iterator[tuple[str, float]]:
    for family in families:
        if family.type in _ADDED_UP:
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    yield json.dumps([family.name, sample.name, sample.labels]), sample.value


def _summed(family: Metric, totals: Values) -> Metric:
    summed = Metric(family.name, family.documentation, family.type, family.unit)
    for key, value in totals.items():
        name, sample_name, labels = _decoded(key)
        if name == family.name:
            summed.samples.append(Sample(sample_name, labels, value))
    return summed


def _decoded(key: str) -> tuple[str, str, dict[str, Any]]:
    name, sample, labels = json.loads(key)
    return name, sample, labels
