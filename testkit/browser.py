"""A real browser for the console's pages: the system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, sync_playwright

from testkit.console import PASSWORD
from testkit.services import ServiceError

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
LEFT = "net::ERR_ABORTED"
"""Why a request fails whose page is left."""
REPORT_VIOLATIONS = """
    document.addEventListener("securitypolicyviolation", (event) => {
        console.error(`content security policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
"""


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Start a browser without a window.

    Raises:
        ServiceError: none is installed.
    """
    found = next(filter(None, map(shutil.which, COMMANDS)), None)
    if found is None:
        raise ServiceError("Chromium is missing: apt-get install chromium, or brew install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        try:
            yield browser
        finally:
            browser.close()


def sign_in(page: Page, name: str, path: str = "/login") -> None:
    """Sign in through the form."""
    page.goto(path)
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text(f"Signed in as {name}").wait_for()


class Complaints:
    """What a page makes the browser complain of: errors, warnings, violations of the policy, dialogs, failed requests.

    Args:
        page: a page that has not loaded anything yet.
    """

    def __init__(self, page: Page) -> None:
        self.seen: list[str] = []
        page.add_init_script(REPORT_VIOLATIONS)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.seen.append(f"uncaught: {error}"))
        page.on("requestfailed", self._note_failure)
        page.on("dialog", self._note_dialog)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(f"{message.text} ({message.location['url']})")

    def _note_dialog(self, dialog: Dialog) -> None:
        self.seen.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_failure(self, request: Request) -> None:
        if request.failure != LEFT:
            self.seen.append(f"failed: {request.url} {request.failure}")
