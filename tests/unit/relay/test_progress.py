"""Progress records: what is written is read, and what an earlier version wrote, too."""

import json
from io import BytesIO

import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from outbox.rows import Ref
from relay.progress import Progress, decode, encode
from tests.conftest import ROOT

_long = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.builds(Ref, _long, _long), max_size=20))
def test_ids_and_tags_come_back(refs: list[Ref]) -> None:
    """For every 64-bit number, in order, in 16 bytes a row."""
    progress = Progress("outbox", 3, 7, 2**40, refs)
    assert decode(encode(progress)) == progress
    assert len(encode(progress)) < 16 * len(refs) + 32


def test_a_record_of_the_first_version_is_read() -> None:
    """After an update the shard goes on from what the release before it wrote."""
    schema = parse_schema(json.loads((ROOT / "relay/schemas/progress-1.avsc").read_text()))
    old = BytesIO(b"\1")
    old.seek(0, 2)
    fields = {"outboxId": "o", "shard": 0, "epoch": 1, "sequence": 9, "ids": [4, 5], "tags": [-1, 2**62]}
    schemaless_writer(old, schema, fields)
    assert decode(old.getvalue()) == Progress("o", 0, 1, 9, [Ref(4, -1), Ref(5, 2**62)])


def test_a_record_of_a_later_version_is_refused() -> None:
    """Nothing is guessed about it."""
    with pytest.raises(ValueError, match="update it"):
        decode(b"\3")
