"""gunicorn's settings: ``gunicorn -c python:app.gunicorn_conf "app.factory:create_app_from_environ()"``.

Threads wait for the group commit together, so the number of threads bounds how many requests share
one fsync; processes use the cores. ``WEB_CONCURRENCY`` (1 on SQLite, 2 on PostgreSQL) and
``WEB_THREADS`` (16) change them.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.settings import WebSettings
from config.logging import configure_logging
from config.settings import SettingsError, load
from outbox.engine import create_outbox_engine
from outbox.errors import OutboxError
from outbox.transactions import refuse_unsafe


def _settings() -> WebSettings:
    """Settings and the choice of database are checked once, before a process is forked."""
    try:
        settings = load(WebSettings, os.environ)
        configure_logging(settings)
        refuse_unsafe(create_outbox_engine(settings.database_url.get_secret_value(), may_create=False))
    except (SettingsError, OutboxError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    return settings


def _metrics_folder() -> tuple[Path, bool]:
    """Where the processes' metrics are added up, and whether it is ours to remove."""
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not given:
        return Path(tempfile.mkdtemp(prefix="outbox-metrics-")), True
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.db"):  # of an earlier run: it would be counted again
        left.unlink()
    return folder, False


_web = _settings()
_folder, _folder_is_ours = _metrics_folder()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_folder)  # before prometheus-client is imported

bind = _web.bind
worker_class = "app.worker.Worker"
logger_class = "app.worker.RoutedLogger"
loglevel = _web.log_level.lower()
workers = _web.processes
threads = _web.web_threads
graceful_timeout = 25
"""SIGTERM: requests in hand are finished and answered within this time, in seconds."""
timeout = 60
keepalive = _web.web_keepalive_seconds
limit_request_fields = 100
forwarder_headers = ""
"""No header of a proxy may change what path a request has."""
secure_scheme_headers: dict[str, str] = {}
"""What proxies say of the scheme is ignored: gunicorn refuses requests whose headers disagree."""
control_socket_disable = True


def pre_request(_worker: Any, request: Any) -> None:
    """Make a key that was given twice unusable: joined with a comma, it would look like another key."""
    keys = [number for number, (name, _) in enumerate(request.headers) if name == "IDEMPOTENCY-KEY"]
    if len(keys) > 1:
        request.headers[keys[0]] = ("IDEMPOTENCY-KEY", "given twice")


def child_exit(_server: Any, worker: Any) -> None:
    """A worker has ended: its gauges do not count any more."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """The service ends: its metric files go with it."""
    if _folder_is_ours:
        shutil.rmtree(_folder, ignore_errors=True)
