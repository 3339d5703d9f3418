"""The console's pages over HTTP, on both databases: what each shows, and how it refuses what it cannot use."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from flask import render_template
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text
from werkzeug.test import TestResponse

from outbox.leases import Leases
from outbox.models import StoredVerdict
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.pause import pause_shards
from outbox.operators.row_history import RowHistories
from outbox.operators.rows import RowFilter
from outbox.store import Store
from relay.kafka.row_verification import KafkaRecord
from testkit.console import form_token, sign_in, start_console
from testkit.console_rows import HOSTILE, PERSONAL
from testkit.html import WellFormed, part, read
from testkit.outbox import park, park_calls, planned, record, set_state
from testkit.rows import new_row, new_rows

PAGES = ("/", "/problems", "/rows", "/rows/1", "/rows/1/kafka", "/calls", "/shards", "/audit", "/check")
CONTEXT = AuditContext("ann", "topic limit raised", RowFilter())


class Console(NamedTuple):
    """A console with a reader who is signed in, and the outbox that it shows."""

    client: FlaskClient
    engine: Engine
    store: Store
    operations: Operations

    def get(self, path: str, status: int = 200) -> str:
        """Return a page as text, after checking its status and that it is well formed."""
        return read(self.client.get(path), status)


@pytest.fixture
def console(engine: Engine) -> Iterator[Console]:
    """Return a console on a fresh database with one shard."""
    url = engine.url.render_as_string(hide_password=False)
    with start_console(url) as app:
        client = app.test_client()
        sign_in(client)
        yield Console(client, engine, Store(engine), Operations(engine))


def fill(console: Console) -> list[int]:
    """Record six rows, one of each kind: parked, waiting behind it, discarded, replayed, the replay, pending."""
    ids = record(console.store, [new_row("i-1"), new_row("i-1"), new_row("i-2"), new_row("i-3"), new_row("i-4")])
    park(console.store, console.engine, {ids[0]: "refused: too large (MSG_SIZE_TOO_LARGE): raise it", ids[2]: "no"})
    console.operations.discard(planned(console.operations, ids=(ids[2],)), CONTEXT)
    set_state(console.engine, f"id = {ids[3]}", "sent")
    console.operations.replay("plan", planned(console.operations, ids=(ids[3],)), CONTEXT)
    return [row.id for row in console.operations.find(RowFilter())]


# The overview --------------------------------------------------------------------------------------


def test_an_idle_outbox_is_ok(console: Console) -> None:
    """One word, no reasons, no backlog."""
    Leases(console.engine, "relay-1", 600).take(0)
    body = console.get("/")
    assert part(body, "health") == "ok"
    assert part(body, "backlog") == "0"
    assert "relay-1" in part(body, "shard-0")
    assert 'data-testid="reason"' not in body


def test_the_last_verdict_on_the_topic_is_shown(console: Console) -> None:
    """What it found, in how many rows of which time, and when; a later verdict replaces it."""
    assert 'data-testid="verdict"' not in console.get("/")
    console.store.store_verdict(StoredVerdict(1_700_000_000_000, 1, 2, True, 12_345, {"missing": 2, "out_of_order": 1}))
    shown = part(console.get("/"), "verdict")
    assert "2 missing, 1 out of order in 12,345 rows" in shown
    assert "with values" in shown
    assert "2023-11-14" in shown
    console.store.store_verdict(StoredVerdict(1_700_000_000_000, 1, 2, False, 7, {}))
    assert "no fault in 7 rows" in part(console.get("/"), "verdict")


def test_rows_that_nobody_sends_are_stuck(console: Console) -> None:
    """The word comes with its reason and its remedy; the oldest row and the time to drain are shown."""
    record(console.store, new_rows(3))
    body = console.get("/")
    assert part(body, "health") == "stuck"
    assert "shard 0 : no relay sends the rows Remedy: start a relay" in part(body, "reason")
    assert part(body, "backlog") == "3"
    assert part(body, "oldest").endswith("s")
    assert part(body, "drain").startswith("unknown")


def test_a_pause_is_shown_with_the_command_that_ends_it(console: Console) -> None:
    """Who paused it and why; the reason is text."""
    Leases(console.engine, "relay-1", 600).take(0)
    pause_shards(console.engine, 0, 3600, AuditContext("ann", "<b>upgrade</b>", RowFilter()))
    body = console.get("/")
    assert part(body, "health") == "degraded"
    assert "paused by ann: &lt;b&gt;upgrade" in part(body, "reason")
    assert "relay resume --shard 0 --reason WHY" in body
    assert "pause shard 0 for 3600 s" in part(body, "entry-1")


def test_parked_rows_and_calls_are_degraded(console: Console) -> None:
    """Both link to the page that helps."""
    fill(console)
    Leases(console.engine, "relay-1", 600).take(0)
    with console.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO outbox_inference_call (row_id, interaction_id, due_at) VALUES (4, 'i', 1)")
        )
    park_calls(console.engine, [4], 1)
    body = console.get("/")
    assert part(body, "health") == "degraded"
    assert "1 parked, 1 waiting behind them" in body
    assert 'href="/problems"' in body
    assert part(body, "calls") == "0 due, 1 parked"


# Problems ------------------------------------------------------------------------------------------


def test_a_problem_has_its_count_and_its_remedy(console: Console) -> None:
    """The remedy in the error is shown apart from its cause, with the command to plan a retry."""
    fill(console)
    body = console.get("/problems")
    (problem,) = re.findall(r'<tr data-testid="problem">.*?</tr>', body, re.DOTALL)
    assert "refused: too large (MSG_SIZE_TOO_LARGE)</bdi>" in problem
    assert ">raise it</bdi>" in problem
    assert re.findall(r"<td>(\d+)</td>", problem) == ["1", "1"]
    assert "relay retry --error" in problem
    assert 'data-testid="problem"' not in console.get("/problems?error=nothing")
    assert 'data-testid="problem"' in console.get("/problems?error=msg_size")


def test_parked_calls_are_problems_too(console: Console) -> None:
    """They are grouped by the error of the call."""
    record(console.store, new_rows(3))
    set_state(console.engine, "id > 0", "sent")
    with console.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO outbox_inference_call (row_id, interaction_id, due_at) SELECT id, 'i', 1 FROM outbox")
        )
    park_calls(console.engine, [1, 2], 1)
    assert "HTTP #" in part(console.get("/problems"), "problem")
    calls = console.get("/calls?error=422")
    assert "HTTP 422" in part(calls, "row-2")
    assert part(calls, "calls") == "1 due, 2 parked"
    assert "relay inference list --error 422" in calls
    assert 'data-testid="row-2"' not in console.get("/calls?error=500")


# Rows ----------------------------------------------------------------------------------------------


def test_each_state_is_a_word_and_can_be_filtered(console: Console) -> None:
    """A page shows what its filter selects, and the command that lists the same rows."""
    ids = fill(console)
    everything = console.get("/rows")
    assert re.findall(r'data-testid="row-(\d+)"', everything) == [str(each) for each in reversed(ids)]
    for state, expected in {"parked": [1], "pending": [6, 5, 2], "discarded": [3], "sent": [4]}.items():
        body = console.get(f"/rows?state={state}")
        assert re.findall(r'data-testid="row-(\d+)"', body) == [str(each) for each in expected]
        assert f">{state}</span>" in body
        assert f"relay list --state {state}" in body
    assert "MSG_SIZE_TOO_LARGE" in part(console.get("/rows?error=size"), "row-1")
    assert 'data-testid="row-' not in console.get("/rows?channel=chat")
    assert 'data-testid="row-' not in console.get("/rows?until=2020-01-01T00:00Z")


def test_times_are_absolute_and_have_an_age(console: Console) -> None:
    """Neither alone is enough: an age says how urgent, a time what else happened then."""
    record(console.store, [new_row()])
    times = re.findall(
        r'<time datetime="([^"]+)">([^<]+)</time> <span class="age">\(([^)]+) ago\)', console.get("/rows")
    )
    assert times
    for machine, shown, age in times:
        assert machine == shown.replace(" UTC", "Z").replace(" ", "T")
        assert re.fullmatch(r"[0-9.]+ ?\w+", age), age


def test_pages_follow_one_another(console: Console) -> None:
    """The link to older rows keeps the filter, and the last page has none."""
    record(console.store, new_rows(60))
    first = console.get("/rows?channel=voice")
    (link,) = re.findall(r'rel="next" href="([^"]+)"', first)
    assert link.replace("&amp;", "&") in ("/rows?after=11&channel=voice", "/rows?channel=voice&after=11")
    second = console.get(link.replace("&amp;", "&"))
    assert re.findall(r'data-testid="row-(\d+)"', second) == [str(each) for each in range(10, 0, -1)]
    assert 'rel="next"' not in second


def test_a_search_puts_no_personal_data_into_the_address(console: Console) -> None:
    """A row stands for its interaction or its customer."""
    fill(console)
    found = post(console, "/rows", interaction="i-1")
    assert (found.status_code, found.location) == (303, "/rows?like=2")
    body = console.get("/rows?like=2")
    assert re.findall(r'data-testid="row-(\d+)"', body) == ["2", "1"]
    found = post(console, "/rows", address="Someone@example.com")
    assert found.location == "/rows?like=6&by=address"
    assert "someone" not in console.get("/rows?like=6&by=address")
    missing = read(post(console, "/rows", interaction="nobody"), 400)
    assert "no row has this interaction id" in missing
    read(post(console, "/rows"), 400)
    read(post(console, "/rows", interaction="a", address="b"), 400)
    read(post(console, "/rows", interaction="a\0"), 400)


def post(console: Console, path: str, **fields: str) -> TestResponse:
    """Send a form as a page sends it."""
    return console.client.post(path, data={"csrf_token": form_token(console.client, path), **fields})


def test_a_row_shows_its_life(console: Console) -> None:
    """What each row waits for, what it is a replay of, and who changed it."""
    fill(console)
    assert "1 row of its interaction waiting behind it" in console.get("/rows/1")
    waiting = console.get("/rows/2")
    assert "waits for" in waiting
    assert 'href="/rows/1"' in waiting
    discarded = console.get("/rows/3")
    assert "discard by ann" in discarded
    assert "topic limit raised (entry 1)" in discarded
    assert "relay replay --state discarded --id 3 --dry-run" in discarded
    sent = console.get("/rows/4")
    assert "marked sent" in sent
    assert "replayed as" in sent
    assert "replay of" in console.get("/rows/6")
    assert part(console.get("/rows/4"), "row-4") == "sent"
    assert console.client.get("/rows/%234").status_code == 200


def test_content_is_masked_everywhere(console: Console) -> None:
    """Neither body, address nor agent is on any page."""
    record(console.store, [new_row("i-1", payload=b'{"x": "secret-body"}')])
    for path in PAGES:
        body = console.get(path)
        assert [value for value in (*PERSONAL, "secret-body") if value in body] == [], path


def test_without_kafka_the_record_is_not_looked_up(console: Console) -> None:
    """The part is loaded after the page, works as a page of its own, and names what is missing."""
    fill(console)
    assert 'hx-get="/rows/1/kafka"' in console.get("/rows/1")
    assert "not looked up" in part(console.get("/rows/1/kafka"), "kafka")
    fragment = console.client.get("/rows/1/kafka", headers={"HX-Request": "true"}).get_data(as_text=True)
    assert "not looked up" in fragment
    assert "<html" not in fragment


def test_a_record_is_shown_with_its_comparison(console: Console) -> None:
    """Partition, offset and headers as text; what differs is named, without the values."""
    (row_id,) = record(console.store, [new_row("i-1")])
    history = RowHistories(console.engine).get(row_id)
    assert history is not None
    headers = {"outbox-id": "1", "traceparent": "<b>"}
    record_fields = {
        "topic": "t",
        "partition": 3,
        "offset": 7,
        "timestamp_ms": 1,
        "value": "9 bytes",
        "headers": headers,
    }
    found = KafkaRecord("relay-01", record_fields, looked_up=True)
    shown = {
        "compare the record with the row": found,
        "the record matches the row": found._replace(differences={}),
        "different in channel": found._replace(differences={"channel": ("voice", "chat")}),
        "not compared: the registry is away": found._replace(not_compared="the registry is away"),
    }
    with console.client.application.test_request_context("/rows/1/kafka"):
        for text_shown, kafka in shown.items():
            body = render_template("pages/_record.html", row=history.row, kafka=kafka)
            WellFormed().check(body)
            assert "partition 3, offset 7" in part(body, "kafka")
            assert text_shown in part(body, "kafka")
            assert "&lt;b&gt;" in body
            assert "chat" not in body


@pytest.mark.parametrize(("path", "status"), [("/rows/7", 404), ("/rows/x", 400), (f"/rows/{10**30}", 400)])
def test_a_row_that_does_not_exist_is_said_so(console: Console, path: str, status: int) -> None:
    """The page names the id, or what is expected."""
    assert 'role="alert"' in console.get(path, status)
    console.get(f"{path}/kafka", status)


# Shards, audit, check ------------------------------------------------------------------------------


def test_shards_show_owners_pauses_and_relays(console: Console) -> None:
    """A relay that has joined is listed with its state."""
    leases = Leases(console.engine, "relay-1", 600)
    leases.heartbeat(healthy=True)
    leases.take(0)
    pause_shards(console.engine, 0, None, AuditContext("ann", "drill", RowFilter()))
    body = console.get("/shards")
    assert "relay-1" in part(body, "shard-0")
    assert "paused by ann : drill , until it is resumed" in part(body, "shard-0")
    assert part(body, "relay") == "relay-1 healthy"


def test_the_audit_log_shows_the_newest_first_and_can_be_verified(console: Console) -> None:
    """A noted hash must still be there; a changed entry breaks the chain."""
    record(console.store, new_rows(60))
    set_state(console.engine, "id > 0", "parked")
    for row in planned(console.operations, state="parked"):
        console.operations.retry([row], CONTEXT)
    body = console.get("/audit")
    assert re.findall(r'data-testid="entry-(\d+)"', body)[:2] == ["60", "59"]
    assert 'data-testid="entry-10"' in console.get("/audit?after=11")
    (noted, *_) = re.findall(r'class="hash">([0-9a-f]{64})<', body)
    assert f"verified entries: 60; last hash: {noted}" in part(read(post(console, "/audit")), "result")
    assert "verified entries: 60" in part(read(post(console, "/audit", head=noted)), "result")
    assert "no entry has the hash" in part(read(post(console, "/audit", head="0" * 64)), "result")
    assert "expected a hash" in read(post(console, "/audit", head="xyz"), 400)
    with console.engine.begin() as connection:
        connection.execute(text("UPDATE outbox_audit SET reason = 'another' WHERE id = 30"))
    assert "entry 30 or the one before it was changed" in part(read(post(console, "/audit")), "result")


def test_the_checks_run_on_demand(console: Console) -> None:
    """Before the first run there are no findings; afterwards each has its verdict and its remedy."""
    assert 'data-testid="finding"' not in console.get("/check")
    assert post(console, "/check").status_code == 303
    body = console.get("/check")
    assert 'data-testid="finding"' in body
    assert "failures" in part(body, "result")


# What all pages share ------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_senders_wrote_is_text(console: Console, hostile: str) -> None:
    """It is isolated, escaped, and cannot turn the direction of the page."""
    record(console.store, [new_row(hostile, channel=hostile), new_row("i-2")])
    park(console.store, console.engine, {1: hostile})
    context = AuditContext("ann", hostile, RowFilter(error=hostile))
    console.operations.retry(planned(console.operations, state="parked"), context)
    park(console.store, console.engine, {1: hostile})
    for path in ("/", "/problems", "/rows", "/rows/1", "/audit"):
        body = console.get(path)
        assert "<script>alert" not in body
        assert "<img" not in body
        assert ">49<" not in body
        assert not set(body) & {"\u202e", "\u2066", "\u200f"}, path
    assert '<bdi class="text">' in console.get("/rows/1")
    typed = console.client.get("/rows", query_string={"error": hostile, "since": hostile})
    assert "<script>alert" not in read(typed, 400)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/rows?after=x", "after"),
        ("/rows?after=99999999999999999999", "after"),
        ("/rows?state=lost", "state"),
        ("/rows?since=soon", "since"),
        ("/rows?since=1h&until=2h", "since"),
        ("/rows?channel=%00", "channel"),
        ("/rows?error=%00", "error"),
        ("/rows?like=x", "like"),
        ("/rows?by=address", "like"),
        ("/rows?like=1&by=phone", "by"),
        ("/calls?until=31.01.", "until"),
        ("/calls?after=-1", "after"),
        ("/audit?after=x", "after"),
        ("/problems?error=%00", "error"),
    ],
)
def test_bad_input_is_a_message_next_to_its_field(console: Console, path: str, field: str) -> None:
    """The status is 400, and the rest of the page stays usable."""
    body = console.get(path, 400)
    assert f'id="{field}-error"' in body or f"<code>{field}</code>" in body
    assert "</form>" in body


@pytest.mark.parametrize("path", ["/rows?channel=%ff%fe", "/rows?error=%ed%a0%80", "/problems?error=%c0%80"])
def test_bytes_that_are_no_text_do_no_harm(console: Console, path: str) -> None:
    """They are replaced, and select nothing."""
    console.get(path)


@pytest.mark.parametrize("path", ["/", "/problems", "/rows", "/rows/1", "/calls", "/shards", "/audit"])
def test_a_poll_returns_the_live_part_only_if_it_has_changed(console: Console, path: str) -> None:
    """It says when it was read; with the tag of what is shown the answer is 304."""
    record(console.store, new_rows(1))
    with console.engine.begin() as connection:  # ages of a year do not change between two polls
        connection.execute(text("UPDATE outbox SET received_at = 1000"))
    page = console.get(path)
    (tag,) = re.findall(r"""data-etag='([^']+)'""", page)
    poll = console.client.get(path, headers={"HX-Request": "true"})
    body = read(poll)
    assert "<html" not in body
    assert re.search(r"as of <time[^>]*>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC</time>", body)
    assert poll.headers["ETag"] == tag
    again = console.client.get(path, headers={"HX-Request": "true", "If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    record(console.store, new_rows(1))
    park(console.store, console.engine, {1: "refused"})
    changed = console.client.get(path, headers={"HX-Request": "true", "If-None-Match": tag})
    assert changed.status_code == (304 if path in ("/calls", "/audit") else 200)


@pytest.mark.parametrize(
    "path", ["/", "/problems", "/rows", "/rows?state=sent", "/rows/1", "/calls", "/shards", "/audit"]
)
def test_no_page_needs_many_statements(console: Console, path: str) -> None:
    """The number of statements does not follow the number of rows, and none counts sent rows."""
    record(console.store, new_rows(300))
    set_state(console.engine, "id <= 250", "sent")
    set_state(console.engine, "id > 290", "parked")
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if not statement.startswith(("BEGIN", "SELECT set_config")):
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        console.get(path)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(statements) <= 15, statements
    assert [each for each in statements if "count(" in each and "outbox_sent" in each] == []
