"""The console's pages as a browser reaches them, in one list: what must hold on every page is tested on each."""

from collections.abc import Callable
from typing import NamedTuple

from playwright.sync_api import Page

from testkit.waiting import wait_until


class ConsolePage(NamedTuple):
    """A page."""

    name: str
    path: str
    go_on: Callable[[Page], None] = lambda _: None
    """Leads from the path to the page."""
    role: str | None = "custodian"
    """Who sees it; None: somebody who is not signed in."""
    status: int = 200
    is_masked: bool = True
    """Whether it shows no personal data."""

    def open(self, page: Page) -> None:
        """Open it."""
        answer = page.goto(self.path)
        assert answer is not None
        assert answer.status == self.status, f"{self.path}: {answer.status}"
        self.go_on(page)


def load_record(page: Page) -> None:
    """Wait until what the page loads by itself is there."""
    page.wait_for_load_state("networkidle")


def plan(page: Page) -> None:
    """Plan a replay of all sent rows."""
    page.get_by_role("button", name="Plan to replay all rows that match").click()
    page.get_by_test_id("plan-count").wait_for()


def change(page: Page) -> None:
    """Confirm that plan, and wait until it is done."""
    plan(page)
    page.get_by_label("Why", exact=True).fill("the consumer lost them")
    page.get_by_test_id("confirm").click()
    wait_until(lambda: _has_ended(page), "the change has ended")


def _has_ended(page: Page) -> bool:
    """Return whether the change has ended; without JavaScript, its page is current only after it is loaded again."""
    if page.get_by_test_id("audit").count():
        return True
    page.reload()
    return False


def prove(page: Page) -> None:
    """Verify what that change did."""
    change(page)
    page.get_by_test_id("verify").click()
    page.get_by_test_id("verified").first.wait_for()


def verify_audit(page: Page) -> None:
    """Verify the chain of the audit log."""
    page.get_by_role("button", name="Verify").click()
    page.get_by_test_id("result").wait_for()


def run_check(page: Page) -> None:
    """Run the checks."""
    page.get_by_role("button", name="Run the checks").click()
    page.get_by_test_id("finding").first.wait_for()


def reveal(page: Page) -> None:
    """Reveal the content of the row."""
    page.get_by_label("Why").fill("the sender asks what arrived")
    page.get_by_role("button", name="Show the content").click()
    page.get_by_test_id("payload").wait_for()


PAGES = (
    ConsolePage("overview", "/"),
    ConsolePage("problems", "/problems"),
    ConsolePage("rows", "/rows"),
    ConsolePage("parked-rows", "/rows?state=parked"),
    ConsolePage("row", "/rows/1", load_record),
    ConsolePage("record", "/rows/1/kafka"),
    ConsolePage("content", "/rows/1", reveal, is_masked=False),
    ConsolePage("calls", "/calls"),
    ConsolePage("shards", "/shards"),
    ConsolePage("audit", "/audit"),
    ConsolePage("audit-verified", "/audit", verify_audit),
    ConsolePage("check", "/check", run_check),
    ConsolePage("plan", "/rows?state=sent", plan),
    ConsolePage("change", "/rows?state=sent", change),
    ConsolePage("proof", "/rows?state=sent", prove),
    ConsolePage("erase", "/erase"),
    ConsolePage("prune", "/prune"),
    ConsolePage("login", "/login", role=None),
    ConsolePage("bad-filter", "/rows?since=soon", status=400),
    ConsolePage("forbidden", "/erase", role="operator", status=403),
    ConsolePage("not-found", "/nothing", status=404),
)
