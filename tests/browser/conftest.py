"""Fixtures for tests in a browser: Chromium, a console that all tests of a worker share, and signed-in pages."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect

from outbox.db.engine import create_outbox_engine
from testkit.browser import sign_in, start_browser
from testkit.console_process import ConsoleProcess
from testkit.console_rows import fill_with_hostile_texts
from testkit.databases import NewDatabase, create_sqlite
from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail
from testkit.waiting import DEADLINE_SECONDS

TIMEOUT_MS = DEADLINE_SECONDS * 1000
"""Of whatever waits for a page: Playwright's own 30 s are less than other tests wait."""

expect.set_options(timeout=TIMEOUT_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(__file__.rpartition("/")[0]):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the browser of this worker."""
    try:
        with start_browser() as browser:
            yield browser
    except ServiceError as error:
        skip_or_fail(error)


@pytest.fixture(scope="session")
def shared_console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleProcess]:
    """Return a console on an outbox that senders filled with hostile texts. Tests do not stop it."""
    folder = tmp_path_factory.mktemp("console")
    url = create_sqlite(folder)
    engine = create_outbox_engine(url)
    fill_with_hostile_texts(engine)
    engine.dispose()
    console = ConsoleProcess(url, folder).start()
    yield console
    console.stop()


NewContext = Callable[..., BrowserContext]
"""Takes an origin and options of Playwright's ``new_context``."""


@pytest.fixture
def new_context(browser: Browser) -> Iterator[NewContext]:
    """Return a function that starts a browser without cookies."""
    contexts: list[BrowserContext] = []

    def make(origin: str, **options: Any) -> BrowserContext:
        contexts.append(browser.new_context(base_url=origin, **options))
        contexts[-1].set_default_timeout(TIMEOUT_MS)
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


SignedIn = Callable[[str], StorageState]


@pytest.fixture(scope="session")
def signed_in(browser: Browser, shared_console: ConsoleProcess) -> SignedIn:
    """Return a function that returns the cookies of a user of the shared console, who signs in once."""
    states: dict[str, StorageState] = {}

    def state(name: str) -> StorageState:
        if name not in states:
            with browser.new_context(base_url=shared_console.origin) as context:
                context.set_default_timeout(TIMEOUT_MS)
                sign_in(context.new_page(), name)
                states[name] = context.storage_state()
        return states[name]

    return state


NewPage = Callable[..., Page]
"""Takes the name of a user, or None for nobody, and options of Playwright's ``new_context``."""


@pytest.fixture
def new_page(shared_console: ConsoleProcess, new_context: NewContext, signed_in: SignedIn) -> NewPage:
    """Return a function that opens an empty page, for the shared console, in a browser of its own.

    Tests share the session of a user, so they do not sign out.
    """

    def make(name: str | None = "custodian", **options: Any) -> Page:
        cookies = signed_in(name) if name else None
        return new_context(shared_console.origin, storage_state=cookies, **options).new_page()

    return make


StartConsole = Callable[..., ConsoleProcess]
"""Takes the URL of a database, by default that of a new one, and settings."""


@pytest.fixture
def start_console(tmp_path: Any, new_sqlite: NewDatabase) -> Iterator[StartConsole]:
    """Return a function that starts a console for one test, which may stop it and change its users."""
    started: list[ConsoleProcess] = []

    def start(url: str | None = None, **environ: str) -> ConsoleProcess:
        started.append(ConsoleProcess(url or new_sqlite(), tmp_path, **environ).start())
        return started[-1]

    yield start
    for console in started:
        console.stop()
