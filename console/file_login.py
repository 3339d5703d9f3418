"""``CONSOLE_AUTH=file``: names and passwords, and sessions in signed cookies."""

import secrets
import threading
from collections.abc import Callable
from typing import Any

from cachetools import TTLCache
from flask import abort, g, redirect, request, session, url_for
from werkzeug.wrappers import Response

from console.access import User
from console.users import Line, UsersFile

IDLE_SECONDS = 30 * 60
MAX_SECONDS = 8 * 60 * 60
NOTED_EVERY_SECONDS = 60
"""How exactly the last request is remembered."""
MAX_ENDED = 10_000
MAX_TARGET = 1_000
"""Longest address to return to after signing in, in characters; it must fit in a cookie."""
SESSION, TARGET = "login", "target"


class FileLogin:
    """Keeps who is signed in.

    A session ends when its user's line changes. What a page fetches by itself does not keep a session alive.

    Args:
        users: names and passwords.
        clock: seconds since the epoch.
    """

    def __init__(self, users: UsersFile, clock: Callable[[], float]) -> None:
        self.users, self._clock = users, clock
        self._ended: TTLCache[str, bool] = TTLCache(MAX_ENDED, MAX_SECONDS, clock)
        self._lock = threading.Lock()

    def user(self) -> User | None:
        """Return the user of the request's session, if it has not ended."""
        kept: dict[str, Any] | None = session.get(SESSION)
        if kept is None:
            return None
        line, now = self.users.find(kept["name"]), self._clock()
        if line is None or self._has_ended(kept, line, now):
            session.clear()
            g.session_has_ended = True
            return None
        is_polled = request.method == "GET" and "HX-Request" in request.headers
        if not is_polled and now - kept["seen"] >= NOTED_EVERY_SECONDS:
            session[SESSION] = {**kept, "seen": now}
        return line.user

    def _has_ended(self, kept: dict[str, Any], line: Line, now: float) -> bool:
        with self._lock:
            if kept["id"] in self._ended:
                return True
        is_old = now - kept["seen"] > IDLE_SECONDS or now - kept["since"] > MAX_SECONDS
        return bool(is_old or kept["mark"] != line.mark)

    def refuse(self) -> Response:
        """Send to the login, and afterwards back to the page; what was typed into a form would be lost that way."""
        if request.method not in ("GET", "HEAD") and g.get("session_has_ended"):
            abort(401, "Your session has ended: nothing was done. Sign in, and send it once more.")
        address = request.full_path.rstrip("?")
        if request.method == "GET" and "HX-Request" not in request.headers and len(address) <= MAX_TARGET:
            session[TARGET] = address
        return redirect(url_for("login.show"), 303)

    def sign_in(self, line: Line) -> str:
        """Begin a session; return the path to continue at."""
        target: str = session.get(TARGET, "/")
        session.clear()
        now = self._clock()
        session[SESSION] = {
            "id": secrets.token_urlsafe(16),
            "name": line.user.name,
            "mark": line.mark,
            "since": now,
            "seen": now,
        }
        return target

    def sign_out(self) -> None:
        """End the session: a copy of its cookie is of no use."""
        kept = session.get(SESSION)
        if kept is not None:
            with self._lock:
                self._ended[kept["id"]] = True
        session.clear()
