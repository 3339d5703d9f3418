"""Confirmed plans over HTTP, on both databases: they act once, with a role, a reason and a token, on what was shown."""

import re
from collections.abc import Iterator
from time import time

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.console import form_token, signed_in, start_console
from testkit.outbox import park, record, set_state, states
from testkit.rows import new_row
from testkit.waiting import wait_until

ERROR = "too large"
ROLES = ("viewer", "operator", "custodian")
VERBS = {
    "retry": ({"state": "parked"}, "operator"),
    "discard": ({"state": "parked"}, "operator"),
    "replay": ({"state": "sent"}, "operator"),
    "replay --inference-only": ({"state": "sent"}, "operator"),
    "erase": ({"interaction": "i-1"}, "custodian"),
    "prune": ({"state": "sent"}, "custodian"),
}


@pytest.fixture
def now() -> list[float]:
    """Return the time of the console."""
    return [time()]


@pytest.fixture
def console(engine: Engine, now: list[float]) -> Iterator[Flask]:
    """Return a console on an outbox with two parked rows, a row behind one of them, and a sent row."""
    store = Store(engine)
    ids = record(store, [new_row("i-1"), new_row("i-1"), new_row("i-2"), new_row("i-3")])
    park(store, engine, {ids[0]: ERROR, ids[2]: ERROR})
    set_state(engine, "interaction_id = 'i-3'", "sent")
    with start_console(engine.url.render_as_string(hide_password=False), lambda: now[0]) as app:
        yield app


def plan(client: FlaskClient, **fields: str) -> str:
    """Plan, and return the address of the plan."""
    answer = client.post("/plans", data={"csrf_token": form_token(client, "/"), **fields})
    assert answer.status_code == 303, answer.get_data(as_text=True)
    return answer.location


def confirm(client: FlaskClient, address: str, **fields: str) -> TestResponse:
    """Send the form of a plan."""
    return client.post(address, data={"csrf_token": form_token(client, "/"), "reason": "the cause is gone", **fields})


def result(client: FlaskClient, address: str) -> str:
    """Return the page of a change that has ended."""

    def ended() -> str | None:
        body = client.get(address).get_data(as_text=True)
        return None if ">running<" in body else body

    body: str = wait_until(ended, "the change has ended")
    return body


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("role", ROLES)
def test_each_verb_takes_its_role(console: Flask, engine: Engine, role: str, verb: str) -> None:
    """Whoever lacks it gets 403 at the action, and nothing is changed; the others change the rows and are on record."""
    fields, needed = VERBS[verb]
    client = signed_in(console, role)
    before = states(engine)
    allowed = ROLES.index(role) >= ROLES.index(needed)
    if needed == "custodian" and not allowed:
        data = {"csrf_token": form_token(client, "/"), "verb": verb, **fields}
        assert client.post("/plans", data=data).status_code == 403
        return
    address = plan(client, verb=verb, **fields)
    count = re.findall(r'data-testid="plan-count">([0-9]+)<', client.get(address).get_data(as_text=True))[0]
    answer = confirm(client, address, count=count)
    if not allowed:
        assert answer.status_code == 403
        assert states(engine) == before
        assert 'data-testid="confirm"' not in client.get(address).get_data(as_text=True)
        return
    assert answer.status_code == 303
    assert f"{count} of {count} rows done" in result(client, answer.location)
    entry = next(reversed(list(Operations(engine).audit())))
    assert (entry.actor, entry.reason) == (f"{role} (console)", "the cause is gone")
    assert entry.verb.startswith(verb.partition(" ")[0])


def test_confirmed_twice_acts_once(console: Flask, engine: Engine) -> None:
    """The second click leads to the same change."""
    client = signed_in(console, "operator")
    address = plan(client, verb="retry", state="parked")
    first, second = confirm(client, address), confirm(client, address)
    assert first.location == second.location
    assert client.get(address).location == first.location
    result(client, first.location)
    assert len(list(Operations(engine).audit())) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reason": " "}, "say why"),
        ({"reason": "for ann@example.com"}, "not by an e-mail address"),
        ({"reason": "a\0b"}, "non-printable"),
        ({"rate": "0"}, "positive number"),
        ({"rate": "fast"}, "positive number"),
        ({"count": "3"}, "type the number of rows, 2"),
        ({"count": ""}, "type the number of rows, 2"),
    ],
)
def test_a_confirmation_that_cannot_be_used_changes_nothing(
    console: Flask, engine: Engine, fields: dict[str, str], message: str
) -> None:
    """The plan is shown again with what was typed and what is wrong with it, and can still be confirmed."""
    client = signed_in(console, "operator")
    address = plan(client, verb="discard", state="parked")
    answer = confirm(client, address, **{"count": "2", "rate": "7", **fields})
    body = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert message in body
    assert f'value="{fields.get("rate", "7")}"' in body
    assert list(states(engine).values()) == ["parked", "pending", "parked", "sent"]
    assert confirm(client, address, count="2").status_code == 303


def test_a_change_acts_on_what_was_shown(console: Flask, engine: Engine) -> None:
    """A row that somebody else has changed is left alone; one that came since is not touched. Both are said."""
    client = signed_in(console, "operator")
    address = plan(client, verb="discard", state="parked")
    operations, store = Operations(engine), Store(engine)
    context = AuditContext("somebody", "else", RowFilter())
    operations.retry([row.planned for row in operations.find(RowFilter(ids=(3,)))], context)
    later = record(store, [new_row("i-9")])
    park(store, engine, {later[0]: ERROR})
    body = result(client, confirm(client, address, count="2").location)
    assert "1 of 2 rows done" in body
    assert '<dd data-testid="skipped">1: somebody else' in body
    assert list(states(engine).values()) == ["discarded", "pending", "pending", "sent", "parked"]


def test_a_change_is_stopped_and_its_rest_planned(console: Flask, engine: Engine) -> None:
    """A slow change ends after the chunk in hand; the rest is planned without what came later."""
    client = signed_in(console, "operator")
    where = confirm(client, plan(client, verb="retry", state="parked"), rate="1").location
    wait_until(lambda: "1 of 2 rows" in client.get(where).get_data(as_text=True), "a row is done")
    token = form_token(client, "/")
    assert client.post(f"{where}/stop", data={"csrf_token": token}).status_code == 303
    body = result(client, where)
    assert "interrupted" in body
    assert '<dd data-testid="remaining">1</dd>' in body
    store = Store(engine)
    park(store, engine, {record(store, [new_row("i-9")])[0]: ERROR})
    rest = client.post(f"{where}/rest", data={"csrf_token": token}).location
    assert '<strong data-testid="plan-count">1</strong>' in client.get(rest).get_data(as_text=True)


def test_a_replay_goes_on_under_its_name(console: Flask, engine: Engine) -> None:
    """What a stopped replay has sent is not sent again by its rest."""
    client = signed_in(console, "operator")
    store = Store(engine)
    record(store, [new_row("i-8")])
    set_state(engine, "interaction_id = 'i-8'", "sent")
    where = confirm(client, plan(client, verb="replay", state="sent"), rate="1").location
    wait_until(lambda: "1 of 2 rows" in client.get(where).get_data(as_text=True), "a row is done")
    token = form_token(client, "/")
    client.post(f"{where}/stop", data={"csrf_token": token})
    result(client, where)
    rest = client.post(f"{where}/rest", data={"csrf_token": token}).location
    assert '<strong data-testid="plan-count">1</strong>' in client.get(rest).get_data(as_text=True)
    assert "2 of 2" not in result(client, confirm(client, rest).location)
    assert sum(row.replay_of is not None for row in Operations(engine).find(RowFilter())) == 2


def test_nobody_stops_a_change_without_its_role(console: Flask) -> None:
    """A viewer may watch it."""
    where = confirm(
        signed_in(console, "operator"),
        plan_of := plan(client := signed_in(console, "operator"), verb="retry", state="parked"),
    )
    assert where.status_code == 404, "a plan is of its session"
    where = confirm(client, plan_of, rate="1")
    viewer = signed_in(console, "viewer")
    assert viewer.get(where.location).status_code == 200
    token = form_token(viewer, "/")
    assert viewer.post(f"{where.location}/stop", data={"csrf_token": token}).status_code == 403
    assert viewer.post(f"{where.location}/rest", data={"csrf_token": token}).status_code == 403


def test_a_restart_between_plan_and_act_changes_nothing(console: Flask, engine: Engine, now: list[float]) -> None:
    """What was typed is shown again, and that nothing was done."""
    client = signed_in(console, "operator")
    address = plan(client, verb="retry", state="parked")
    now[0] += 15 * 60 + 1  # the plan is gone, as after a restart
    answer = confirm(client, address, reason="typed at night")
    assert answer.status_code == 404
    assert "typed at night" in answer.get_data(as_text=True)
    assert list(states(engine).values()).count("parked") == 2
    assert client.get("/changes/unknown").status_code == 404


def test_a_session_that_ended_loses_nothing_silently(console: Flask, engine: Engine, now: list[float]) -> None:
    """The answer says that nothing was done, and shows what was typed."""
    client = signed_in(console, "operator")
    address, token = plan(client, verb="retry", state="parked"), form_token(client, "/")
    now[0] += 31 * 60
    for _ in range(2):  # the first request ends the session, and with it the form's token
        answer = client.post(address, data={"csrf_token": token, "reason": "typed at night"})
        assert answer.status_code in (400, 401)
        assert "typed at night" in answer.get_data(as_text=True)
    assert list(states(engine).values()).count("parked") == 2


def test_without_a_token_nothing_acts(console: Flask, engine: Engine) -> None:
    """Neither does a form from another site."""
    client = signed_in(console, "operator")
    address = plan(client, verb="retry", state="parked")
    assert client.post(address, data={"reason": "no token"}).status_code == 400
    token = form_token(client, "/")
    foreign = {"Origin": "https://other.example"}
    assert client.post(address, data={"csrf_token": token, "reason": "x"}, headers=foreign).status_code == 403
    assert list(states(engine).values()).count("parked") == 2


def test_an_erasure_names_nobody_in_an_address(console: Flask, engine: Engine) -> None:
    """The person's address is in no location, and not on the page of the plan or of the change."""
    client = signed_in(console, "custodian")
    email = next(iter(_addresses(engine)))
    address = plan(client, verb="erase", address=email)
    page = client.get(address).get_data(as_text=True)
    count = re.findall(r'data-testid="plan-count">([0-9]+)<', page)[0]
    where = confirm(client, address, count=count).location
    for shown in (address, page, where, result(client, where)):
        assert email not in shown
    assert email not in _addresses(engine)


def test_an_address_is_found_with_the_spaces_that_were_copied_with_it(console: Flask, engine: Engine) -> None:
    """Otherwise a search, or an erasure, would say that there is nothing of this person."""
    client = signed_in(console, "custodian")
    email = f" {next(iter(_addresses(engine)))}\t"
    assert "/plans/" in plan(client, verb="erase", address=email)
    token = form_token(client, "/")
    assert client.post("/rows", data={"csrf_token": token, "address": email}).status_code == 303


def _addresses(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT customer_email FROM outbox").scalars()
        return {email for email in rows if email}


def test_more_rows_of_an_erased_person_are_looked_for(console: Flask, engine: Engine) -> None:
    """Rows may arrive while an erasure runs: its page plans again, and says when nothing is left."""
    client = signed_in(console, "custodian")
    where = confirm(client, plan(client, verb="erase", interaction="i-1"), count="2").location
    assert "Look for more rows of this person" in result(client, where)
    again = client.post(f"{where}/rest", data={"csrf_token": form_token(client, "/")})
    assert again.status_code == 400
    assert "is erased already" in again.get_data(as_text=True)
    record(Store(engine), [new_row("i-1")])
    more = client.post(f"{where}/rest", data={"csrf_token": form_token(client, "/")}).location
    assert '<strong data-testid="plan-count">1</strong>' in client.get(more).get_data(as_text=True)


def test_whose_data_is_erased_is_not_shown_to_others(console: Flask) -> None:
    """The command names the interaction, which the audit log does not: only who may erase sees it."""
    client = signed_in(console, "custodian")
    where = confirm(client, plan(client, verb="erase", interaction="i-1"), count="2").location
    assert "--interaction i-1" in result(client, where)
    assert "i-1" not in result(signed_in(console, "viewer"), where)
