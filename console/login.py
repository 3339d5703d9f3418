"""``/login`` and ``/logout``."""

import threading
from collections.abc import Sequence

import structlog
from flask import Blueprint, Response, abort, current_app, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from console.access import authentication, current_user
from console.file_login import FileLogin
from console.metrics import metrics
from console.peers import client_address
from console.sessions import SessionLogin
from console.settings import Network
from console.tries import Tries

log = structlog.get_logger(__name__)
blueprint = Blueprint("login", __name__)
EXTENSION = "console_login"
MAX_CHARACTERS = 256
"""Longest name and password."""
MAX_AT_ONCE = 2
"""Passwords checked at the same time, as each takes memory and a core; or requests that wait for a provider."""
REFUSED = "This name and password do not match."


class LoginLimits:
    """Bounds what signing in may cost.

    Args:
        tries: of each name and address.
        proxies: peers that are believed about addresses.
    """

    def __init__(self, tries: Tries, proxies: Sequence[Network]) -> None:
        self.tries, self.proxies = tries, proxies
        self.at_once = threading.BoundedSemaphore(MAX_AT_ONCE)


@blueprint.get("/login")
def show() -> AnyResponse:
    """Show how to sign in."""
    if current_user() is not None:
        return redirect(url_for("overview.show"), 303)
    return login_page()


@blueprint.post("/login")
def sign_in() -> AnyResponse:
    """Begin a session, or say that name and password do not match."""
    login = authentication()
    if not isinstance(login, FileLogin):
        abort(404, "Nobody signs in with a password here.")
    limits = login_limits()
    name, password = (request.form.get(field, "")[: MAX_CHARACTERS + 1] for field in ("username", "password"))
    key = (name, client_address(limits.proxies))
    if not limits.at_once.acquire(blocking=False):
        return refuse_for_now("busy", 1)  # not counted: free tries with other names would push counted ones out
    try:
        if seconds := limits.tries.seconds_to_wait(key):
            return refuse_for_now("throttled", seconds)
        line = login.users.check(name, password)
    finally:
        limits.at_once.release()
    if line is None or len(password) > MAX_CHARACTERS:
        metrics().logins.labels("refused").inc()
        log.warning("a login was refused", action="login_refused")
        return login_page(REFUSED, 401)
    limits.tries.forget(key)
    metrics().logins.labels("accepted").inc()
    log.info("%s has signed in", line.user.name, action="signed_in", role=line.user.role.word)
    target = login.sign_in(line)
    return redirect(request.script_root + target, 303)


@blueprint.post("/logout")
def sign_out() -> AnyResponse:
    """End the session."""
    _session_login().sign_out()
    return redirect(url_for("login.show"), 303)


def login_limits() -> LoginLimits:
    """Return those of the application that handles the request."""
    found: LoginLimits = current_app.extensions[EXTENSION]
    return found


def refuse_for_now(outcome: str, seconds: int) -> Response:
    """Answer one try too many.

    Args:
        outcome: for the metric.
        seconds: to wait.
    """
    metrics().logins.labels(outcome).inc()
    log.warning("a login was not checked: %s", outcome, action="login_throttled")
    response = login_page(f"Too many tries. Wait {seconds} s.", 429)
    response.headers["Retry-After"] = str(seconds)
    return response


def login_page(message: str | None = None, status: int = 200) -> Response:
    """Show how to sign in."""
    return make_response(_session_login().page(message), status)


def _session_login() -> SessionLogin:
    """Return what signs users in; where a proxy does, there is no such page."""
    found = authentication()
    if not isinstance(found, SessionLogin):
        abort(404, "The proxy in front of the console signs users in.")
    return found
