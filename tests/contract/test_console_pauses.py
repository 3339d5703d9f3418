"""Pausing and resuming over HTTP, on both databases: as the commands do it, with a role and an end."""

import time
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from outbox.db.engine import create_outbox_engine
from outbox.operators import audit
from outbox.store import Store
from testkit.console import form_token, signed_in, start_console
from testkit.databases import NewDatabase
from testkit.html import part, read

PAUSE = {"shard": "1", "for": "30m", "reason": "broker upgrade"}
FORM = 'action="/shards/pause"'


@pytest.fixture
def engine(new_database: NewDatabase) -> Iterator[Engine]:
    """Return an engine on an outbox with two shards."""
    engine = create_outbox_engine(new_database(2))
    yield engine
    engine.dispose()


@pytest.fixture
def console(engine: Engine) -> Iterator[Flask]:
    """Return a console on this outbox."""
    with start_console(engine.url.render_as_string(hide_password=False)) as app:
        yield app


def send(client: FlaskClient, path: str, **fields: str) -> TestResponse:
    """Send a form."""
    return client.post(path, data={"csrf_token": form_token(client, "/"), **fields})


def pauses(engine: Engine) -> list[str | None]:
    """Return who paused each shard."""
    return [shard.paused_by for shard in Store(engine).status()]


def records(engine: Engine) -> list[tuple[str, str, str]]:
    """Return who did what and why."""
    return [(entry.actor, entry.verb, entry.reason) for entry in audit.entries(engine)]


@pytest.mark.parametrize("name", ["operator", "custodian"])
def test_a_shard_is_paused_for_a_time(console: Flask, engine: Engine, name: str) -> None:
    """The page says what was done, once, with the audit entry; the pause ends by itself."""
    client = signed_in(console, name)
    before_ms = time.time() * 1000
    answer = send(client, "/shards/pause", **PAUSE)
    assert (answer.status_code, answer.location) == (303, "/shards")
    body = read(client.get("/shards"))
    assert part(body, "result") == "paused shard 1 for 1800 s or until relay resume ( audit entry 1 )"
    assert "relay pause --shard 1 --for 30m --reason WHY" in body
    assert "broker upgrade" in part(body, "shard-1")
    assert pauses(engine) == [None, f"{name} (console)"]
    until_ms = Store(engine).status()[1].paused_until_ms
    assert until_ms is not None
    assert 1_700_000 < until_ms - before_ms < 1_900_000
    assert records(engine) == [(f"{name} (console)", "pause shard 1 for 1800 s", "broker upgrade")]
    assert 'data-testid="result"' not in read(client.get("/shards"))


def test_every_shard_is_paused_and_resumed(console: Flask, engine: Engine) -> None:
    """As by commands without a shard; what is not paused cannot be resumed."""
    client = signed_in(console, "operator")
    send(client, "/shards/pause", **{**PAUSE, "shard": "all"})
    assert "paused shards 0, 1 for 1800 s" in part(read(client.get("/shards")), "result")
    assert pauses(engine) == ["operator (console)"] * 2
    send(client, "/shards/resume", shard="0", reason="looks good")
    assert "resumed shard 0" in part(read(client.get("/shards")), "result")
    send(client, "/shards/resume", shard="all", reason="upgrade done")
    assert pauses(engine) == [None, None]
    assert [verb for _, verb, _ in records(engine)] == [
        "pause every shard for 1800 s",
        "resume shard 0",
        "resume every shard",
    ]
    assert "shard 0 is not paused" in read(send(client, "/shards/resume", shard="0", reason="again"), 400)
    assert "nothing is paused" in read(send(client, "/shards/resume", shard="all", reason="again"), 400)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shard": ""}, "expected all, or the number of a shard"),
        ({"shard": "one"}, "expected all, or the number of a shard"),
        ({"shard": "7"}, "no such shard: 7"),
        ({"for": ""}, "is not a duration"),
        ({"for": "soon"}, "is not a duration"),
        ({"for": "0s"}, "is not a duration"),
        ({"for": "53w"}, "is too long: at most 52w"),
        ({"reason": " "}, "say why"),
        ({"reason": "asked by ann@example.com"}, "not by an e-mail address"),
    ],
)
def test_what_cannot_be_used_changes_nothing(
    console: Flask, engine: Engine, changed: dict[str, str], message: str
) -> None:
    """The message is next to its field, and the form keeps the rest of what was typed."""
    body = read(send(signed_in(console, "operator"), "/shards/pause", **{**PAUSE, **changed}), 400)
    (field,) = changed
    assert message in body.partition(f'id="{field}-error"')[2].partition("</small>")[0]
    kept = {**PAUSE, **changed}
    assert f'value="{kept["for"]}"' in body
    assert f'value="{kept["reason"]}"' in body
    assert pauses(engine) == [None, None]
    assert records(engine) == []


@pytest.mark.parametrize("path", ["/shards/pause", "/shards/resume"])
def test_a_viewer_neither_pauses_nor_resumes(console: Flask, engine: Engine, path: str) -> None:
    """Whatever is sent; the page has no form."""
    send(signed_in(console, "operator"), "/shards/pause", **{**PAUSE, "shard": "0"})
    client = signed_in(console, "viewer")
    assert FORM not in read(client.get("/shards"))
    read(send(client, path, **{**PAUSE, "shard": "all"}), 403)
    assert pauses(engine) == ["operator (console)", None]


@pytest.mark.parametrize("path", ["/shards/pause", "/shards/resume"])
def test_a_form_without_its_token_does_nothing(console: Flask, engine: Engine, path: str) -> None:
    """As every form of the console."""
    read(signed_in(console, "operator").post(path, data=PAUSE), 400)
    assert records(engine) == []


def test_the_form_is_not_replaced_while_somebody_types(console: Flask) -> None:
    """It is outside of the part that keeps itself current."""
    client = signed_in(console, "operator")
    assert FORM in read(client.get("/shards"))
    assert FORM not in client.get("/shards", headers={"HX-Request": "true"}).get_data(as_text=True)
