"""Sessions in signed cookies, which every way of signing in to the console itself shares."""

import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from cachetools import TTLCache
from flask import abort, g, redirect, request, session, url_for
from werkzeug.wrappers import Response

from console.access import User

IDLE_SECONDS = 30 * 60
MAX_SECONDS = 8 * 60 * 60
NOTED_EVERY_SECONDS = 60
"""How exactly the last request is remembered."""
MAX_ENDED = 10_000
MAX_TARGET = 1_000
"""Longest address to return to after signing in, in characters; it must fit in a cookie."""
SESSION, TARGET = "login", "target"


class SessionLogin(ABC):
    """Keeps who is signed in. What a page fetches by itself does not keep a session alive.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended: TTLCache[str, bool] = TTLCache(MAX_ENDED, MAX_SECONDS, clock)
        self._lock = threading.Lock()

    @abstractmethod
    def page(self, message: str | None = None) -> str:
        """Return the page to sign in at, with a message."""

    @abstractmethod
    def user_of(self, kept: Mapping[str, Any]) -> User | None:
        """Return the user of a session, as they are now; None: they may no longer come in.

        Args:
            kept: what ``begin`` was given, or another way of signing in kept with the same key.
        """

    def user(self) -> User | None:
        """Return the user of the request's session, if it has not ended."""
        kept: dict[str, Any] | None = session.get(SESSION)
        if kept is None:
            return None
        now = self._clock()
        user = None if self._has_ended(kept, now) else self.user_of(kept)
        if user is None:
            session.clear()
            g.session_has_ended = True
            return None
        is_polled = request.method == "GET" and "HX-Request" in request.headers
        if not is_polled and now - kept["seen"] >= NOTED_EVERY_SECONDS:
            session[SESSION] = {**kept, "seen": now}
        return user

    def _has_ended(self, kept: Mapping[str, Any], now: float) -> bool:
        with self._lock:
            if kept["id"] in self._ended:
                return True
        return bool(now - kept["seen"] > IDLE_SECONDS or now - kept["since"] > MAX_SECONDS)

    def refuse(self) -> Response:
        """Send to the login, and afterwards back to the page; what was typed into a form would be lost that way."""
        if request.method not in ("GET", "HEAD") and g.get("session_has_ended"):
            abort(401, "Your session has ended: nothing was done. Sign in, and send it once more.")
        address = request.full_path.rstrip("?")
        if request.method == "GET" and "HX-Request" not in request.headers and len(address) <= MAX_TARGET:
            session[TARGET] = address
        return redirect(url_for("login.show"), 303)

    def target(self) -> str:
        """Return the path to continue at after signing in."""
        target: str = session.get(TARGET, "/")
        return target

    def begin(self, kept: Mapping[str, Any]) -> None:
        """Begin a session.

        Args:
            kept: by which ``user_of`` knows the user; it is signed, and can be read by them.
        """
        session.clear()
        now = self._clock()
        session[SESSION] = {"id": secrets.token_urlsafe(16), "since": now, "seen": now, **kept}

    def sign_out(self) -> None:
        """End the session: a copy of its cookie is of no use."""
        kept = session.get(SESSION)
        if kept is not None:
            with self._lock:
                self._ended[kept["id"]] = True
        session.clear()
