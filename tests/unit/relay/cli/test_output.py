"""What commands print: JSON, counts, ages, and commands to copy."""

import json
import subprocess

import pytest

from relay.cli import output
from testkit.command_line import command


def test_numbers_of_64_bits_are_text_in_json() -> None:
    """Readers that use doubles would lose digits; fields with random numbers are always text."""
    value = {"id": 5, "nonce": 7, "rows": [2**53 - 1, {"timestamp_ms": 1, "epoch": -(2**60)}], "x": True}
    assert json.loads(output.to_json(value)) == {
        "id": 5, "nonce": "7", "rows": [2**53 - 1, {"timestamp_ms": "1", "epoch": str(-(2**60))}], "x": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("age_ms", "text"), [(0, "0s"), (59_999, "59s"), (61_000, "1m 1s"), (3_600_000, "1h 0m"), (90_000_000, "1d 1h")]
)
def test_an_age_is_shown_in_its_two_largest_units(age_ms: int, text: str) -> None:
    """Smaller units are cut off."""
    assert output.format_age(age_ms) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2_000, "2,000 rows")])
def test_a_noun_agrees_with_its_count(count: int, text: str) -> None:
    """Only one is singular."""
    assert output.plural(count, "row") == text


@pytest.mark.parametrize(("shards", "text"), [([], "no shard"), ([3], "shard 3"), ([0, 1], "shards 0, 1")])
def test_shards_are_listed_by_number(shards: list[int], text: str) -> None:
    """One, several or none."""
    assert output.format_shards(shards) == text


def test_a_printed_command_can_be_copied_into_a_shell() -> None:
    """Quotes, backslashes and control characters reach the command as they were; the text itself is printable."""
    value = "it's\\ a\x1b[31m\u202e"
    copied = output.format_command("erase", "--interaction", value)
    assert copied.isprintable()
    script = f'relay() {{ printf %s "$3"; }}; {copied}'
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert printed.stdout.decode() == value


def test_arguments_in_an_error_cannot_control_the_terminal() -> None:
    """Control characters and marks that change the text direction are escaped."""
    value = "\x1b[31m\u202e\u200f\x9b"
    environ = {"DATABASE_URL": "sqlite:////nowhere/none.db"}
    for arguments in ((value,), ("list", value), ("list", "--state", value), ("show", value), ("list", f"--{value}")):
        ended = command(environ, *arguments)
        assert ended.returncode == 2, ended
        assert not {"\x1b", "\u202e", "\u200f", "\x9b"} & set(ended.stderr), ended
