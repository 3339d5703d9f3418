"""The console below a path of another host, behind a real nginx."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from testkit.browser import Complaints, sign_in
from testkit.services import Nginx
from testkit.services.fixtures import run_service
from tests.browser.conftest import NewContext, StartConsole

PREFIX = "/console"


@pytest.fixture(params=[True, False], ids=["path kept", "path removed"])
def nginx(request: pytest.FixtureRequest, start_console: StartConsole, tmp_path: Path) -> Iterator[Nginx]:
    """Return nginx in front of a console, which is told the path, whether or not nginx removes it."""
    console = start_console(CONSOLE_PREFIX=PREFIX)
    yield from run_service(Nginx(tmp_path / "nginx", console.origin, PREFIX, keeps_path=request.param))


def test_pages_forms_and_polls_work_below_a_path(nginx: Nginx, new_context: NewContext) -> None:
    """Login, links, a form, files and polls stay below the path, and the browser complains of nothing."""
    page = new_context(nginx.origin).new_page()
    complaints = Complaints(page)
    page.goto(f"{PREFIX}/problems")
    expect(page).to_have_url(f"{nginx.origin}{PREFIX}/login")
    sign_in(page, "operator", page.url)
    expect(page).to_have_url(f"{nginx.origin}{PREFIX}/problems")
    page.clock.install()
    page.get_by_role("link", name="Audit").click()
    with page.expect_response(f"{nginx.origin}{PREFIX}/audit") as poll:
        page.clock.run_for(5000)
    assert poll.value.status in (200, 304)
    page.get_by_role("button", name="Verify").click()
    expect(page.get_by_test_id("result")).to_contain_text("verified entries: 0")
    page.get_by_role("link", name="Rows").click()
    expect(page).to_have_url(re.compile(f"{PREFIX}/rows$"))
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{nginx.origin}{PREFIX}/login")
    assert complaints.seen == []
