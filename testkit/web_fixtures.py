"""Start web processes for tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit.databases import migrate
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


@contextmanager
def web_on_sqlite(folder: Path, **environ: str) -> Iterator[tuple[WebProcess, str]]:
    """Run a web process on a new outbox in a folder, for tests that share it; yields it with the database's URL."""
    url = f"sqlite:///{folder}/outbox.db"
    migrate(url, 1)
    web = WebProcess({"DATABASE_URL": url, **environ}, folder / "web.log")
    try:
        yield web, url
    finally:
        web.stop()
