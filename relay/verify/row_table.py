"""The rows of a verification, 6 bytes each (10 with values), so that millions of them fit into memory.

For each id: the state of its row, 32 bits of a hash of what identifies its record, so that a record of another row with
the same id is not taken for it, and 8 bits of its record's partition. With values, 32 bits of a hash of the record's
content.
"""

from array import array
from collections.abc import Iterator
from itertools import chain

HASH_BITS = 0xFFFF_FFFF
"""A wrong record is taken for the right one once in four billion."""
PARTITION_BITS = 0xFF
"""Tell apart the partitions of an interaction before and after their number was changed, unless it was by 256."""
NO_ROW = 0
"""No row with this id was received in the range."""
SENT = 1
"""Marked sent when the end of the topic was determined."""
UNSENT = 2
"""Not yet marked sent then."""
REPORTED = 3
"""Not in the topic, and counted."""
SEEN = 0x80
"""Added to a state once the row's record was read."""


class RowTable:
    """States and hashes of the rows above an id.

    Args:
        first: lowest id.
        values: whether the content of records is compared.
    """

    def __init__(self, first: int, *, values: bool) -> None:
        self.first = first
        self.states = bytearray()
        self.identities = array("I")
        self.partitions = bytearray()
        self.contents = array("I") if values else None

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.states)

    def extend(self, last: int) -> None:
        """Make room for ids up to this one."""
        more = last + 1 - self.first - len(self)
        if more > 0:
            self.states.extend(bytes(more))
            self.partitions.extend(bytes(more))
            self.identities.frombytes(bytes(more * self.identities.itemsize))
            if self.contents is not None:
                self.contents.frombytes(bytes(more * self.contents.itemsize))

    def drop_before(self, first: int) -> None:
        """Forget the ids below this one."""
        if (count := first - self.first) > 0:
            del self.states[:count], self.identities[:count], self.partitions[:count]
            if self.contents is not None:
                del self.contents[:count]
            self.first = first

    def set_state(self, row_id: int, state: int) -> None:
        """Change the state of a row; that its record was seen stays."""
        index = row_id - self.first
        self.states[index] = state | self.states[index] & SEEN

    def is_seen(self, row_id: int) -> bool:
        """Return whether the row's record was read."""
        index = row_id - self.first
        return 0 <= index < len(self) and bool(self.states[index] & SEEN)

    def partition_of(self, row_id: int) -> int:
        """Return the ``PARTITION_BITS`` of the partition of a row whose record was read."""
        return self.partitions[row_id - self.first]

    def sent_not_seen(self) -> Iterator[int]:
        """Yield the ids of rows that are marked sent and whose record was not read."""
        return self._ids_in(SENT)

    def unsent(self) -> Iterator[int]:
        """Yield the ids of rows that were not marked sent, whether or not their record was read."""
        return chain(self._ids_in(UNSENT), self._ids_in(UNSENT | SEEN))

    def _ids_in(self, state: int) -> Iterator[int]:
        index = self.states.find(state)
        while index >= 0:
            yield self.first + index
            index = self.states.find(state, index + 1)
