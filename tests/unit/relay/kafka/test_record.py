"""What the headers of a record say."""

import pytest

from relay.kafka.record import number_of


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"0", 0),
        (b"17", 17),
        (b"%d" % (2**63 - 1), 2**63 - 1),
        (b"", None),
        (b"017", None),
        (b"+17", None),
        (b"-17", None),
        (b" 17", None),
        (b"1_7", None),
        (b"\xd9\xa1", None),
        (b"9" * 5_000, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_number_is_one_as_the_encoder_writes_it(content: bytes, number: int | None) -> None:
    """Whatever else ``int`` would take was not written by the encoder."""
    assert number_of(content) == number
