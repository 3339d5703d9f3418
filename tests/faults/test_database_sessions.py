"""Web and relay while PostgreSQL sessions are terminated, half open, or read-only."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from time import monotonic

import psycopg
import pytest
import requests
from sqlalchemy import make_url

from testkit.databases import NewDatabase
from testkit.deployment import NewDeployment
from testkit.load import LoadGenerator
from testkit.proxy import BOTH_DIRECTIONS, Proxy
from testkit.rows import new_rows
from testkit.services import ExternalService, Postgres
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

interaction_numbers = count()


@pytest.fixture
def new_database(new_postgresql: NewDatabase) -> NewDatabase:
    """PostgreSQL only."""
    return new_postgresql


Administrator = Callable[[str], list[tuple[object, ...]]]


@pytest.fixture
def administer(postgres: Postgres | ExternalService) -> Iterator[Administrator]:
    """A function that runs SQL on the server, from another database."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:

        def run(sql: str) -> list[tuple[object, ...]]:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

        yield run


def post(web: WebProcess) -> int:
    """Post a new interaction and return the status of the answer."""
    return web.post({"id": "i", "channel": "voice", "turn": next(interaction_numbers)}).status_code


def end_idle_sessions(administer: Administrator, database: str) -> None:
    """Wait for sessions that have been idle for 0.4 s, terminate them, and wait for their end.

    All are signalled before the end of the first is awaited: meanwhile another could be used again.
    """
    sql = f"""SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = '{database}' AND state = 'idle' AND now() - state_change > interval '0.4 s'"""
    terminated = wait_until(lambda: administer(sql), "sessions have been idle for 0.4 s")
    left = f"SELECT 1 FROM pg_stat_activity WHERE pid IN ({', '.join(str(pid) for pid, _ in terminated)})"
    wait_until(lambda: not administer(left), "they have ended")


def ready(web: WebProcess) -> bool:
    """Return whether ``/readyz`` answers with 200."""
    return requests.get(f"{web.base}/readyz", timeout=30).ok


def test_idle_sessions_that_the_server_ends_cause_no_error(
    new_deployment: NewDeployment, administer: Administrator
) -> None:
    """Every post is accepted, ``/readyz`` stays 200, and no shard is ever degraded."""
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    administer(f'ALTER DATABASE "{database}" SET idle_session_timeout = 500')
    deployment.engine.dispose()
    web, relay = deployment.web(), deployment.relay()
    wait_until(lambda: "started" in {line.get("action") for line in relay.lines()}, "the relay has started")
    wait_until(lambda: ready(web), "the first check has ended")  # a request waits only one second for it
    for _ in range(4):
        assert post(web) == 202
        assert ready(web)
        # idle_session_timeout does not apply after a statement in a pipeline, so terminate idle sessions as well.
        end_idle_sessions(administer, str(database))
    deployment.wait_drained()
    assert len(deployment.seen()) == 4
    degraded = [line for line in relay.lines() if line.get("action") == "degraded" and "shard" in line["subject"]]
    assert degraded == []


def test_half_open_idle_connections_delay_a_post_by_seconds_at_most(new_deployment: NewDeployment) -> None:
    """The first post after a router lost its connection state times out on the old connection and opens a new one."""
    deployment = new_deployment(1)
    url = make_url(deployment.url)
    with closing(Proxy(url.port or 5432)) as proxy:
        proxied = url.set(port=proxy.port).render_as_string(hide_password=False)
        web = deployment.web(DATABASE_URL=proxied)
        assert post(web) == 202
        with proxy.half_open(BOTH_DIRECTIONS):
            idle_since = monotonic()
            wait_until(lambda: monotonic() - idle_since > 2, "the connection has been idle for 2 s")
        began = monotonic()
        assert post(web) == 202
        assert monotonic() - began < 10


def test_posts_outlive_half_open_connections_in_use(new_deployment: NewDeployment) -> None:
    """Posts whose commit gets no answer are committed on another connection, in time to be accepted."""
    deployment = new_deployment(1)
    url = make_url(deployment.url)
    with closing(Proxy(url.port or 5432)) as proxy:
        web = deployment.web(DATABASE_URL=url.set(port=proxy.port).render_as_string(hide_password=False))
        load = LoadGenerator(lambda: web, senders=4)
        load.wait_for_accepted(20)
        with proxy.half_open(BOTH_DIRECTIONS):
            pass  # what is connected now stays half open
        load.wait_for_accepted(20)
        load.stop()
        assert web.metric('outbox_webhook_requests_total{outcome="unavailable",secret="tests"}') == 0


def test_web_and_relay_recover_from_a_read_only_database(
    new_deployment: NewDeployment, administer: Administrator
) -> None:
    """While the database is read-only, posts get 503 and each reason is logged once; recovery needs no restart."""
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    ids = deployment.record(new_rows(50))
    web, relay = deployment.web(), deployment.relay()
    deployment.wait_drained()
    assert post(web) == 202
    administer(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    administer(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'")
    assert post(web) == 503
    assert not ready(web)
    relay.wait_degraded("shard 0", "read-only")
    administer(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
    began = monotonic()
    wait_until(lambda: post(web) == 202, "interactions are accepted again")
    accepted_after = monotonic() - began
    deployment.wait_drained()
    drained_after = monotonic() - began
    wait_until(lambda: ready(web), "the web process is ready again")
    wait_until(lambda: not relay.degraded(), "nothing is degraded")
    assert accepted_after < 15
    assert drained_after < 30
    reasons = [json.loads(line)["event"] for line in web.log.read_text().splitlines() if "commit_failed" in line]
    assert reasons
    assert len(reasons) == len(set(reasons)), reasons
    assert len(deployment.seen()) == len(ids) + 2


def test_sessions_are_terminated_under_load(new_deployment: NewDeployment, administer: Administrator) -> None:
    """Sessions terminated during commits refuse no interaction, and none is lost, duplicated or called a duplicate."""
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    web = deployment.web()
    deployment.relay()
    load = LoadGenerator(lambda: web, senders=4)
    for _ in range(10):
        load.wait_for_accepted(20)
        administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    ids = load.stop()
    deployment.engine.dispose()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    assert web.metric('outbox_webhook_requests_total{outcome="duplicate",secret="tests"}') == 0
