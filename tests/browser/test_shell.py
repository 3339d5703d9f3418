"""What is around every page: colours, times, keyboard shortcuts, paper."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from testkit.browser import sign_in
from testkit.console import PASSWORD
from tests.browser.conftest import NewPage

BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"
TEXT = "getComputedStyle(document.body).color"


def brightness(colour: str) -> int:
    """Return the sum of a colour's components."""
    return round(sum(map(float, re.findall(r"[\d.]+", colour)[:3])))


def is_dark(page: Page) -> bool:
    """Return whether the page is light on dark."""
    return brightness(page.evaluate(BACKGROUND)) < brightness(page.evaluate(TEXT))


def test_colours_follow_the_system_until_the_reader_chooses(new_page: NewPage) -> None:
    """A choice is kept, applies to the login as well, and can be taken back."""
    page = new_page(color_scheme="dark")
    page.goto("/")
    assert is_dark(page)
    page.get_by_label("Colours").select_option("light")
    assert not is_dark(page)
    page.goto("/problems")
    assert not is_dark(page)
    expect(page.get_by_label("Colours")).to_have_value("light")
    page.context.clear_cookies()
    page.goto("/login")
    assert not is_dark(page)
    page.get_by_label("Colours").select_option("as the system")
    assert is_dark(page)
    page.emulate_media(color_scheme="light")
    assert not is_dark(page)


@pytest.mark.parametrize("system", ["light", "dark"])
def test_chosen_colours_are_accessible(new_page: NewPage, system: str) -> None:
    """Axe finds nothing in the colours that the system does not have, and nothing in the help."""
    page = new_page(color_scheme=system, reduced_motion="reduce")
    page.goto("/problems")
    page.get_by_label("Colours").select_option("light" if system == "dark" else "dark")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_times_are_utc_or_local(new_page: NewPage) -> None:
    """Absolute times, with the zone; the choice is kept, and holds for what a poll brings."""
    page = new_page("viewer", timezone_id="Asia/Tokyo", locale="en-GB")
    page.clock.install()
    page.goto("/rows")
    times = page.locator("main time")
    expect(times.first).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$"))
    utc = times.first.inner_text()
    page.get_by_label("Times").select_option("local")
    expect(times.first).to_contain_text("GMT+9")
    with page.expect_response(re.compile("/rows$")):
        page.clock.run_for(5000)
    expect(page.locator("[data-as-of]")).to_contain_text("GMT+9")
    page.reload()
    expect(times.first).to_contain_text("GMT+9")
    page.get_by_label("Times").select_option("UTC")
    expect(times.first).to_have_text(utc)


def test_keys_lead_to_pages(new_page: NewPage) -> None:
    """``g`` and a letter open a page, ``/`` focuses a search, wherever it is."""
    page = new_page("viewer")
    page.clock.install(time=0)
    page.goto("/")
    page.clock.pause_at(60)  # however slow this machine is, the letter comes in time
    for key, path in {
        "p": "/problems",
        "r": "/rows",
        "c": "/calls",
        "s": "/shards",
        "a": "/audit",
        "k": "/check",
    }.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(re.compile(f"{path}$"))
    page.keyboard.press("/")
    page.wait_for_url(re.compile("/rows#search$"))
    expect(page.get_by_label("Interaction id")).to_be_focused()
    page.goto("/problems")
    page.keyboard.press("/")
    expect(page.get_by_label("Error contains")).to_be_focused()
    page.keyboard.type("gr/?")
    expect(page.get_by_label("Error contains")).to_have_value("gr/?")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_keys_can_be_switched_off(new_page: NewPage) -> None:
    """``?`` shows the help, in which they are switched off; the button in the footer leads back to it."""
    page = new_page("viewer")
    page.goto("/")
    page.keyboard.press("?")
    used = page.get_by_role("dialog").get_by_label("Use keyboard shortcuts")
    expect(used).to_be_checked()
    used.uncheck()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.reload()
    page.keyboard.press("?")
    page.keyboard.press("/")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page).to_have_url(re.compile("/$"))
    page.get_by_role("button", name="Keyboard shortcuts").click()
    used.check()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_everything_can_be_done_by_keyboard(new_page: NewPage) -> None:
    """Sign in, go to the parked rows, tick one, and plan a retry of it."""
    page = new_page(None)
    page.goto("/login")
    reach(page, "document.activeElement.id === 'username'")
    page.keyboard.type("operator")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_text("Signed in as operator").wait_for()
    page.goto("/rows?state=parked")
    reach(page, "document.activeElement.id === 'select-1'")
    page.keyboard.press("Space")
    reach(page, "document.activeElement.value === 'retry'")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("plan-count")).to_have_text("1")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def reach(page: Page, condition: str) -> None:
    """Press Tab until a condition on the focused element holds."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not lead to where {condition}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_a_page_is_dark_on_light_and_without_controls(new_page: NewPage, scheme: str) -> None:
    """Even if the reader has chosen dark colours; tables are not cut off."""
    page = new_page("operator")
    page.goto("/rows?state=parked")
    page.get_by_label("Colours").select_option(scheme)
    page.emulate_media(media="print")
    assert brightness(page.evaluate(TEXT)) == 0
    for hidden in ("nav", "#preferences", ".skip", "main form", "main button", "#live input"):
        assert page.locator(hidden).filter(visible=True).count() == 0, hidden
    assert page.locator(".scroll").first.evaluate("each => getComputedStyle(each).overflowX") == "visible"
    expect(page.get_by_test_id("row-1")).to_be_visible()
    assert page.pdf()[:4] == b"%PDF"


def test_the_login_leads_back_to_the_page(new_page: NewPage) -> None:
    """Whoever opens a page without a session signs in and sees it."""
    page = new_page(None)
    page.goto("/shards")
    expect(page).to_have_url(re.compile("/login$"))
    sign_in(page, "viewer", page.url)
    expect(page).to_have_url(re.compile("/shards$"))
