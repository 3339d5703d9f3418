"""What protects every page: headers, the origin of changes, the size of a request, the path that a proxy adds."""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, abort, render_template, request
from werkzeug.exceptions import RequestEntityTooLarge

MAX_BODY_BYTES = 64 * 2**10
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def protect(app: Flask, prefix: str | None) -> None:
    """Protect an application.

    Args:
        app: the application.
        prefix: path below which a proxy serves it.
    """
    app.before_request(check_request)
    app.before_request(come_again)
    app.after_request(add_headers)
    if prefix:
        app.wsgi_app = _Prefix(app.wsgi_app, prefix)  # type: ignore[method-assign]


def check_request() -> None:
    """Refuse a body that is too large, and a change that another site's page asks for."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if request.method not in ("GET", "HEAD", "OPTIONS") and not _is_same_origin():
        abort(403, "The form was sent by a page of another origin. A proxy in front must pass the Host header on.")


def come_again() -> str | None:
    """Answer a link on another site's page, such as an alert's, with a page that leads to the same address.

    Browsers do not send the session's cookie with such a link, so it would look as if nobody were signed in, and a new
    cookie would end the session. An OpenID provider's answer needs no session, and no page shows it.
    """
    is_link = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    if request.endpoint == "oidc.callback":
        return None
    if not is_link or request.headers.get("Sec-Fetch-Site") != "cross-site" or request.cookies:
        return None
    return render_template("come_again.html", address=own_address())


def own_address() -> str:
    """Return the address that was requested, below the console's own."""
    query = request.query_string.decode("latin-1")
    return quote(request.script_root + request.path) + (f"?{query}" if query else "")


def _is_same_origin() -> bool:
    """Whether a page of the console sent the form.

    As the pages send no referrer, browsers write ``Origin: null`` and say the rest in ``Sec-Fetch-Site``. Programs
    that are no browser send neither header; they still need the form's token.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site not in (None, "same-origin"):
        return False
    if origin in (None, "null"):
        return origin is None or site is not None
    return origin in (f"http://{request.host}", f"https://{request.host}")


def add_headers(response: Response) -> Response:
    """Add the headers of every response. No cache keeps a page."""
    response.headers.update(HEADERS)
    if request.endpoint != "static" or response.status_code >= 400:
        response.headers["Cache-Control"] = "no-store"
    return response


class _Prefix:
    """Serves an application below a path, whether or not the proxy removes it."""

    def __init__(self, app: Callable[..., Iterable[bytes]], prefix: str) -> None:
        self._app, self._prefix = app, prefix

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            environ["PATH_INFO"] = path.removeprefix(self._prefix) or "/"
        environ["SCRIPT_NAME"] = self._prefix
        return self._app(environ, start_response)
