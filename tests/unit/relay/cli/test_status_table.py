"""The table of ``relay status`` on wide and narrow terminals."""

from io import StringIO

import pytest
from rich.console import Console

from outbox.models import CallCounts, ShardStatus
from relay.cli.status_table import render_status
from testkit.command_line import command
from testkit.databases import NewDatabase

OWNER = "relay-7d9f8b6c5-x2x4z:1:0123456789ab"
CONDITION = "no broker: start it " * 5
STATUS = ShardStatus(
    0, OWNER, 1234, 9000, 10**6, 23456.7, CONDITION, 1_234_567, 23_456, 1_234, 12, 86_400_000, None, None, None
)


def rendered(width: int) -> list[str]:
    """Render eight shards with large numbers and long texts; return the lines."""
    output = StringIO()
    shards = [STATUS._replace(shard=number) for number in range(8)]
    console = Console(width=width, file=output, color_system=None)
    console.print(render_status(shards, CallCounts(1_000, 2), width))
    return output.getvalue().splitlines()


def test_a_table_fits_eighty_columns() -> None:
    """Each shard has one line; its owner and its problem are shown once for all shards that share them."""
    lines = rendered(80)
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "1234    9s 1,234,567" in line and "23,457" in line]) == 8, lines
    assert [line for line in lines if "owned by" in line] == [f"shards 0, 1, 2, 3, 4, 5, 6, 7: owned by {OWNER}"]
    assert len([line for line in lines if line.startswith("shards 0, 1, 2, 3, 4, 5, 6, 7: no broker")]) == 1, lines
    assert lines[-1] == "inference: 1,000 calls due, 2 parked (relay inference list --all)"


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_terminal_gets_a_line_for_each_number(width: int) -> None:
    """Each number stands beside its whole name; nothing is cut off."""
    lines = rendered(width)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    expected = ["shard 7", "  pending: 1,234,567", "  discarded: 12", "  rows/s: 23,457", "total"]
    assert [line for line in expected if line not in lines] == []


def test_a_piped_status_is_not_wrapped(new_sqlite: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and COLUMNS, each shard has one line."""
    monkeypatch.delenv("COLUMNS", raising=False)  # parallel tests have it
    heading, shard, total, owner = command({"DATABASE_URL": new_sqlite()}, "status").stdout.splitlines()
    assert heading.split()[:3] == ["shard", "epoch", "lease"]
    assert shard.split()[:2] == ["0", "0"]
    assert total.split()[:2] == ["total", "0"]
    assert owner == "shard 0: no owner"
