"""Create the console: the one place where its process is assembled."""

import os
import time
from collections.abc import Callable
from typing import Any

import structlog
from flask import Flask, g
from flask_wtf.csrf import CSRFProtect
from pydantic import SecretStr

from config.logging import configure_logging
from config.settings import load, unknown_names
from console import access, login, metrics, oidc_login, probes
from console.dependencies import EXTENSION, ConsoleDependencies
from console.errors import handle_errors
from console.file_login import FileLogin
from console.login import LoginLimits
from console.metrics import ConsoleMetrics
from console.oidc_login import OidcLogin
from console.oidc_provider import OidcProvider
from console.pages import BLUEPRINTS
from console.protection import MAX_BODY_BYTES, protect
from console.proxy_login import ProxyLogin
from console.sessions import SessionLogin
from console.settings import ConsoleSettings
from console.tries import Tries
from console.users import UsersFile
from outbox.db.engine import create_outbox_engine
from outbox.operators.change import Operations
from outbox.operators.pages import PageReader
from outbox.operators.row_history import RowHistories
from outbox.store import Store
from relay.operator_settings import OperatorSettings

log = structlog.get_logger(__name__)
NAVIGATION = (
    ("overview.show", "Overview", "o"),
    ("problems.show", "Problems", "p"),
    ("rows.show_all", "Rows", "r"),
    ("calls.show", "Calls", "c"),
    ("shards.show", "Shards", "s"),
    ("audit.show", "Audit", "a"),
    ("check.show", "Check", "k"),
)
"""Endpoint, label, and the key that leads there after ``g``."""
CUSTODIANS_NAVIGATION = (("plans.erase", "Erase", "e"), ("plans.prune", "Prune", "u"))


def create_app(settings: ConsoleSettings, operators: OperatorSettings, clock: Callable[[], float] = time.time) -> Flask:
    """Create the application.

    Args:
        settings: of the console.
        operators: of what operators do, here and with commands.
        clock: seconds since the epoch, for sessions and tries to sign in.

    Raises:
        UnsafeDatabaseError: The database cannot be used as it is configured.
        UsersFileError: The file of users cannot be used.
    """
    engine = create_outbox_engine(settings.database_url.get_secret_value(), may_create=False)
    app = Flask("console")
    app.url_map.merge_slashes = False  # one spelling of each path
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.config.update(_config(settings))
    app.extensions[EXTENSION] = ConsoleDependencies(
        engine, operators, Operations(engine), Store(engine), RowHistories(engine), PageReader(engine)
    )
    app.extensions[access.EXTENSION] = _authentication(settings, clock)
    app.extensions[login.EXTENSION] = LoginLimits(Tries(clock), settings.console_proxy_peers)
    app.extensions[metrics.EXTENSION] = ConsoleMetrics()
    app.after_request(metrics.count)
    protect(app, settings.console_prefix)
    CSRFProtect(app)
    handle_errors(app)
    for blueprint in (*BLUEPRINTS, login.blueprint, probes.blueprint, metrics.blueprint):
        app.register_blueprint(blueprint, clock=clock)
    if settings.console_auth == "oidc":
        app.register_blueprint(oidc_login.blueprint)
    app.context_processor(_shown_around_pages)
    return app


def create_app_from_environ() -> Flask:
    """Create the application with the settings of the environment; gunicorn calls this before it forks."""
    settings = load(ConsoleSettings, os.environ)
    configure_logging(settings, "console")
    for warning in unknown_names(os.environ):
        log.warning(warning, action="unknown_setting")
    return create_app(settings, load(OperatorSettings, os.environ))


def _config(settings: ConsoleSettings) -> dict[str, Any]:
    """Return Flask's configuration."""
    is_secure = not settings.is_local or (settings.console_public_url or "").startswith("https:")
    return {
        "SECRET_KEY": settings.console_secret_key.get_secret_value(),
        "MAX_CONTENT_LENGTH": MAX_BODY_BYTES,
        "MAX_FORM_MEMORY_SIZE": MAX_BODY_BYTES,
        "SESSION_COOKIE_NAME": "__Host-console" if is_secure else "console",
        "SESSION_COOKIE_PATH": "/",
        "SESSION_COOKIE_SECURE": is_secure,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Strict",
        "WTF_CSRF_TIME_LIMIT": None,  # the token ends with the session
        "WTF_CSRF_SSL_STRICT": False,  # it reads the referrer, which pages do not send; the origin is checked instead
        "METRICS_TOKEN": _secret(settings.metrics_token),
    }


def _authentication(settings: ConsoleSettings, clock: Callable[[], float]) -> access.Authentication:
    if settings.console_users_file is not None and settings.console_auth == "file":
        return FileLogin(UsersFile(settings.console_users_file), clock)
    if settings.console_auth == "oidc":
        return _oidc_login(settings, clock)
    return ProxyLogin(
        user_header=settings.console_proxy_user_header or "",
        secret_header=settings.console_proxy_secret_header,
        secret=(_secret(settings.console_proxy_secret) or "").encode(),
        roles=settings.console_proxy_roles or {},
        peers=settings.console_proxy_peers,
    )


def _oidc_login(settings: ConsoleSettings, clock: Callable[[], float]) -> OidcLogin:
    provider = OidcProvider(
        settings.console_oidc_issuer or "",
        (settings.console_oidc_client_id or "", _secret(settings.console_oidc_client_secret) or ""),
        settings.console_oidc_scope,
        f"{settings.console_public_url}{settings.console_prefix or ''}/login/callback",
        clock,
        settings.http_ca_location,
    )
    return OidcLogin(provider, settings.console_oidc_roles or {}, settings.console_oidc_groups_claim, clock)


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _shown_around_pages() -> dict[str, Any]:
    """What ``base.html`` shows. It asks nobody: the page may be one that says that nobody can be asked."""
    signs_out = isinstance(access.authentication(), SessionLogin)
    user: access.User | None = g.get("user")
    is_custodian = user is not None and user.role >= access.Role.CUSTODIAN
    navigation = (*NAVIGATION, *CUSTODIANS_NAVIGATION) if is_custodian else NAVIGATION
    return {"user": user, "user_signs_out": signs_out, "navigation": navigation}
