"""A picture of the dashboard's main queries during an incident, as SVG."""

import re
from html import escape
from math import isfinite
from typing import NamedTuple

from testkit.services.prometheus import Prometheus, QueryResult

WIDTH, LEFT, RIGHT, TOP, PLOT, GAP = 900, 60, 20, 44, 84, 44
COLORS = ("#1f6feb", "#cf222e", "#1a7f37", "#9a6700")
STEP_SECONDS = 0.5
WINDOW = "5s"
"""In place of Grafana's ``$__rate_interval``."""


class Span(NamedTuple):
    """When an incident began, was mended, and was over, in seconds since the epoch."""

    began: float
    mended: float
    over: float


class Plot(NamedTuple):
    """Lines below a title; a line's name is its legend."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def draw(prometheus: Prometheus, title: str, span: Span, queries: dict[str, dict[str, str]]) -> str:
    """Return a picture of an incident.

    Args:
        prometheus: has seen it.
        title: of the picture.
        span: of the incident; some seconds before it are shown.
        queries: title of each plot to its queries, by their legends.
    """
    start, end = span.began - 15, span.over

    def ask(query: str) -> list[QueryResult]:
        return prometheus.query_range(query.replace("$__rate_interval", WINDOW), start, end, STEP_SECONDS)

    plots = [
        Plot(
            name,
            {
                legend_of(legend, each.labels): each.values
                for legend, query in given.items()
                for each in ask(query)
                if any(value for _, value in each.values)
            },
        )
        for name, given in queries.items()
    ]
    fired = ask('max by (alertname) (ALERTS{alertstate="firing"})')
    times = {each.labels["alertname"]: [at for at, _ in each.values if at > span.began] for each in fired}
    alerts = {name: found for name, found in times.items() if found}
    height = TOP + (PLOT + GAP) * len(plots) + 20 * (len(alerts) + 2)
    scale = (WIDTH - LEFT - RIGHT) / (end - start)
    parts = [_text(LEFT, 20, title, "bold"), _incident(span, start, scale, height), *_axis(span, start, scale, height)]
    for number, plot in enumerate(plots):
        parts += _plot(plot, TOP + number * (PLOT + GAP), start, scale)
    parts += _alerts(alerts, TOP + len(plots) * (PLOT + GAP), start, scale)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def legend_of(text: str, labels: dict[str, str]) -> str:
    """Replace names of labels as Grafana does."""
    return re.sub(r"{{(\w+)}}", lambda match: labels[match[1]], text)


def _incident(span: Span, start: float, scale: float, height: int) -> str:
    x, width = LEFT + (span.began - start) * scale, (span.mended - span.began) * scale
    return f'<rect x="{x:.0f}" y="30" width="{width:.0f}" height="{height - 50}" fill="#ffebe9"/>'


def _axis(span: Span, start: float, scale: float, height: int) -> list[str]:
    """The seconds since the incident began, below everything."""
    return [
        _text(LEFT + (span.began + seconds - start) * scale - 10, height - 4, f"{seconds} s")
        for seconds in range(0, int(span.over - span.began), 10)
    ]


def _plot(plot: Plot, top: int, start: float, scale: float) -> list[str]:
    """Title, legend, the largest number, and a line for each series that is not always 0."""
    values = [value for line in plot.lines.values() for _, value in line if isfinite(value)]
    largest = max([*values, 0.001])
    bottom = top + PLOT + 12
    parts = [
        _text(LEFT, top + 6, plot.title, "bold"),
        _text(4, top + 22, f"{largest:.3g}"),
        _text(4, bottom, "0"),
        f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="#8c959f"/>',
    ]
    for number, (legend, line) in enumerate(plot.lines.items()):
        color = COLORS[number % len(COLORS)]
        parts.append(_text(LEFT + 300 + 150 * number, top + 6, legend, color=color))
        for piece in _pieces(line):
            points = " ".join(
                f"{LEFT + (at - start) * scale:.1f},{bottom - value / largest * (PLOT - 10):.1f}" for at, value in piece
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    return parts


def _pieces(line: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a line where samples are missing."""
    pieces: list[list[tuple[float, float]]] = []
    for at, value in line:
        if not isfinite(value):
            continue
        if pieces and at - pieces[-1][-1][0] < 2 * STEP_SECONDS:
            pieces[-1].append((at, value))
        else:
            pieces.append([(at, value)])
    return pieces


def _alerts(alerts: dict[str, list[float]], top: int, start: float, scale: float) -> list[str]:
    """A bar for each alert while it fires, the first one on top."""
    parts = [_text(LEFT, top + 6, "Alerts", "bold")]
    for number, (name, times) in enumerate(sorted(alerts.items(), key=lambda each: each[1][0]), start=1):
        y = top + 20 * number
        for piece in _pieces([(at, 1.0) for at in times]):
            x, width = LEFT + (piece[0][0] - start) * scale, (piece[-1][0] - piece[0][0] + STEP_SECONDS) * scale
            parts.append(f'<rect x="{x:.1f}" y="{y - 8}" width="{width:.1f}" height="12" fill="#cf222e"/>')
        end = LEFT + (times[-1] - start) * scale + 8
        if end < WIDTH - 120:
            parts.append(_text(end, y + 2, name))
        else:
            parts.append(_text(LEFT + (times[0] - start) * scale + 4, y + 2, name, color="white"))
    return parts


def _text(x: float, y: float, text: str, weight: str = "normal", color: str = "#1f2328") -> str:
    return f'<text x="{x:.0f}" y="{y}" font-weight="{weight}" fill="{color}">{escape(text)}</text>'
