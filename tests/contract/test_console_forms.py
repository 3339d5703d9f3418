"""Forms and addresses as nobody should write them, on both databases: each has a page, and no row is changed."""

from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import Engine

from outbox.operators.change import Operations
from outbox.store import Store
from testkit.console import form_token, signed_in, start_console
from testkit.outbox import park, record, set_state, states
from testkit.rows import new_row

ODD = (
    "",
    " ",
    "0",
    "-1",
    "007",
    "1e3",
    "9223372036854775807",
    "9223372036854775808",
    "9" * 400,
    "\0",
    "a\0b",
    "\ud800",
    "\u202e",
    "٣",
    "²",
    "%",
    "_",
    "'; DROP TABLE outbox; --",
    "{{ 7 * 7 }}",
    "yesterday",
    "9999-12-31T23:59",
    "0001-01-01",
    "-0s",
    "../../etc/passwd",
    "//other.example",
    "x" * 5_000,
)
FORMS = {
    "/plans": ("verb", "ids", "state", "channel", "error", "since", "until", "like", "topic", "plan", "interaction"),
    "/rows": ("interaction", "address"),
    "/audit": ("head",),
    "/shards/pause": ("shard", "for", "reason"),
    "/shards/resume": ("shard", "reason"),
    "/rows/1/reveal": ("reason",),
}
VALID = {
    "/plans": {"verb": "retry", "state": "parked"},
    "/shards/pause": {"shard": "0", "for": "30m"},
    "/shards/resume": {"shard": "0"},
}
"""Fields that come with the odd one."""
PAGES = {
    "/rows": ("state", "channel", "error", "since", "until", "like", "by", "after"),
    "/calls": ("channel", "error", "since", "until", "after"),
    "/problems": ("error",),
    "/audit": ("after",),
}
PATHS = ("/rows/{}", "/rows/{}/kafka", "/plans/{}", "/changes/{}", "/changes/{}/proof")


@pytest.fixture
def console(engine: Engine) -> Iterator[Flask]:
    """Return a console on an outbox with a parked and a sent row."""
    store = Store(engine)
    ids = record(store, [new_row("i-1"), new_row("i-2")])
    park(store, engine, {ids[0]: "too large"})
    set_state(engine, "interaction_id = 'i-2'", "sent")
    with start_console(engine.url.render_as_string(hide_password=False)) as app:
        yield app


def encoded(text: str) -> bytes:
    """Return a text as bytes, a lone surrogate included."""
    return text.encode("utf-8", "surrogatepass")


def test_odd_forms_change_nothing(console: Flask, engine: Engine) -> None:
    """Each field of each form, with each odd value; once as a form and once as several parts."""
    client = signed_in(console, "custodian")
    token, before = form_token(client, "/"), states(engine)
    for path, names in FORMS.items():
        for name in names:
            for odd in ODD:
                fields = {"csrf_token": token, **VALID.get(path, {}), name: encoded(odd)}
                for kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
                    answer = client.post(path, data=fields, content_type=kind)
                    assert answer.status_code < 500, (path, name, odd)
    assert states(engine) == before
    acted = {entry.verb.partition(" ")[0] for entry in Operations(engine).audit()}
    assert acted <= {"pause", "resume", "reveal"}  # some of the odd values are reasons


def test_odd_addresses_have_a_page(console: Flask) -> None:
    """Each parameter of each page, and each id in a path."""
    client = signed_in(console, "custodian")
    for path, names in PAGES.items():
        for name in names:
            for odd in ODD:
                answer = client.get(path, query_string={name: encoded(odd)})
                assert answer.status_code in (200, 400), (path, name, odd)
    for path in PATHS:
        for odd in ODD:
            answer = client.get(path.format(_quoted(odd)))
            assert answer.status_code < 500, (path, odd)


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in encoded(text))
