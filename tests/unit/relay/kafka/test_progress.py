"""Progress records: what is written is read, and what an earlier version wrote, too."""

import json
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

import relay.kafka.progress
from outbox.models import RowRef
from relay.errors import UnavailableError
from relay.kafka.errors import LastError
from relay.kafka.progress import Progress, _last_in_window, decode, encode
from testkit import ROOT

_long = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.builds(RowRef, _long, _long), max_size=20))
def test_ids_and_tags_come_back(refs: list[RowRef]) -> None:
    """For every 64-bit number, in order, in 16 bytes a row."""
    progress = Progress("outbox", 3, 7, 2**40, refs)
    assert decode(encode(progress)) == progress
    assert len(encode(progress)) < 16 * len(refs) + 32


def test_a_record_of_the_first_version_is_read() -> None:
    """After an update the shard goes on from what the release before it wrote."""
    schema = parse_schema(json.loads((ROOT / "relay/kafka/schemas/progress-1.avsc").read_text()))
    old = BytesIO(b"\1")
    old.seek(0, 2)
    fields = {"outboxId": "o", "shard": 0, "epoch": 1, "sequence": 9, "ids": [4, 5], "tags": [-1, 2**62]}
    schemaless_writer(old, schema, fields)
    assert decode(old.getvalue()) == Progress("o", 0, 1, 9, [RowRef(4, -1), RowRef(5, 2**62)])


def test_a_record_of_a_later_version_is_refused() -> None:
    """Nothing is guessed about it."""
    with pytest.raises(ValueError, match="update it"):
        decode(b"\3")


def test_a_long_partition_is_read_for_as_long_as_there_is_something_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is for a reader that gets no further, not for one that has much to read."""
    clock, offsets = iter(range(0, 10_000, 10)), iter(range(4))
    monkeypatch.setattr(relay.kafka.progress, "monotonic", lambda: next(clock))
    consumer: Any = SimpleNamespace(assign=lambda _: None, poll=lambda _: message_at(next(offsets, None)))
    window = (("progress", 0), 0, 4)
    assert _last_in_window(consumer, window, (b"key", None), lambda: False, LastError()) == (3, b"3")
    offsets = iter(range(4))
    with pytest.raises(UnavailableError, match="beyond offset 4 of 5"):
        _last_in_window(consumer, (("progress", 0), 0, 5), (b"key", None), lambda: False, LastError())


def message_at(offset: int | None) -> Any:
    """A record under the key; None: nothing comes."""
    if offset is None:
        return None
    return SimpleNamespace(
        error=lambda: None, offset=lambda: offset, key=lambda: b"key", value=lambda: str(offset).encode()
    )
