"""Web and relay while the sessions of PostgreSQL are cut, dropped without a word, or take no writes."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
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
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

numbers = count()


@pytest.fixture
def new_database(new_postgresql: NewDatabase) -> NewDatabase:
    """PostgreSQL alone."""
    return new_postgresql


Administrator = Callable[[str], list[tuple[object, ...]]]


@pytest.fixture
def administer(new_deployment: NewDeployment, postgres: object) -> Iterator[Administrator]:
    """Runs SQL on the server, from another database."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:  # type: ignore[attr-defined]

        def run(sql: str) -> list[tuple[object, ...]]:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

        yield run


def post(web: WebProcess) -> int:
    """Status of the answer to an interaction that was not sent before."""
    return web.post({"id": "i", "channel": "voice", "turn": next(numbers)}).status_code


def goes_on(load: LoadGenerator, until: int) -> bool:
    """Whether so many were accepted."""
    return len(load.accepted) >= until


def ready(web: WebProcess) -> bool:
    """Whether it says that it takes interactions."""
    return requests.get(f"{web.base}/readyz", timeout=30).ok


def test_a_server_that_cuts_idle_sessions_is_not_noticed(
    new_deployment: NewDeployment, administer: Administrator
) -> None:
    """Every post is accepted, the probe stays 200, and the relay is never degraded by it."""
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    administer(f'ALTER DATABASE "{database}" SET idle_session_timeout = 500')
    deployment.engine.dispose()
    web, relay = deployment.web(), deployment.relay()
    wait_until(lambda: "started" in {line.get("action") for line in relay.lines()}, "the relay runs")
    sent = 0
    for _ in range(4):
        sent += 1
        assert (post(web), ready(web)) == (202, True)
        # A statement in a pipeline leaves a session without its time-out: end those as an administrator does.
        sql = f"""SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                  WHERE datname = '{database}' AND state = 'idle' AND now() - state_change > interval '0.4 s'"""
        wait_until(partial(administer, sql), "sessions were idle for long enough")
    deployment.wait_drained()
    assert len(deployment.seen()) == sent
    assert not [line for line in relay.lines() if line.get("action") == "degraded" and "shard" in line["subject"]]


def test_a_link_that_forgets_idle_connections_costs_seconds_at_most(new_deployment: NewDeployment) -> None:
    """As a router that drops them without a word: the next post finds out, and has a fresh one."""
    deployment = new_deployment(1)
    url = make_url(deployment.url)
    with closing(Proxy(url.port or 5432)) as proxy:
        proxied = url.set(port=proxy.port).render_as_string(hide_password=False)
        web = deployment.web(DATABASE_URL=proxied)
        assert post(web) == 202
        with proxy.half_open(BOTH_DIRECTIONS):
            unused_since = monotonic()
            wait_until(lambda: monotonic() - unused_since > 2, "the connection has been idle for a while")
        began = monotonic()
        assert post(web) == 202
        assert monotonic() - began < 10


def test_a_database_that_takes_no_writes_for_a_while(new_deployment: NewDeployment, administer: Administrator) -> None:
    """Refused and said while it lasts, each reason once; over within seconds of it, without a restart."""
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
    wait_until(lambda: post(web) == 202, "interactions are taken again")
    taken = monotonic() - began
    deployment.wait_drained()
    drained = monotonic() - began
    wait_until(lambda: ready(web), "it is ready again")
    wait_until(lambda: not relay.degraded(), "nothing is degraded any more")
    print(f"taken again after {taken:.1f} s, sent after {drained:.1f} s")  # noqa: T201 - a figure of the run
    assert taken < 15
    assert drained < 30
    reasons = [json.loads(line)["event"] for line in web.log.read_text().splitlines() if "not_committed" in line]
    assert len(reasons) == len(set(reasons)), reasons
    assert len(deployment.seen()) == len(ids) + 2


def test_sessions_are_ended_under_load(new_deployment: NewDeployment, administer: Administrator) -> None:
    """Again and again, in the middle of commits: nobody is refused, nothing is lost, doubled or called a repetition."""
    deployment = new_deployment(2)
    database = make_url(deployment.url).database
    web = deployment.web()
    deployment.relay()
    load = LoadGenerator(lambda: web, senders=4)
    for _ in range(10):
        wait_until(partial(goes_on, load, len(load.accepted) + 20), "the load is on")
        administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    ids = load.stop()
    deployment.engine.dispose()
    deployment.wait_drained()
    deployment.check_exactly_once(ids)
    assert web.metric('outbox_webhook_requests_total{outcome="duplicate",secret="tests"}') == 0
