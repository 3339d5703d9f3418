"""Nothing stale: a page keeps itself current, and says so when it cannot."""

import signal
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, Request, expect

from outbox.db.engine import create_outbox_engine
from outbox.store import Store
from testkit.browser import sign_in
from testkit.console import user_line
from testkit.console_process import ConsoleProcess
from testkit.databases import migrate
from testkit.outbox import record, set_state
from testkit.rows import new_rows
from testkit.services import Postgres
from tests.browser.conftest import NewContext, StartConsole

POLL_MS = 5000
LAST_SEEN = "no answer: last seen 5 s ago"
HIDE = "Object.defineProperty(document, 'hidden', { configurable: true, value: true })"
SHOW = "delete document.hidden"


class Watched(NamedTuple):
    """A page whose time the test sets, and its polls so far."""

    page: Page
    polls: list[str]

    def poll(self) -> None:
        """Let the time until the next poll pass, and wait for the poll's end."""
        with self.page.expect_event("requestfinished", is_poll):
            self.page.clock.run_for(POLL_MS)

    def fail(self) -> None:
        """The same, where the poll fails."""
        with self.page.expect_event("requestfailed", is_poll):
            self.page.clock.run_for(POLL_MS)


def is_poll(request: Request) -> bool:
    """Return whether a page sent a request by itself."""
    return request.headers.get("hx-request") == "true"


def watch(page: Page, path: str) -> Watched:
    """Open a page whose time stands still."""
    polls: list[str] = []
    page.on("request", lambda request: polls.append(request.url) if is_poll(request) else None)
    page.clock.install(time=0)
    page.goto(path)
    with page.expect_event("requestfinished", is_poll):
        page.clock.pause_at(1000 * POLL_MS)
    polls.clear()
    return Watched(page, polls)


def add_row(console: ConsoleProcess, state: str = "pending") -> None:
    """Commit a row to the console's outbox."""
    engine = create_outbox_engine(console.url)
    (row_id,) = record(Store(engine), new_rows(1))
    if state != "pending":
        set_state(engine, f"id = {row_id}", state)
    engine.dispose()


@pytest.fixture
def console(start_console: StartConsole) -> ConsoleProcess:
    """Return a console on an empty outbox."""
    return start_console()


@pytest.fixture
def page(console: ConsoleProcess, new_context: NewContext) -> Page:
    """Return a page of a viewer of that console, who is signed in."""
    page = new_context(console.origin).new_page()
    sign_in(page, "viewer")
    return page


def test_a_poll_brings_what_is_new(console: ConsoleProcess, page: Page) -> None:
    """A new row appears without a word, and the time of the page is that of the poll."""
    watched = watch(page, "/rows")
    add_row(console)
    watched.poll()
    expect(page.get_by_test_id("row-1")).to_be_visible()
    expect(page.locator("#poll-message")).to_be_empty()


def test_a_poll_that_brings_nothing_moves_the_time(console: ConsoleProcess, new_context: NewContext) -> None:
    """The answer is 304, and the time of the page is that of the answer, in the reader's zone if they chose it."""
    page = new_context(console.origin, timezone_id="Asia/Tokyo", locale="en-GB").new_page()
    sign_in(page, "viewer")
    watched = watch(page, "/audit")
    page.get_by_label("Times").select_option("local")
    page.locator("[data-as-of]").evaluate("each => { each.dateTime = '2000-01-01T00:00:00Z'; }")
    with page.expect_response(lambda answer: is_poll(answer.request)) as answer:
        watched.poll()
    assert answer.value.status == 304
    expect(page.locator("[data-as-of]")).to_contain_text("GMT+9")
    expect(page.locator("[data-as-of]")).not_to_contain_text("2000")


def test_the_button_pauses_polls(console: ConsoleProcess, page: Page) -> None:
    """While they are paused nothing is asked, and the page says so; the same button continues."""
    watched = watch(page, "/rows")
    page.get_by_role("button", name="Pause updating").click()
    expect(page.locator("#poll-message")).to_have_text("updates are paused")
    page.clock.run_for(12 * POLL_MS)
    assert watched.polls == []
    page.get_by_role("button", name="Continue updating").click()
    add_row(console)
    watched.poll()
    expect(page.get_by_test_id("row-1")).to_be_visible()
    expect(page.locator("#poll-message")).to_be_empty()


def test_a_hidden_tab_asks_nothing(console: ConsoleProcess, page: Page) -> None:
    """It goes on when it is shown again."""
    watched = watch(page, "/rows")
    page.evaluate(HIDE)
    page.clock.run_for(12 * POLL_MS)
    assert watched.polls == []
    page.evaluate(SHOW)
    add_row(console)
    watched.poll()
    expect(page.get_by_test_id("row-1")).to_be_visible()


def test_a_failed_poll_says_how_old_the_page_is(console: ConsoleProcess, page: Page) -> None:
    """What was shown stays; when the console is back, the page is current again by itself."""
    add_row(console)
    watched = watch(page, "/rows")
    console.stop()
    watched.fail()
    expect(page.locator("#poll-message")).to_have_text(LAST_SEEN)
    watched.fail()
    expect(page.locator("#poll-message")).to_have_text("no answer: last seen 10 s ago")
    expect(page.get_by_test_id("row-1")).to_be_visible()
    console.start()
    add_row(console)
    watched.poll()
    expect(page.locator("#poll-message")).to_be_empty()
    expect(page.get_by_test_id("row-2")).to_be_visible()


def test_a_console_that_does_not_answer_counts_as_failed(console: ConsoleProcess, page: Page) -> None:
    """A poll has a time limit: a page does not look current because its request still hangs."""
    watched = watch(page, "/rows")
    with console.frozen():
        watched.fail()
        expect(page.locator("#poll-message")).to_have_text(LAST_SEEN)
    watched.poll()
    expect(page.locator("#poll-message")).to_be_empty()


def test_a_database_that_is_away_counts_as_failed(
    own_postgres: Postgres, start_console: StartConsole, new_context: NewContext
) -> None:
    """The page says how old it is, another page says what is wrong, and both recover by themselves."""
    url = own_postgres.create_database("outbox").replace("postgresql://", "postgresql+psycopg://")
    migrate(url, 1)
    console = start_console(url)
    page = new_context(console.origin).new_page()
    sign_in(page, "viewer")
    watched = watch(page, "/rows")
    own_postgres.process.stop(signal.SIGQUIT)
    watched.poll()
    expect(page.locator("#poll-message")).to_have_text(LAST_SEEN)
    other = page.context.new_page()
    other.goto("/shards")
    expect(other.get_by_role("alert")).to_contain_text("The database cannot be used now")
    own_postgres.process.start()
    add_row(console)
    watched.poll()
    expect(page.get_by_test_id("row-1")).to_be_visible()
    expect(page.locator("#poll-message")).to_be_empty()


def test_a_changed_password_ends_the_session_of_an_open_page(console: ConsoleProcess, page: Page) -> None:
    """The page shows the login instead of what it had, and after it the same page."""
    watched = watch(page, "/shards")
    console.users.write_text(user_line("viewer", password="another password"))
    page.clock.run_for(POLL_MS)
    page.wait_for_url("**/login")
    assert watched.polls
    page.get_by_label("Name", exact=True).fill("viewer")
    page.get_by_label("Password").fill("another password")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/shards")


def test_signing_out_ends_other_tabs(console: ConsoleProcess, page: Page) -> None:
    """A page that is open beside shows the login with its next poll."""
    watch(page, "/rows")
    other = page.context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_url("**/login")
    page.clock.run_for(POLL_MS)
    page.wait_for_url("**/login")


def test_ticked_rows_stay_ticked(console: ConsoleProcess, new_context: NewContext) -> None:
    """A poll replaces the rows, and loses neither the choice nor the focus."""
    page = new_context(console.origin).new_page()
    sign_in(page, "operator")
    add_row(console, "sent")
    watched = watch(page, "/rows?state=sent")
    box = page.get_by_label("Select row 1", exact=True)
    box.check()
    add_row(console, "sent")
    watched.poll()
    expect(page.get_by_test_id("row-2")).to_be_visible()
    expect(box).to_be_checked()
    expect(box).to_be_focused()
