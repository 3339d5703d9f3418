"""Metrics of the backlog, exported by the web process."""

from pathlib import Path
from time import time

import psutil
import requests

from outbox.db.engine import create_outbox_engine
from testkit.databases import NewDatabase
from testkit.waiting import wait_until
from testkit.web_fixtures import StartWeb
from testkit.web_process import WebProcess


def wait_counted(web: WebProcess, line: str, value: float) -> None:
    """Wait until the web process exports this value."""
    wait_until(lambda: line in exported(web) and web.metric(line) == value, f"{line} is {value}")


def exported(web: WebProcess) -> str:
    """The text of one scrape."""
    return requests.get(f"{web.base}/metrics", timeout=30).text


def test_the_backlog_is_exported_without_a_relay(new_database: NewDatabase, start_web: StartWeb) -> None:
    """Rows, oldest age, shards and calls, with the time of the count, in every web process."""
    began = time()
    web = start_web(new_database(2), WEB_CONCURRENCY="2")
    for number in range(3):
        assert web.post({"id": number, "channel": "v"}).status_code == 202
    wait_counted(web, 'outbox_backlog_rows{state="pending"}', 3)
    assert web.metric('outbox_backlog_rows{state="parked"}') == 0
    assert web.metric("outbox_backlog_oldest_age_seconds") < time() - began
    wait_counted(web, 'outbox_shards{state="unowned"}', 2)
    assert 'outbox_calls{state="due"} 0.0' in exported(web)
    assert began < web.metric("outbox_backlog_counted_timestamp_seconds") <= time()
    assert 'outbox_build_info{version="' in exported(web)
    wait_until(lambda: all("outbox_backlog_rows" in exported(web) for _ in range(20)), "both processes have counted")
    assert "_created" not in exported(web)


def test_a_replaced_process_leaves_no_gap(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """A new process answers its first scrape when it has counted: a gap would end an alert that waits to fire."""
    web = start_web(new_sqlite())
    wait_counted(web, 'outbox_backlog_rows{state="pending"}', 0)
    seen: set[psutil.Process] = set()

    def new() -> psutil.Process | None:
        return next((each for each in psutil.Process(web.process.pid).children() if each not in seen), None)

    for _ in range(3):
        process = wait_until(new, "there is a new process")
        assert "outbox_backlog_rows" in exported(web)
        seen.add(process)
        process.kill()
        wait_until(new, "it is replaced")
        assert "outbox_backlog_rows" in exported(web)


def test_counting_recovers_after_the_database_was_missing(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """The file is moved away: no new one is created, and counting recovers once the file is back."""
    url = new_sqlite()
    path = Path(url.removeprefix("sqlite:///"))
    web = start_web(url)
    assert web.post({"id": 1, "channel": "v"}).status_code == 202
    wait_counted(web, 'outbox_backlog_rows{state="pending"}', 1)
    web.stop()
    aside = path.rename(path.with_suffix(".aside"))
    web = start_web(url)
    wait_until(lambda: "outbox_build_info" in exported(web), "metrics are served")
    assert "outbox_backlog_rows" not in exported(web)
    wait_until(lambda: "backlog count failed" in web.log.read_text(), "the failure is logged")
    assert not path.exists()
    aside.rename(path)
    wait_counted(web, 'outbox_backlog_rows{state="pending"}', 1)


def test_a_locked_outbox_is_counted(new_sqlite: NewDatabase, start_web: StartWeb) -> None:
    """Counting needs no write lock, so it continues while another writer locks SQLite."""
    url = new_sqlite()
    web = start_web(url)
    assert web.post({"id": 1, "channel": "v"}).status_code == 202
    wait_counted(web, 'outbox_backlog_rows{state="pending"}', 1)
    engine = create_outbox_engine(url)
    with engine.begin():
        before = web.metric("outbox_backlog_counted_timestamp_seconds")
        wait_until(lambda: web.metric("outbox_backlog_counted_timestamp_seconds") > before, "it is counted again")
    engine.dispose()
