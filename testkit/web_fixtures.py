"""Fixture of the tests that start web processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.web_process import WebProcess

StartWeb = Callable[..., WebProcess]
"""Takes the URL of the outbox's database, and further settings as keyword arguments."""


@pytest.fixture
def start_web(tmp_path: Path) -> Iterator[StartWeb]:
    """Start web processes, which are killed after the test."""
    started: list[WebProcess] = []

    def start(url: str, **environ: str) -> WebProcess:
        started.append(WebProcess({"DATABASE_URL": url, **environ}, tmp_path / f"web-{len(started)}.log"))
        return started[-1]

    yield start
    for web in started:
        web.kill()
