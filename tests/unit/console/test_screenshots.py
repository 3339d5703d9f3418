"""The documents show each page of the console."""

from testkit.screenshots import FOLDER, MAX_BYTES, SHOWN, picture


def test_each_page_has_its_picture() -> None:
    """``make screenshots`` takes them; none is of a page that no longer exists, and none is large."""
    assert {path.name for path in FOLDER.glob("console-*")} == {picture(page.name).name for page in SHOWN}
    assert [path.name for path in FOLDER.iterdir() if path.stat().st_size > MAX_BYTES] == []
