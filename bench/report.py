"""Format figures: medians, spreads, ratios and percentiles, the machine, and a table."""

import importlib.metadata as packages
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "librdkafka": confluent_kafka.libversion()[0],
        **{name: packages.version(name) for name in ("gunicorn", "flask", "sqlalchemy", "psycopg")},
    }


def spread(values: Sequence[float], digits: int | None = None) -> dict[str, Any]:
    """Return the median, and the smallest and largest value."""
    return {
        "median": round(statistics.median(values), digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
    }


def ratio(ours: Sequence[float], theirs: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """Return the spread of each round's ratio."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], digits)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50 ms": round(ordered[len(ordered) // 2] * 1000, 1),
        "p99 ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
        "max ms": round(ordered[-1] * 1000, 1),
    }


def table(report: Mapping[str, Any]) -> str:
    """Format a nested report with a line for each figure."""
    lines = [(path, _format(value)) for path, value in _leaves("", report)]
    width = max(len(path) for path, _ in lines)
    return "".join(f"{path:<{width}}  {value}\n" for path, value in lines)


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or "median" in value:
        return [(path, value)]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{path} · {name}" if path else name, inner)]


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value["spread"]
        return f"{value['median']:,} ({low:,} to {high:,})"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
