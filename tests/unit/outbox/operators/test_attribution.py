"""What may go into the audit log as actor and reason."""

import pytest

from outbox.errors import InvalidRequestError
from outbox.operators.attribution import MAX_TEXT_CHARACTERS, check_reason, check_text, choose_actor
from outbox.operators.audit import os_user


def test_a_text_is_one_printable_line() -> None:
    """The error names the limit without quoting a long text."""
    longest = "r" * MAX_TEXT_CHARACTERS
    assert check_text(longest) == longest
    with pytest.raises(InvalidRequestError, match="1001 characters are too many: the maximum is 1000"):
        check_text(longest + "r")
    for wrong in ("", "  ", "a\nb", "\x1b[31m", "a\u202eb"):
        with pytest.raises(InvalidRequestError, match="is blank or contains non-printable characters"):
            check_text(wrong)


def test_a_reason_contains_no_email_address() -> None:
    """The audit log is kept, so personal data must not enter it."""
    assert check_reason("request 2026-17 @ legal") == "request 2026-17 @ legal"
    with pytest.raises(InvalidRequestError, match="not by an e-mail address"):
        check_reason("asked for by someone@example.com")


@pytest.mark.parametrize(
    ("given", "configured", "actor"), [(" ann ", "bob", "ann"), (None, " bob ", "bob"), ("", "bob", "bob")]
)
def test_the_actor_given_comes_before_the_one_configured(given: str | None, configured: str, actor: str) -> None:
    """Space around a name is removed."""
    assert choose_actor(given, configured, audited=True) == actor


@pytest.mark.parametrize("configured", ["ann\tbob", "a" * 1001])
def test_a_configured_actor_is_one_line(configured: str) -> None:
    """The error names the setting."""
    with pytest.raises(InvalidRequestError, match="RELAY_ACTOR is longer than 1000 characters or contains"):
        choose_actor(None, configured, audited=True)


def test_without_a_name_the_user_of_the_process_acts() -> None:
    """Root is nobody in particular, which only matters if it is recorded."""
    assert choose_actor(None, "  ", audited=False) == os_user()
    if os_user() == "root":
        with pytest.raises(InvalidRequestError, match="this runs as root: name yourself with --as NAME or RELAY_ACTOR"):
            choose_actor(None, None, audited=True)
