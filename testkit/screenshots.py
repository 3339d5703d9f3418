"""``python -m testkit.screenshots``: take the pictures of the console in ``docs/images``, which show an incident."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import ViewportSize

from outbox.db.engine import create_outbox_engine
from testkit import ROOT
from testkit.browser import sign_in, start_browser
from testkit.console_pages import PAGES
from testkit.console_process import ConsoleProcess
from testkit.console_rows import fill_with_incident
from testkit.databases import migrate
from testkit.services import ServiceError

FOLDER = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1280, 960
MAX_BYTES = 150_000
SHOWN = tuple(page for page in PAGES if page.status == 200)
"""Pages of which there is a picture."""


def picture(name: str) -> Path:
    """Return the file with the picture of a page."""
    return FOLDER / f"console-{name}.png"


def main() -> int:
    """Take all pictures; return 1 if one is too large or the browser is missing."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/outbox.db"
        migrate(url, 1)
        engine = create_outbox_engine(url)
        fill_with_incident(engine)
        engine.dispose()
        console = ConsoleProcess(url, Path(folder))
        try:
            _take(console.start())
        except ServiceError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            console.stop()
    large = [path.name for path in FOLDER.glob("console-*.png") if path.stat().st_size > MAX_BYTES]
    sys.stderr.write(f"larger than {MAX_BYTES:,} bytes: {', '.join(large)}\n" if large else "")
    return 1 if large else 0


def _take(console: ConsoleProcess) -> None:
    """Take a picture of each page."""
    with start_browser() as browser:
        for shown in SHOWN:
            size = ViewportSize(width=WIDTH, height=HEIGHT)
            with browser.new_context(base_url=console.origin, viewport=size, color_scheme="light") as context:
                page = context.new_page()
                if shown.role is not None:
                    sign_in(page, shown.role)
                shown.open(page)
                page.screenshot(path=picture(shown.name), animations="disabled")


if __name__ == "__main__":
    sys.exit(main())
