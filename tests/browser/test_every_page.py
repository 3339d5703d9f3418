"""What holds on every page of the console, however hostile the texts in the outbox are."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from testkit.browser import Complaints
from testkit.console_pages import PAGES, ConsolePage
from testkit.console_rows import HOSTILE, PERSONAL
from tests.browser.conftest import NewPage

every_page = pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.name)
OVERFLOWING = """
    () => [...document.body.querySelectorAll("*")]
        .filter((each) => each.getBoundingClientRect().right > innerWidth && !each.closest(".scroll"))
        .map((each) => each.outerHTML.slice(0, 100))
"""
OPENING = r"""
    () => [...document.querySelectorAll("main :is(script, img, style, iframe), main a[href^='javascript:' i]")]
        .map((each) => each.outerHTML)
"""


@every_page
def test_the_browser_has_nothing_to_complain_of(shown: ConsolePage, new_page: NewPage) -> None:
    """No violation of the content security policy, no error of a script, no file that is missing."""
    page = new_page(shown.role)
    complaints = Complaints(page)
    shown.open(page)
    status_of_the_page = f"status of {shown.status}"
    assert [each for each in complaints.seen if shown.status == 200 or status_of_the_page not in each] == []


@every_page
def test_the_page_is_accessible_in_light_and_dark(shown: ConsolePage, new_page: NewPage) -> None:
    """Axe finds no violation of any of its rules; in reduced motion, as a transition has colours of its own."""
    page = new_page(shown.role, reduced_motion="reduce")
    shown.open(page)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"


@every_page
def test_the_page_fits_a_width_of_320_pixels(shown: ConsolePage, new_page: NewPage) -> None:
    """Tables scroll by themselves; the page does not, not even with a text of 256 characters without a blank."""
    page = new_page(shown.role, viewport={"width": 320, "height": 640})
    shown.open(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 320, page.evaluate(OVERFLOWING)


@every_page
def test_the_page_works_without_javascript(shown: ConsolePage, new_page: NewPage) -> None:
    """Links and forms lead to it and are on it; what needs JavaScript is not shown."""
    page = new_page(shown.role, java_script_enabled=False)
    shown.open(page)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("#preferences")).to_be_hidden()
    expect(page.locator("button[type=button]:visible")).to_have_count(0)


@every_page
def test_what_senders_wrote_is_text(shown: ConsolePage, new_page: NewPage) -> None:
    """It makes no element, and neither it nor personal data is in the title, the address, or unmasked on the page."""
    page = new_page(shown.role)
    shown.open(page)
    assert page.evaluate(OPENING) == []
    assert [each for each in (*HOSTILE, *PERSONAL) if each in page.title() or each in page.url] == []
    assert [each for each in PERSONAL if shown.is_masked and each in page.content()] == []


@every_page
def test_the_first_link_skips_the_navigation(shown: ConsolePage, new_page: NewPage) -> None:
    """It is shown when the keyboard reaches it, and leads to the content."""
    page = new_page(shown.role)
    shown.open(page)
    skip = page.get_by_role("link").first
    expect(skip).not_to_be_in_viewport()
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()


def test_hostile_texts_are_shown_as_they_are(new_page: NewPage) -> None:
    """Markup is legible, and marks that turn the direction are shown by their numbers."""
    page = new_page("viewer")
    page.goto("/rows?state=parked")
    for hostile in HOSTILE:
        written = hostile.encode("unicode_escape").decode()
        expect(page.get_by_role("cell", name=written, exact=True).first).to_be_visible()
