"""The SQLite database of a running product is deleted, moved or replaced."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from time import time

import pytest
import requests

from outbox.db.engine import create_outbox_engine, sqlite
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, NewDeployment
from testkit.file_faults import delete, delete_alone, delete_folder
from testkit.load import LoadGenerator
from testkit.outbox import assert_placed
from testkit.rows import new_rows
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

interaction_numbers = count()


@pytest.fixture
def new_database(new_sqlite: NewDatabase, tmp_path: Path) -> NewDatabase:
    """SQLite only, in a folder of its own."""

    def make(shards: int = 1) -> str:
        folder = tmp_path / "data"
        folder.mkdir()
        moved = shutil.move(new_sqlite(shards).removeprefix("sqlite:///"), folder / "outbox.db")
        return f"sqlite:///{moved}"

    return make


def file_of(deployment: Deployment) -> Path:
    """Return the path of the database."""
    return Path(deployment.url.removeprefix("sqlite:///"))


def move(path: Path) -> None:
    """Move the folder: ``mv``."""
    path.parent.rename(path.parent.with_name("away"))


def backup(path: Path, to: Path) -> None:
    """Copy the database: ``sqlite3 outbox.db '.backup …'``."""
    source, target = sqlite.connect(path), sqlite.connect(to)
    source.backup(target)
    source.close()
    target.close()


@pytest.mark.parametrize("remove", [delete, delete_alone, delete_folder, move])
def test_no_interaction_is_accepted_while_the_file_is_missing(
    new_deployment: NewDeployment, remove: Callable[[Path], None], tmp_path: Path
) -> None:
    """Posts get 503 within a second, and the shard is degraded; with a copy in place web and relay recover."""
    deployment = new_deployment(1)
    ids = deployment.record(new_rows(50))
    relay = deployment.relay()
    deployment.wait_drained()
    backup(file_of(deployment), tmp_path / "copy.db")
    deployment.engine.dispose()
    web = deployment.web()
    load = LoadGenerator(lambda: web, senders=4)
    load.wait_for_accepted(50)
    remove(file_of(deployment))
    removed = time()
    relay.wait_degraded("shard 0", "outbox.db")
    wait_until(lambda: not requests.get(f"{web.base}/readyz", timeout=30).ok, "the web process is not ready")
    wait_until(lambda: time() > removed + 2, "posts have been refused for a while")
    assert [each for each in load.accepted if each.sent_at > removed + 1] == []
    assert "commit_failed" in web.log.read_text()
    assert not file_of(deployment).exists()
    file_of(deployment).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "copy.db", file_of(deployment))
    load.wait_for_accepted(20)
    load.stop()
    wait_until(lambda: requests.get(f"{web.base}/readyz", timeout=30).ok, "the web process is ready")
    assert relay.running()
    with closing(sqlite.connect(file_of(deployment))) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone()[0] >= len(ids) + 20
    engine = create_outbox_engine(deployment.url)  # the deployment's own still waits for the new file to rest
    assert_placed(engine)
    engine.dispose()


def test_each_reason_of_an_outage_is_logged_once(new_deployment: NewDeployment) -> None:
    """A missing file and a file that is no database are each logged once, not once a request."""
    deployment = new_deployment(1)
    web, path = deployment.web(), file_of(deployment)
    deployment.engine.dispose()
    assert post(web) is not None
    delete(path)
    wait_until(lambda: post(web) is None and "does not exist" in web.log.read_text(), "the first reason is logged")
    path.write_bytes(b"no database" * 1000)
    wait_until(lambda: post(web) is None and "restore" in web.log.read_text(), "the second reason is logged")
    for _ in range(20):
        assert post(web) is None
    lines = [line["event"] for line in map(json.loads, web.log.read_text().splitlines())]
    reasons = [line for line in lines if line.startswith("interactions are not committed")]
    assert len(reasons) == len(set(reasons)), reasons
    assert len(reasons) <= 3, reasons


def test_rows_are_sent_exactly_once_after_the_write_ahead_log_was_removed(new_deployment: NewDeployment) -> None:
    """Web and relay close and reopen the database, so no accepted row is lost or sent twice."""
    deployment = new_deployment(1)
    web, relay = deployment.web(), deployment.relay()
    deployment.engine.dispose()
    ids = [post(web) for _ in range(20)]
    path = file_of(deployment)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    ids.append(wait_until(lambda: post(web), "interactions are accepted again"))
    deployment.wait_drained()
    accepted = [row_id for row_id in ids if row_id is not None]
    deployment.check_exactly_once(accepted)
    assert relay.running()
    assert "action" in json.loads(web.log.read_text().splitlines()[-1])


def post(web: WebProcess) -> int | None:
    """Post a new interaction and return its row's id, or None if it was not accepted."""
    answer = web.post({"id": "i", "channel": "voice", "turn": next(interaction_numbers)})
    return int(answer.json()["outboxId"]) if answer.status_code == 202 else None
