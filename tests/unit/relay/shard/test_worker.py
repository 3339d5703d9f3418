"""The decisions of a shard's cycle."""

import pytest

from relay.shard.worker import Remaining, is_draining, remaining

LIMIT = 10


@pytest.mark.parametrize(
    ("selected", "sendable", "draining"),
    [
        (LIMIT, LIMIT, True),
        (LIMIT - 1, LIMIT - 1, False),
        (LIMIT, LIMIT // 2, True),
        (LIMIT, LIMIT // 2 - 1, False),
        (LIMIT, 0, False),
    ],
)
def test_a_shard_drains_while_batches_are_full(selected: int, sendable: int, *, draining: bool) -> None:
    """Unless CXone holds back more than half of the batch."""
    assert is_draining(selected, sendable, LIMIT) is draining


def test_no_rows_remain_if_all_were_sent_and_new_ones_are_announced() -> None:
    """The batch was not full, so there were no others."""
    assert remaining(LIMIT - 1, LIMIT - 1, LIMIT, notified=True) is Remaining.NONE


@pytest.mark.parametrize(
    ("selected", "sent", "notified"),
    [(LIMIT, LIMIT, True), (LIMIT - 1, LIMIT - 2, True), (LIMIT - 1, LIMIT - 1, False)],
    ids=["full-batch", "not-all-sent", "no-notifications"],
)
def test_rows_may_remain(selected: int, sent: int, *, notified: bool) -> None:
    """After a full batch, if not all rows were sent, and if nothing announces new rows."""
    assert remaining(selected, sent, LIMIT, notified=notified) is Remaining.MORE
