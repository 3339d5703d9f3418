"""The SQLite file of a running product is deleted, moved or replaced, as people restore it."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from time import monotonic, time

import pytest
import requests

from outbox.db.engine import sqlite
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, NewDeployment
from testkit.file_faults import delete, delete_alone, delete_folder
from testkit.load import LoadGenerator
from testkit.rows import new_rows
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

numbers = count()


@pytest.fixture
def new_database(new_sqlite: NewDatabase, tmp_path: Path) -> NewDatabase:
    """SQLite alone, in a folder of its own."""

    def make(shards: int = 1) -> str:
        folder = tmp_path / "data"
        folder.mkdir()
        moved = shutil.move(new_sqlite(shards).removeprefix("sqlite:///"), folder / "outbox.db")
        return f"sqlite:///{moved}"

    return make


def file_of(deployment: Deployment) -> Path:
    """Of the database."""
    return Path(deployment.url.removeprefix("sqlite:///"))


def move(path: Path) -> None:
    """As ``mv`` of the folder."""
    path.parent.rename(path.parent.with_name("away"))


def backup(path: Path, to: Path) -> None:
    """A whole copy, as ``sqlite3 outbox.db '.backup …'`` makes it."""
    source, target = sqlite.connect(path), sqlite.connect(to)
    source.backup(target)
    source.close()
    target.close()


@pytest.mark.parametrize("remove", [delete, delete_alone, delete_folder, move])
def test_nothing_is_acknowledged_without_the_file(
    new_deployment: NewDeployment, remove: Callable[[Path], None], tmp_path: Path
) -> None:
    """503 and a line within a second, the relay gives up its shard; with a copy in place both go on by themselves."""
    deployment = new_deployment(1)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    backup(file_of(deployment), tmp_path / "copy.db")
    deployment.engine.dispose()
    web = deployment.web()
    load = LoadGenerator(lambda: web, senders=4)
    wait_until(lambda: len(load.accepted) > 50, "the load is on")
    remove(file_of(deployment))
    removed = time()
    relay.wait_degraded("shard 0", "outbox.db")
    wait_until(lambda: not requests.get(f"{web.base}/readyz", timeout=30).ok, "it is not ready")
    assert [each.at for each in load.accepted if each.at > removed + 1] == []
    assert "not_committed" in web.log.read_text()
    assert not file_of(deployment).exists()
    file_of(deployment).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "copy.db", file_of(deployment))
    began, before = monotonic(), len(load.accepted)
    wait_until(lambda: len(load.accepted) > before + 20, "interactions are taken again")
    print(f"taken again after {monotonic() - began:.1f} s")  # noqa: T201 - a figure of the run
    load.stop()
    wait_until(lambda: requests.get(f"{web.base}/readyz", timeout=30).ok, "it is ready")
    assert relay.running()
    with closing(sqlite.connect(file_of(deployment))) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone()[0] >= len(ids) + 20


def test_each_reason_of_an_outage_is_logged_once(new_deployment: NewDeployment) -> None:
    """First the file is gone, then another one is no database; not a line for each request."""
    deployment = new_deployment(1)
    web, path = deployment.web(), file_of(deployment)
    deployment.engine.dispose()
    assert post(web)
    delete(path)
    wait_until(lambda: not post(web) and "does not exist" in web.log.read_text(), "the first reason is logged")
    path.write_bytes(b"no database" * 1000)
    wait_until(lambda: not post(web) and "restore" in web.log.read_text(), "the second reason is logged")
    for _ in range(20):
        assert not post(web)
    lines = [line["event"] for line in map(json.loads, web.log.read_text().splitlines())]
    reasons = [line for line in lines if line.startswith("interactions are not committed")]
    assert len(reasons) == len(set(reasons)) <= 3


def test_a_relay_whose_log_was_removed_sends_everything(new_deployment: NewDeployment) -> None:
    """Web and relay close the file before they open it again: what was acknowledged is sent, once."""
    deployment = new_deployment(1)
    web, relay = deployment.web(), deployment.relay()
    deployment.engine.dispose()
    ids = [post(web) for _ in range(20)]
    path = file_of(deployment)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    ids.append(wait_until(lambda: post(web), "interactions are taken again"))
    deployment.wait_drained()
    accepted = [number for number in ids if number]
    deployment.check_exactly_once(accepted)
    assert relay.running()
    assert "action" in json.loads(web.log.read_text().splitlines()[-1])


def post(web: WebProcess) -> int:
    """Id of an interaction that was accepted; 0 of one that was not."""
    answer = web.post({"id": "i", "channel": "voice", "turn": next(numbers)})
    return int(answer.json()["outboxId"]) if answer.status_code == 202 else 0
