"""Progress records: what is encoded is decoded."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.models import RowRef
from relay.kafka.progress import Progress, decode, encode

_long = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.builds(RowRef, _long, _long), max_size=20))
def test_refs_are_decoded_as_they_were_encoded(refs: list[RowRef]) -> None:
    """Every 64-bit number, in order, in 16 bytes a row."""
    progress = Progress("outbox", 3, 7, 2**40, refs)
    assert decode(encode(progress)) == progress
    assert len(encode(progress)) < 16 * len(refs) + 32


@pytest.mark.parametrize("version", [b"\1", b"\3"])
def test_a_record_of_another_version_is_refused(version: bytes) -> None:
    """Its contents are not guessed."""
    with pytest.raises(ValueError, match="this relay reads version"):
        decode(version + encode(Progress("outbox", 0, 1, 1, []))[1:])


@given(st.data())
def test_a_damaged_record_is_malformed(data: st.DataObject) -> None:
    """Whatever was changed in it or cut off, unless it is read as another one: no other error is raised."""
    value = bytearray(encode(Progress("outbox", 0, 1, 1, [RowRef(1, 2)])))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(1, len(value) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(1, len(value)))
    with suppress(ValueError):
        decode(bytes(value[:length]))
