"""Write a record whose headers no client would write, by Kafka's own protocol.

Sources: https://kafka.apache.org/protocol (Produce, version 3), https://kafka.apache.org/documentation/#recordbatch
"""

import struct
from collections.abc import Sequence

from relay.kafka.avro import encode_bytes, encode_long
from testkit.proxy import ask_kafka

PRODUCE, VERSION = 0, 3
ACKS_ALL, TIMEOUT_MS = -1, 10_000
CASTAGNOLI = 0x82F6_3B78


def write_record(
    address: str, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]], at_ms: int
) -> None:
    """Write a record to partition 0.

    Args:
        address: host and port of the partition's broker.
        topic: the topic.
        key: of the record.
        value: of the record.
        headers: names, which need not be UTF-8, and values.
        at_ms: its time, in milliseconds since the epoch.
    """
    batch = _batch(_record(key, value, headers), at_ms)
    request = b"".join(
        (
            struct.pack(">hhih", PRODUCE, VERSION, 1, -1),
            struct.pack(">hhi", -1, ACKS_ALL, TIMEOUT_MS),  # in no transaction
            struct.pack(">ih", 1, len(topic)),
            topic.encode(),
            struct.pack(">iii", 1, 0, len(batch)),
            batch,
        )
    )
    answer = ask_kafka(address, request)
    (error,) = struct.unpack_from(">h", answer, 4 + 4 + 4 + 2 + len(topic) + 4 + 4)
    assert error == 0, f"the broker refuses the record with error {error}"


def _record(key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    named = b"".join(encode_bytes(name) + encode_bytes(content) for name, content in headers)
    first = encode_long(0)  # attributes, and the differences of its time and its offset from those of the batch
    return encode_bytes(first * 3 + encode_bytes(key) + encode_bytes(value) + encode_long(len(headers)) + named)


def _batch(record: bytes, at_ms: int) -> bytes:
    checked = struct.pack(">hiqqqhii", 0, 0, at_ms, at_ms, -1, -1, -1, 1) + record
    content = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(content)) + content


def _crc32c(content: bytes) -> int:
    checksum = 0xFFFF_FFFF
    for byte in content:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (CASTAGNOLI if checksum & 1 else 0)
    return checksum ^ 0xFFFF_FFFF
