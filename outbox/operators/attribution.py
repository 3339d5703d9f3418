"""Who acts and why: what may go into the audit log."""

import re

from outbox.errors import InvalidRequestError
from outbox.operators.audit import os_user

MAX_TEXT_CHARACTERS = 1_000
"""Longest text that goes into the audit log."""
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


def check_text(text: str) -> str:
    """Return one line of printable text, not blank, of at most ``MAX_TEXT_CHARACTERS``, unchanged.

    Raises:
        InvalidRequestError: it is something else.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidRequestError(f"{len(text)} characters are too many: the maximum is {MAX_TEXT_CHARACTERS}")
    if not text.strip() or not text.isprintable():
        raise InvalidRequestError(f"{text!r} is blank or contains non-printable characters")
    return text


def check_reason(text: str) -> str:
    """Return a reason unchanged. The audit log is kept, so a reason must not contain an e-mail address.

    Raises:
        InvalidRequestError: it does, or it is not a text that ``check_text`` accepts.
    """
    if _EMAIL.search(check_text(text)):
        raise InvalidRequestError("the audit log is kept: identify rows by their outbox id, not by an e-mail address")
    return text


def choose_actor(given: str | None, configured: str | None, *, audited: bool) -> str:
    """Return who acts: the actor given, ``RELAY_ACTOR``, or the user of this process.

    Args:
        given: checked by ``check_text``.
        configured: the value of ``RELAY_ACTOR``.
        audited: whether the actor goes into the audit log: a user that is no person is refused there.

    Raises:
        InvalidRequestError: nobody can be named.
    """
    if given:
        return given.strip()
    if actor := (configured or "").strip():
        if len(actor) > MAX_TEXT_CHARACTERS or not actor.isprintable():
            raise InvalidRequestError(
                f"RELAY_ACTOR is longer than {MAX_TEXT_CHARACTERS} characters or contains non-printable ones"
            )
        return actor
    user = os_user()
    if audited and (user == "root" or user.startswith("uid ")):
        raise InvalidRequestError(f"this runs as {user}: name yourself with --as NAME or RELAY_ACTOR")
    return user
