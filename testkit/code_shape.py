"""``python -m testkit.code_shape``: print the length of the product's functions and modules, and what is too long."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from testkit import ROOT

PRODUCT = ("app", "config", "console", "outbox", "relay", "migrations/run.py")
MAX_FUNCTION_LINES = 40
MAX_MODULE_LINES = 400


class Piece(NamedTuple):
    """A function or a module and its length."""

    name: str
    lines: int


class CodeShape(NamedTuple):
    """The lengths of a code base."""

    functions: list[Piece]
    modules: list[Piece]

    def too_long(self) -> list[Piece]:
        """Return the functions and modules above the limits, the longest first."""
        functions = [each for each in self.functions if each.lines > MAX_FUNCTION_LINES]
        modules = [each for each in self.modules if each.lines > MAX_MODULE_LINES]
        return sorted([*functions, *modules], key=lambda each: -each.lines)

    def summary(self) -> str:
        """Return the count, median, 90th percentile and maximum of the function lengths."""
        lines = [each.lines for each in self.functions]
        p90 = quantiles(lines, n=10, method="inclusive")[-1]
        return f"{len(lines)} functions: median {median(lines):g}, 90th percentile {p90:g}, longest {max(lines)} lines"


def measure(paths: tuple[str, ...] = PRODUCT) -> CodeShape:
    """Measure all Python code in these paths, relative to the checkout; a function's docstring counts."""
    functions, modules = [], []
    for file in _files(paths):
        source, name = file.read_text(), str(file.relative_to(ROOT))
        modules.append(Piece(name, len(source.splitlines())))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append(Piece(f"{name}:{node.lineno} {node.name}", lines))
    return CodeShape(functions, modules)


def _files(paths: tuple[str, ...]) -> Iterator[Path]:
    for path in paths:
        yield from sorted((ROOT / path).rglob("*.py")) if (ROOT / path).is_dir() else [ROOT / path]


def report(shape: CodeShape) -> str:
    """Return the summary and a line for each piece that is too long."""
    return "\n".join([shape.summary(), *(f"{each.lines:4d} lines  {each.name}" for each in shape.too_long())])


if __name__ == "__main__":
    sys.stdout.write(report(measure()) + "\n")
