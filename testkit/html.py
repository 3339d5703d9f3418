"""Reading the console's pages in tests."""

import re
from html.parser import HTMLParser

from werkzeug.test import TestResponse

VOID = frozenset({"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"})


def read(response: TestResponse, status: int = 200) -> str:
    """Return a response's text, after checking its status and that its elements are closed in order."""
    body = response.get_data(as_text=True)
    assert response.status_code == status, body
    WellFormed().check(body)
    return body


class WellFormed(HTMLParser):
    """Refuses elements that are not closed in order, ids that occur twice, and inline scripts and styles."""

    def check(self, body: str) -> None:
        """Read a page."""
        self._open: list[str] = []
        self._ids: set[str] = set()
        self.feed(body)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that must be closed."""
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute occurs twice: {tag} {attrs}"
        assert not [name for name in values if name == "style" or name.startswith("on")], attrs
        assert tag != "script" or "src" in values
        assert values.get("id") not in self._ids, values
        if values.get("id"):
            self._ids.add(str(values["id"]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Treat ``<br/>`` as ``<br>``."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the last element."""
        assert self._open[-1:] == [tag], f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()


def part(body: str, testid: str) -> str:
    """Return the text of the element with this test id, without its tags."""
    found = re.search(rf'<(\w+)[^>]*data-testid="{re.escape(testid)}"[^>]*>(.*?)</\1>', body, re.DOTALL)
    assert found, f"{testid} is missing"
    return " ".join(re.sub(r"<[^>]+>", " ", found[2]).split())
