"""The content of rows over HTTP, on both databases: who sees it, and that it is on record first."""

import json
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.console import form_token, signed_in, start_console
from testkit.html import part, read
from testkit.outbox import planned, record
from testkit.rows import new_row

PAYLOAD = b'{"id": "i-1", "note": "<script>secret-body</script> \xe2\x80\xae"}'
PERSONAL = ("someone@example.com", "agent-7", "secret-body")
FORM = 'action="/rows/1/reveal"'


@pytest.fixture
def console(engine: Engine) -> Iterator[Flask]:
    """Return a console on an outbox with one row."""
    record(Store(engine), [new_row("i-1", payload=PAYLOAD)])
    with start_console(engine.url.render_as_string(hide_password=False)) as app:
        yield app


def reveal(client: FlaskClient, reason: str = "request 17", row_id: str = "1") -> TestResponse:
    """Send the form."""
    return client.post(f"/rows/{row_id}/reveal", data={"csrf_token": form_token(client, "/"), "reason": reason})


def personal(body: str) -> list[str]:
    """Return the personal data on a page."""
    return [value for value in PERSONAL if value in body]


def test_a_custodian_sees_the_content_on_record(console: Flask, engine: Engine) -> None:
    """With the audit entry that says who saw it and why; the page ends by itself, and the row stays masked."""
    client = signed_in(console, "custodian")
    response = reveal(client)
    body = read(response)
    (entry,) = Operations(engine).audit(1)
    assert (entry.actor, entry.verb, entry.reason) == ("custodian (console)", "reveal", "request 17")
    assert (json.loads(entry.row_ids), json.loads(entry.filter)) == ([1], {"ids": [1]})
    assert f"audit entry {entry.id}" in part(body, "result")
    assert part(body, "customer") == "someone@example.com"
    assert part(body, "agent") == "agent-7"
    assert response.headers["Cache-Control"] == "no-store"
    assert '<noscript><meta http-equiv="refresh" content="60; url=/rows/1"></noscript>' in body
    assert 'id="revealed" data-seconds="60" data-next="/rows/1"' in body
    for path in ("/rows/1", "/rows", "/audit", "/"):
        assert personal(read(client.get(path))) == [], path


def test_json_is_indented_and_stays_text(console: Flask) -> None:
    """Markup is escaped, and what turns the direction of text is shown as its number."""
    body = read(reveal(signed_in(console, "custodian")))
    assert "{\n  &#34;id&#34;: &#34;i-1&#34;,\n" in body
    assert "&lt;script&gt;secret-body&lt;/script&gt; \\u202e" in body
    assert "<script>secret" not in body


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_nobody_else_sees_the_content(console: Flask, engine: Engine, role: str) -> None:
    """Neither the form nor, if it is sent all the same, the content; nothing is on record."""
    client = signed_in(console, role)
    assert FORM not in read(client.get("/rows/1"))
    assert personal(read(reveal(client), 403)) == []
    assert list(Operations(engine).audit()) == []
    assert FORM in read(signed_in(console, "custodian").get("/rows/1"))


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("", "say why"),
        ("   ", "say why"),
        ("request of ann@example.com", "not by an e-mail address"),
        ("line\nanother", "non-printable"),
        ("x" * 1_001, "the maximum is 1000"),
    ],
)
def test_without_a_reason_nothing_is_shown(console: Flask, engine: Engine, reason: str, message: str) -> None:
    """The message is next to the field, which keeps what was typed."""
    body = read(reveal(signed_in(console, "custodian"), reason), 400)
    assert personal(body) == []
    assert message in body.partition('id="reason-error"')[2].partition("</small>")[0]
    assert FORM in body
    assert f'value="{reason}"' in body
    assert list(Operations(engine).audit()) == []


def test_a_form_without_its_token_shows_nothing(console: Flask, engine: Engine) -> None:
    """As every form of the console."""
    response = signed_in(console, "custodian").post("/rows/1/reveal", data={"reason": "request 17"})
    assert personal(read(response, 400)) == []
    assert list(Operations(engine).audit()) == []


def test_what_cannot_be_recorded_is_not_shown(console: Flask, engine: Engine) -> None:
    """The entry is written first."""
    client = signed_in(console, "custodian")
    token = form_token(client, "/")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_audit RENAME TO lost"))
    response = client.post("/rows/1/reveal", data={"csrf_token": token, "reason": "request 17"})
    assert response.status_code >= 500
    assert personal(response.get_data(as_text=True)) == []


@pytest.mark.parametrize(("row_id", "status"), [("2", 404), ("x", 400)])
def test_a_row_that_does_not_exist_has_no_content(console: Flask, engine: Engine, row_id: str, status: int) -> None:
    """Nothing is on record."""
    assert 'role="alert"' in read(reveal(signed_in(console, "custodian"), row_id=row_id), status)
    assert list(Operations(engine).audit()) == []


def test_erased_content_is_gone(console: Flask, engine: Engine) -> None:
    """The page says so; what stays in the row is shown."""
    operations = Operations(engine)
    operations.erase(planned(operations), AuditContext("ann", "request 16", RowFilter()))
    body = read(reveal(signed_in(console, "custodian")))
    assert (part(body, "payload"), part(body, "customer"), part(body, "agent")) == ("erased", "none", "agent-7")


def test_content_is_not_logged(console: Flask) -> None:
    """Nor the reason, which is in the audit log."""
    client = signed_in(console, "custodian")
    with capture_logs() as lines:
        assert reveal(client).status_code == 200
    assert personal(repr(lines)) == []
    assert "request 17" not in repr(lines)


def test_the_form_is_not_replaced_while_somebody_types(console: Flask) -> None:
    """It is outside of the part that keeps itself current."""
    assert FORM not in signed_in(console, "custodian").get("/rows/1", headers={"HX-Request": "true"}).get_data(
        as_text=True
    )
