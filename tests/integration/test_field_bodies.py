"""Requests as real senders write them: each line of ``field_bodies.jsonl`` is one, with its expected result."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outbox.db.engine import create_outbox_engine
from testkit.web_fixtures import web_on_sqlite
from testkit.web_process import PATH, SECRET, WebProcess

CASES = [json.loads(line) for line in Path(__file__).with_name("field_bodies.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def web_and_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebProcess, str]]:
    """One web process for all requests, each of which is another interaction."""
    with web_on_sqlite(tmp_path_factory.mktemp("field")) as found:
        yield found


def stored(url: str, outbox_id: int) -> dict[str, Any]:
    """The columns of a row."""
    engine = create_outbox_engine(url)
    with engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT * FROM outbox WHERE id = ?", (outbox_id,)).mappings().one()
        found = dict(row)
    engine.dispose()
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_request_from_the_field(web_and_url: tuple[WebProcess, str], case: dict[str, Any]) -> None:
    """Its status, the text of the response, and the stored row, whose payload is the body byte for byte."""
    web, url = web_and_url
    body = base64.b64decode(case["body_base64"])
    headers = {"Host": "x", "X-CXone-Webhook-Secret": SECRET, **case["headers"], "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    answer = web.raw(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body)
    assert answer.status == case["status"], answer.body
    assert [text for text in case["says"] if text not in answer.body.decode()] == [], answer.body
    if answer.status == 202:
        row = stored(url, answer.json["outboxId"])
        assert {name: row[name] for name in case["stored"]} == case["stored"]
        assert row["payload"] == body
        assert "duplicate" not in answer.json


@pytest.mark.parametrize(
    ("content_type", "body", "metric"),
    [
        ("application/x-www-form-urlencoded", b'{"id": "form", "channel": "v"}', "outbox_webhook_form_labelled_total"),
        ("application/json", b'{"id": "{contactId}", "channel": "w"}', "outbox_webhook_placeholders_total"),
    ],
)
def test_probable_mistakes_are_accepted_and_counted(
    web_and_url: tuple[WebProcess, str], content_type: str, body: bytes, metric: str
) -> None:
    """JSON with a content type of form data, and placeholders instead of values."""
    web, _ = web_and_url
    before = web.metric(metric)
    assert web.post(body, Content_Type=content_type).status_code == 202
    assert web.metric(metric) == before + 1


def test_a_guid_in_braces_is_not_a_placeholder(web_and_url: tuple[WebProcess, str]) -> None:
    """Windows writes GUIDs in braces."""
    web, _ = web_and_url
    before = web.metric("outbox_webhook_placeholders_total")
    body = {"id": "{0C9619FF-8B86-D011-B42D-00C04FC964FF}", "channel": "v"}
    assert web.post(body).status_code == 202
    assert web.metric("outbox_webhook_placeholders_total") == before
