"""The hash that determines an interaction's shard."""

import pytest

from outbox.partitioner import interaction_hash


@pytest.mark.parametrize(
    ("text", "murmur2"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_the_hash_equals_that_of_kafka_clients(text: str, murmur2: int) -> None:
    """The values are those of Kafka's own test of ``Utils.murmur2``, without the sign."""
    assert interaction_hash(text) == murmur2 & 0x7FFFFFFF
