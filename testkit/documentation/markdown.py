"""Markdown that is written by code."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing if it has no row."""
    lines = [_row([_cell(value) for value in row]) for row in rows]
    return "\n".join([_row(columns), "|" + "---|" * len(columns), *lines]) if lines else ""


def paragraphs(parts: Iterable[str]) -> str:
    """Those parts that are not empty, as paragraphs."""
    return "\n\n".join(part for part in parts if part)


def sentences(*parts: str) -> str:
    """Those parts that are not empty, each with its full stop."""
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts if part)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: str) -> str:
    """The text on one line. A bar would end the cell even in code."""
    return " ".join(value.split()).replace("|", "\\|")
