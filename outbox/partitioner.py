"""The hash that determines an interaction's shard. It is the hash that determines its Kafka partition.

So with as many shards as partitions, or a multiple, each shard writes to its own partitions.
"""

from functools import lru_cache

_SEED, _M, _MASK = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


@lru_cache(4_096)  # the insert and the notification both need it, for each row of an interaction
def interaction_hash(interaction_id: str) -> int:
    """Return the Murmur2 hash of the id in UTF-8, 0 to 2**31 - 1, as Kafka's producers compute it for keys.

    Source: ``Utils.murmur2`` and ``Utils.toPositive`` of Apache Kafka's clients.
    """
    data = interaction_id.encode()
    whole = len(data) & ~3
    h = _SEED ^ len(data)
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return (h ^ h >> 15) & 0x7FFFFFFF
