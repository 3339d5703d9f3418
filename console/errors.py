"""The pages that say what went wrong, without tracebacks and without what somebody sent."""

import structlog
from flask import Flask, Response, make_response, render_template, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from config.logging import frames
from console.dependencies import dependencies
from console.users import UsersFileError
from outbox.db import rights
from outbox.errors import OutboxError, SchemaOutdatedError

log = structlog.get_logger(__name__)
RETRY_AFTER_SECONDS = "5"
UNAUTHORIZED = 401
OLD_FORM = (
    "The form is not of your present session, which may have ended: nothing was done. "
    "Sign in if you are asked to, open the page again, and send it once more."
)
NOT_SHOWN_AGAIN = ("csrf_token", "username", "password")
TITLES = {
    400: "This request cannot be used",
    401: "Sign in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    413: "Too large",
    429: "Too many requests",
    500: "Something went wrong",
    503: "Not available",
}


def handle_errors(app: Flask) -> None:
    """Answer every error with a page."""
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(OutboxError, _handle_database_error)
    app.register_error_handler(UsersFileError, _handle_users_file)
    app.register_error_handler(Exception, _handle_unexpected)


def _handle_http_error(error: HTTPException) -> Response:
    code = error.code or 500
    if error.response is not None or code < 400:  # a redirect
        return make_response(error.get_response())
    is_old_form = isinstance(error, CSRFError)
    message = OLD_FORM if is_old_form else error.description or ""
    response = _page(code, message, shows_typed=is_old_form or code == UNAUTHORIZED)
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _handle_database_error(error: OutboxError) -> Response:
    named = rights.name_missing(dependencies().engine, rights.CONSOLE, error)
    log.error("the database cannot be used: %s", named, action="database_failed")
    if isinstance(error, SchemaOutdatedError):
        return _page(503, "The database schema is older than the console: run relay migrate.")
    response = _page(503, "The database cannot be used now; the log says why. Nothing was changed by this request.")
    response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return response


def _handle_users_file(error: UsersFileError) -> Response:
    log.error("nobody can be known: %s", error, action="login_failed")
    return _page(503, "The file of users cannot be used; the log says why.")


def _handle_unexpected(error: Exception) -> Response:
    # Neither its message nor the request is logged: both may contain personal data.
    log.error("unexpected error in a request: %s", type(error).__name__, action="unexpected", frames=frames(error))
    return _page(500, "An unexpected error; the log says where it happened.")


def _page(code: int, message: str, *, shows_typed: bool = False) -> Response:
    """Make a page; one that refuses a form because of the session shows what was typed into it, to be copied."""
    title = TITLES.get(code, "This request cannot be used")
    form = request.form if shows_typed else {}
    typed = {name: value for name, value in form.items() if value and name not in NOT_SHOWN_AGAIN}
    return make_response(render_template("error.html", code=code, title=title, message=message, typed=typed), code)
