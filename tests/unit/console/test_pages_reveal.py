"""A payload as text."""

import pytest

from console.pages.reveal import readable

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ('{"a": [1, null], "b": "\u00fc"}', '{\n  "a": [\n    1,\n    null\n  ],\n  "b": "\u00fc"\n}'),
        ('{"a": "line\\nanother"}', '{\n  "a": "line\\nanother"\n}'),
        ('{"a": "\u202e \\u202e"}', '{\n  "a": "\\u202e \\u202e"\n}'),
        ('{"a": "\\ud800"}', '{\n  "a": "\\ud800"\n}'),
        ("no JSON\nsecond line\x1b[2J\r", "no JSON\nsecond line\\x1b[2J\\r"),
        (DEEP, DEEP),
    ],
)
def test_a_payload_is_text(payload: str, shown: str) -> None:
    """JSON is indented; control characters and marks that turn the direction are escaped."""
    assert readable(payload.encode()) == shown


def test_bytes_that_are_no_text_are_replaced() -> None:
    """They cannot be shown."""
    assert readable(b"\xff") == "\ufffd"
