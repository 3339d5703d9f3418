"""gunicorn's settings: ``gunicorn -c python:app.gunicorn_conf "app.factory:create_app_from_environ()"``.

Threads wait for the group commit together, so the number of threads bounds how many requests share
one fsync; processes use the cores. ``WEB_CONCURRENCY`` and ``WEB_THREADS`` change them.
"""

import os
import shutil
import sys
import tempfile
from typing import Any

from app.settings import WebSettings
from config.settings import SettingsError, load

try:
    _settings = load(WebSettings, os.environ)
except SettingsError as error:  # before a process is forked: one clear message, not one a worker
    sys.stderr.write(f"{error}\n")
    sys.exit(1)

bind = f"{os.environ.get('WEB_HOST', '0.0.0.0')}:{os.environ.get('PORT', '8000')}"  # noqa: S104 - a public service
worker_class = "gthread"
workers = _settings.web_concurrency
threads = int(os.environ.get("WEB_THREADS", "16"))
graceful_timeout = 25
"""SIGTERM: requests in hand are finished and answered within this time, in seconds."""
timeout = 60
keepalive = 15
limit_request_fields = 100
control_socket_disable = True

# Where the processes' metrics are added up; it must be named before prometheus-client is imported.
_metrics_folder = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="outbox-metrics-"))


def child_exit(_server: Any, worker: Any) -> None:
    """A worker has ended: its gauges do not count any more."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """The service ends: its metric files go with it."""
    shutil.rmtree(_metrics_folder, ignore_errors=True)
