"""Create the Flask application: the one place where the web process is assembled."""

import os
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import structlog
from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from sqlalchemy import make_url
from werkzeug.exceptions import HTTPException

from app import health, metrics, webhook
from app.backlog_metrics import BacklogMetrics
from app.dependencies import EXTENSION, WebhookDependencies
from app.group_commit import ANSWER_SECONDS, GroupCommitter
from app.health import Readiness
from app.limits import BacklogLimit
from app.notifier import Notifier
from app.problem_details import problem
from app.settings import WebSettings
from config.logging import configure_logging, frames
from config.settings import load, unknown_names
from config.token_bucket import TokenBucket
from outbox.db.engine import create_outbox_engine
from outbox.store import Store

log = structlog.get_logger(__name__)


def create_app(settings: WebSettings) -> Flask:
    """Create the application.

    Raises:
        UnsafeDatabaseError: The database cannot be used as it is configured.
    """
    url = settings.database_url.get_secret_value()
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"  # there relays watch the file
    store = Store(create_outbox_engine(url, answer_seconds=ANSWER_SECONDS, may_create=False))
    app = Flask("app", static_folder=None)
    app.url_map.merge_slashes = False  # a POST must not be redirected
    app.config["METRICS_TOKEN"] = settings.metrics_token.get_secret_value() if settings.metrics_token else None
    metrics.initialise(settings.secrets())
    rate, backlog = settings.webhook_rate_limit, settings.webhook_backlog_limit
    app.extensions[EXTENSION] = WebhookDependencies(
        secrets=settings.secrets(),
        committer=GroupCommitter(store, settings.web_threads, None if is_sqlite else Notifier(store)),
        max_bytes=settings.webhook_max_bytes,
        rate_limit=TokenBucket(rate / settings.processes) if rate else None,
        backlog_limit=BacklogLimit(store.pending_at_least, backlog) if backlog else None,
    )
    app.extensions["readiness"] = Readiness(store, Path(parsed.database or "") if is_sqlite else None)
    backlog_metrics = BacklogMetrics(url)
    app.extensions["own_metrics"] = own_metrics = CollectorRegistry()
    own_metrics.register(backlog_metrics)
    app.extensions["backlog_metrics"] = backlog_metrics
    for blueprint in (webhook.blueprint, health.blueprint, metrics.blueprint):
        app.register_blueprint(blueprint)
    openapi = files("app").joinpath("openapi.json").read_bytes()
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(openapi, content_type="application/json"))
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(Exception, _handle_unexpected)
    app.wsgi_app = _ExactPaths(_CloseOnDemand(app.wsgi_app))  # type: ignore[method-assign]
    return app


def create_app_from_environ() -> Flask:
    """Create the application with the settings of the environment; gunicorn calls this before it forks."""
    settings = load(WebSettings, os.environ)
    configure_logging(settings, "web")
    for warning in unknown_names(os.environ):
        log.warning(warning, action="unknown_setting")
    return create_app(settings)


def _handle_http_error(error: HTTPException) -> Response:
    return problem(error.code or 500, error.description or "The request cannot be handled")


def _handle_unexpected(error: Exception) -> Response:
    # Neither its message nor the request is logged: both may contain personal data.
    log.error("unexpected error in a request: %s", type(error).__name__, action="unexpected", frames=frames(error))
    if request.path == webhook.PATH:
        webhook.count("unexpected")
    return problem(500, "Unexpected error; see the log", close=True)


class _ExactPaths:
    """Accepts one spelling of each path, so that a proxy rule for ``/metrics`` cannot be bypassed.

    Werkzeug accepts ``//metrics`` as ``/metrics``; gunicorn decodes ``/%6detrics`` and truncates ``/metrics#x``.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, target = environ["PATH_INFO"], environ.get("RAW_URI", "")
        if path.startswith("//") or "%" in target.partition("?")[0] or "#" in target:
            environ["PATH_INFO"] = "/no/such/resource"
        return self._app(environ, start_response)


class _CloseOnDemand:
    """WSGI middleware: close the connection after a response with ``Connection: close``, which gunicorn would drop."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Handle a request."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            response = getattr(start_response, "__self__", None)
            if ("Connection", "close") in headers and response is not None:
                response.force_close()
            return start_response(status, headers, *exc_info)

        return self._app(environ, start)
