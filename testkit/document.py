"""Documents whose commands a test runs, comparing what they print."""

import re
from collections.abc import Iterator
from typing import NamedTuple

PART = re.compile(r"^```console\n(?P<block>.*?)^```$|^<!-- event: (?P<event>.*?) -->$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?P<line>(?:[^\n]*\\\n)*[^\n]*)\n?(?P<expected>.*)", re.DOTALL)
"""A line that ends with a backslash continues on the next one."""


class Step(NamedTuple):
    """A command with its expected output, or an event."""

    command: str
    expected: str
    event: str = ""


def steps(document: str) -> Iterator[Step]:
    """Yield the steps of the document: the commands in its blocks of ``console``, and the events in its comments."""
    for part in PART.finditer(document):
        if part["event"]:
            yield Step("", "", part["event"])
            continue
        for each in part["block"].removeprefix("$ ").split("\n$ "):
            found = COMMAND.fullmatch(each)
            assert found is not None, each
            yield Step(found["line"], found["expected"].strip("\n"))


def matches(printed: str, expected: str) -> bool:
    """Compare the output of a command with the document, in which ``…`` stands for anything."""
    return bool(pattern(expected).fullmatch(printed.strip("\n")))


def pattern(text: str) -> re.Pattern[str]:
    """A pattern of a text in which ``…`` stands for anything."""
    return re.compile(".*".join(re.escape(piece) for piece in text.split("…")), re.DOTALL)
