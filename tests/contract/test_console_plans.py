"""Plans over HTTP, on both databases: what they show, whose they are, and that they change nothing."""

from collections.abc import Iterator
from time import time

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from outbox.operators.change import Operations
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.console import form_token, signed_in, start_console
from testkit.outbox import park, record
from testkit.rows import new_row

ERROR = "<b>too large</b>"


@pytest.fixture
def now() -> list[float]:
    """Return the time of the console."""
    return [time()]


@pytest.fixture
def console(engine: Engine, now: list[float]) -> Iterator[Flask]:
    """Return a console on an outbox with two parked rows, one of them with a row waiting behind it."""
    store = Store(engine)
    ids = record(store, [new_row("i-1"), new_row("i-1"), new_row("i-2")])
    park(store, engine, {ids[0]: ERROR, ids[2]: "other"})
    with start_console(engine.url.render_as_string(hide_password=False), lambda: now[0]) as app:
        yield app


def plan(client: FlaskClient, **fields: str) -> TestResponse:
    """Send the form of a plan."""
    return client.post("/plans", data={"csrf_token": form_token(client, "/"), **fields})


@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_a_plan_shows_what_would_happen(console: Flask, engine: Engine, verb: str) -> None:
    """Count, rows, consequences and the command; texts stay texts, and no row changes."""
    client = signed_in(console, "viewer")
    answer = plan(client, verb=verb, state="parked", error="too large")
    assert answer.status_code == 303
    body = client.get(answer.location).get_data(as_text=True)
    assert '<strong data-testid="plan-count">1</strong>' in body
    assert "(1 now)" in body
    assert f"relay {verb} --state parked --error" in body
    assert ERROR not in body
    assert [row.state for row in Operations(engine).find(RowFilter(state="parked"))] == ["parked"] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verb": "retry"}, "nothing is selected"),
        ({"ids": "1"}, "choose what to do"),
        ({"verb": "drop", "ids": "1"}, "expected retry"),
        ({"verb": "retry", "ids": "", "state": "parked"}, "nothing is selected"),
        ({"verb": "replay", "state": "sent", "topic": "other"}, "is not in KAFKA_REPLAY_TOPICS"),
        ({"verb": "replay", "ids": "1", "plan": "a b"}, "letters, digits, hyphens"),
        ({"verb": "retry", "like": "999"}, "the outbox has no row 999"),
        ({"verb": "retry", "ids": "x"}, "outbox ids"),
        ({"verb": "retry", "ids": "999"}, "no row matches"),
        ({"verb": "retry", "state": "sent"}, "retry takes parked rows only"),
        ({"verb": "retry", "error": "a\0"}, "NUL"),
    ],
)
def test_what_cannot_be_planned_is_said(console: Flask, fields: dict[str, str], message: str) -> None:
    """A page with the reason, never an empty plan."""
    answer = plan(signed_in(console, "viewer"), **fields)
    assert answer.status_code == 400
    assert message in answer.get_data(as_text=True)


def test_a_plan_is_of_its_session(console: Flask) -> None:
    """Another session of the same user does not see it, and is told what to do."""
    address = plan(signed_in(console, "viewer"), verb="retry", state="parked").location
    answer = signed_in(console, "viewer").get(address)
    assert answer.status_code == 404
    assert "plan again" in answer.get_data(as_text=True)


def test_an_old_plan_is_gone(console: Flask, now: list[float]) -> None:
    """After 15 minutes the page says so."""
    client = signed_in(console, "viewer")
    address = plan(client, verb="retry", state="parked").location
    now[0] += 15 * 60 + 1
    assert client.get(address).status_code == 404


def test_pages_offer_what_the_state_permits(console: Flask) -> None:
    """The list and the row's page offer verbs for parked rows, and none for pending ones."""
    client = signed_in(console, "viewer")
    for path, offered in (("/rows?state=parked", 2), ("/rows/1", 1), ("/rows?state=pending", 0), ("/rows/2", 0)):
        body = client.get(path).get_data(as_text=True)
        for verb in ("retry", "discard"):
            assert body.count(f'name="verb" value="{verb}"') == offered, path
        assert 'value="replay"' not in body, path


def test_rows_are_selected_by_their_boxes(console: Flask) -> None:
    """A plan has the rows that were ticked and no others."""
    client = signed_in(console, "viewer")
    assert 'type="checkbox" id="select-3"' in client.get("/rows?state=parked").get_data(as_text=True)
    answer = client.post(
        "/plans", data={"csrf_token": form_token(client, "/"), "verb": "retry", "ids": ["", "3"], "state": "parked"}
    )
    body = client.get(answer.location).get_data(as_text=True)
    assert '<strong data-testid="plan-count">1</strong>' in body
    assert 'data-testid="row-3"' in body


def test_all_rows_of_an_interaction_are_planned_by_one_of_them(console: Flask) -> None:
    """The address of the list has the id of a row; the plan has the parked rows of its interaction."""
    client = signed_in(console, "viewer")
    body = client.get(plan(client, verb="discard", like="2").location).get_data(as_text=True)
    assert 'data-testid="row-1"' in body
    assert 'data-testid="row-3"' not in body
