"""Commands to copy into a shell."""

import subprocess

import pytest

from outbox.errors import InvalidRequestError
from outbox.operators.commands import change_arguments, filter_arguments, format_command
from outbox.operators.rows import RowFilter


def test_a_printed_command_can_be_copied_into_a_shell() -> None:
    """Quotes, backslashes and control characters reach the command as they were; the text itself is printable."""
    value = "it's\\ a\x1b[31m\u202e"
    copied = format_command("erase", "--interaction", value)
    assert copied.isprintable()
    script = f'relay() {{ printf %s "$3"; }}; {copied}'
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert printed.stdout.decode() == value


def test_a_filter_becomes_arguments_that_select_the_same_rows_later() -> None:
    """Times are absolute and in UTC; an address is left out, to be typed again."""
    rows = RowFilter((4, 7), "i-1", "parked", None, "voice", "too large", 1_769_842_800_000, 1_769_842_800_500, "a@b.c")
    assert filter_arguments(rows) == [
        "--id", "4", "--id", "7", "--interaction", "i-1", "--state", "parked", "--channel", "voice",
        "--error", "too large", "--email", "-",
        "--since", "2026-01-31T07:00:00.000+00:00", "--until", "2026-01-31T07:00:00.500+00:00",
    ]  # fmt: skip
    assert filter_arguments(RowFilter()) == []


def test_a_filter_by_key_has_no_command() -> None:
    """Without the key, the command would select every row."""
    with pytest.raises(InvalidRequestError, match="is selected by its id"):
        filter_arguments(RowFilter(key=b"k"))


def test_rate_actor_and_reason_become_arguments() -> None:
    """What is not given is left out."""
    assert change_arguments("lost", "ann", 10) == ["--rate", "10", "--as", "ann", "--reason", "lost"]
    assert change_arguments("lost") == ["--reason", "lost"]
    assert change_arguments("") == []
