"""What commands print: JSON and errors."""

import json

from relay.cli import output
from testkit.command_line import command


def test_numbers_of_64_bits_are_text_in_json() -> None:
    """Readers that use doubles would lose digits; fields with random numbers are always text."""
    value = {"id": 5, "nonce": 7, "rows": [2**53 - 1, {"timestamp_ms": 1, "epoch": -(2**60)}], "x": True}
    assert json.loads(output.to_json(value)) == {
        "id": 5, "nonce": "7", "rows": [2**53 - 1, {"timestamp_ms": "1", "epoch": str(-(2**60))}], "x": True,
    }  # fmt: skip


def test_arguments_in_an_error_cannot_control_the_terminal() -> None:
    """Control characters and marks that change the text direction are escaped."""
    value = "\x1b[31m\u202e\u200f\x9b"
    environ = {"DATABASE_URL": "sqlite:////nowhere/none.db"}
    for arguments in ((value,), ("list", value), ("list", "--state", value), ("show", value), ("list", f"--{value}")):
        ended = command(environ, *arguments)
        assert ended.returncode == 2, ended
        assert not {"\x1b", "\u202e", "\u200f", "\x9b"} & set(ended.stderr), ended
