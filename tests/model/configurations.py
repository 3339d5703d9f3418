"""Configurations in which every invariant holds, and mutations that must break one."""

from typing import NamedTuple

from tests.model.states import Config

QUICK = (
    Config("no refusals, 3 rows, batches of one", "XYX", batch=1),
    Config("2 rows, row 0 always refused", "XX", poison=(0,)),
    Config("row 0 refused or not, later rows pass it", "XX", refusable=(0,), skip_parked=True),
    Config("2 rows, row 0 refused or not, retry, discard", "XX", refusable=(0,)),
    Config("2 rows, progress topic lost", "XY", progress_lost=True),
    Config("database restored, 2 rows", "XX", batch=1, restore=True),
    Config("database restored, 1 row refused or not", "X", refusable=(0,), restore=True),
    Config("broker restored from an older copy, 1 row refused or not", "X", refusable=(0,), broker_back=True),
)
"""Every rule and every kind of fault; about a minute of CPU time."""

USUAL = (
    Config("no refusals, 3 rows", "XYX"),
    Config("rows 0 and 1 of three refused or not", "XXX", refusable=(0, 1)),
    Config("row 0 refused or not, retry, discard", "XYX", refusable=(0,)),
    Config("row 0 always refused", "XXY", poison=(0,)),
    Config("replay as a new row", "XYXX", replay=(3, 0)),
    Config("progress topic lost", "XYX", progress_lost=True),
    Config("broker restored from an older copy, 2 rows", "XX", batch=1, broker_back=True),
)
"""More rows."""

DEEP = (
    Config("database restored, 3 rows", "XYX", restore=True),
    Config("database restored, row 0 refused or not", "XX", refusable=(0,), restore=True),
    Config("4 rows, row 0 refused or not", "XYXY", refusable=(0,)),
    Config("broker restored from an older copy, 3 rows", "XYX", batch=1, broker_back=True),
)
"""Minutes, and about 1 GiB per process."""


class Mutation(NamedTuple):
    """An omitted rule, and the smallest configuration in which an invariant breaks without it."""

    rule: str
    config: Config


_ONE, _REFUSED = Config("1 row", "X"), Config("1 row, refused or not", "X", refusable=(0,))
_RESTORED = Config("2 rows, restore", "XX", batch=1, restore=True)
_COPIED = Config("2 rows, broker restored from a copy", "XX", batch=1, broker_back=True)
_RESTORED_REFUSED = Config("1 row, refused or not, restore", "X", refusable=(0,), restore=True)

MUTATIONS = (
    Mutation("no read-back", _ONE),
    Mutation("progress record written after the transaction", _ONE),
    Mutation("no fencing", _ONE),
    Mutation("fencing before the lease", _REFUSED),
    Mutation("no lease check in step 4", _COPIED),
    Mutation("lease check in step 4 only if rows", _COPIED),
    Mutation("no lease check on park", _REFUSED),
    Mutation("lease check on park without lock", _REFUSED),
    Mutation("park without nonce", _RESTORED_REFUSED),
    Mutation("refused batch parked whole", Config("2 rows, first refused", "XY", poison=(0,))),
    Mutation("select ignores parked rows", Config("2 rows, first refused or not", "XX", refusable=(0,))),
    Mutation("naive floor", Config("2 rows", "XX", batch=1)),
    Mutation("floor not reset by retry", Config("2 rows, first refused or not", "XY", refusable=(0,))),
    Mutation("floor not reset by discard", Config("3 rows, first refused", "XXY", batch=1, poison=(0,))),
    Mutation("floor computed before the lock", Config("2 rows, first refused or not", "XY", refusable=(0,))),
    Mutation("same rows again on an expired producer id", _ONE),
    Mutation("batch kept at the next takeover", _ONE),
    Mutation("guess that an unknown commit did not happen", _ONE),
    Mutation("mark before commit", _ONE),
    Mutation("mark raises the acknowledged sequence", _RESTORED),
    Mutation("only pending rows are marked", _RESTORED_REFUSED),
    Mutation("nonce not checked", _RESTORED),
    Mutation("nonce checked before the marking statement", _RESTORED),
    Mutation("sequence further ahead is acknowledged too", _RESTORED),
    Mutation("select does not compare the acknowledged sequence", _RESTORED),
    Mutation("select does not compare the lease", _RESTORED_REFUSED),
    Mutation("a record below the acknowledged one is accepted", _COPIED),
    Mutation("offsets are not compared", _COPIED),
    Mutation("no lease check on the mark", _COPIED),
    Mutation("an idle shard does not check", _COPIED),
    Mutation("reconcile writes no record", _COPIED),
    Mutation(
        "offset kept when the progress topic is lost",
        Config("2 rows, lost topic", "XY", batch=1, progress_lost=True),
    ),
)
