"""Progress records: what is encoded is decoded."""

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
