"""The one place where the web process is put together."""

import os
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import structlog
from flask import Flask, Response
from prometheus_client import CollectorRegistry
from sqlalchemy import make_url
from werkzeug.exceptions import HTTPException

from app import health, metrics, webhook
from app.backlog_metrics import BacklogMetrics
from app.dependencies import WebhookDependencies
from app.group_commit import PATIENCE_SECONDS, GroupCommitter
from app.health import Readiness
from app.limits import BacklogLimit, RateLimit
from app.problem_details import problem
from app.settings import WebSettings
from config.logging import configure_logging, frames
from config.settings import load, unknown_names
from outbox.db.engine import create_outbox_engine
from outbox.store import Store

log = structlog.get_logger(__name__)

FREE_THREADS = 2
"""Threads that refuse while the others wait for a commit that hangs."""


def create_app(settings: WebSettings) -> Flask:
    """The web process's application.

    Args:
        settings: of the web process.

    Raises:
        UnsafeDatabaseError: the database cannot be used as it is configured.
    """
    url = settings.database_url.get_secret_value()
    store = Store(create_outbox_engine(url, answer_seconds=PATIENCE_SECONDS, may_create=False))
    app = Flask("app", static_folder=None)
    app.url_map.merge_slashes = False  # a POST must not be redirected
    app.config["METRICS_TOKEN"] = settings.metrics_token.get_secret_value() if settings.metrics_token else None
    rate, backlog = settings.webhook_rate_limit, settings.webhook_backlog_limit
    app.extensions["door"] = WebhookDependencies(
        secrets=settings.secrets(),
        recorder=GroupCommitter(store, max(1, settings.web_threads - FREE_THREADS)),
        max_bytes=settings.webhook_max_bytes,
        rate_limit=RateLimit(rate / settings.processes) if rate else None,
        backlog_limit=BacklogLimit(store, backlog) if backlog else None,
    )
    parsed = make_url(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database is not None
    app.extensions["readiness"] = Readiness(store, Path(parsed.database or "") if is_file else None)
    backlog_metrics = BacklogMetrics(url)
    app.extensions["own_metrics"] = own_metrics = CollectorRegistry()
    own_metrics.register(backlog_metrics)
    app.extensions["backlog_metrics"] = backlog_metrics
    for blueprint in (webhook.blueprint, health.blueprint, metrics.blueprint):
        app.register_blueprint(blueprint)
    openapi = files("app").joinpath("openapi.json").read_bytes()
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(openapi, content_type="application/json"))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    app.wsgi_app = _ExactPaths(_CloseOnDemand(app.wsgi_app))  # type: ignore[method-assign]
    return app


def create_app_from_environ() -> Flask:
    """The application with the settings of the environment; what gunicorn calls before it forks its processes."""
    settings = load(WebSettings, os.environ)
    configure_logging(settings)
    for warning in unknown_names(os.environ):
        log.warning(warning, action="unknown_setting")
    return create_app(settings)


def _http_error(error: HTTPException) -> Response:
    return problem(error.code or 500, error.description or "The request cannot be handled")


def _unexpected(error: Exception) -> Response:
    # Neither its message nor the request is logged: both may hold personal data.
    log.error("a request failed unexpectedly: %s", type(error).__name__, action="unexpected", trace=frames(error))
    return problem(500, "Something unexpected went wrong here; it is in the log", close=True)


class _ExactPaths:
    """Has each resource under one spelling of its path: a proxy that guards ``/metrics`` guards all of it.

    Werkzeug takes ``//metrics`` for ``/metrics``, and the server decodes ``/%6detrics`` and cuts ``/metrics#x``.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, target = environ["PATH_INFO"], environ.get("RAW_URI", "")
        if path.startswith("//") or "%" in target.partition("?")[0] or "#" in target:
            environ["PATH_INFO"] = "/no/such/resource"
        return self._app(environ, start_response)


class _CloseOnDemand:
    """Lets an answer close its connection: gunicorn drops the application's ``Connection`` header."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            response = getattr(start_response, "__self__", None)
            if ("Connection", "close") in headers and response is not None:
                response.force_close()
            return start_response(status, headers, *exc_info)

        return self._app(environ, start)
