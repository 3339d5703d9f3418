"""gunicorn's configuration: ``gunicorn -c python:app.gunicorn_conf "app.factory:create_app_from_environ()"``.

Requests wait for the group commit in threads, so ``WEB_THREADS`` limits how many requests share one fsync.
``WEB_CONCURRENCY`` is the number of processes, which use the cores.
"""

import os
import resource
import sys
from typing import Any

from app.settings import WebSettings
from app.shared_metrics import SharedSlots
from config.gunicorn import require_address
from config.logging import configure_logging
from config.settings import SettingsError, load
from outbox.db.engine import create_outbox_engine
from outbox.db.transactions import refuse_unsafe
from outbox.errors import OutboxError


def _load_settings() -> WebSettings:
    """Load the settings and check the database's URL once, before processes are forked."""
    try:
        settings = load(WebSettings, os.environ)
        configure_logging(settings)
        require_address("WEB_HOST", settings.web_host, "0.0.0.0, :: or 127.0.0.1")
        refuse_unsafe(create_outbox_engine(settings.database_url.get_secret_value(), may_create=False))
    except (SettingsError, OutboxError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    return settings


def _raise_descriptor_limit() -> None:
    """Allow as many file descriptors, and so connections, as the hard limit permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_web = _load_settings()
_raise_descriptor_limit()
_slots = SharedSlots(4 * _web.processes + 8)  # during a reload, old and new processes run at the same time

bind = _web.bind
worker_class = "app.gunicorn_worker.Worker"
logger_class = "config.gunicorn.RoutedLogger"
loglevel = _web.log_level.lower()
preload_app = True
"""The application is created once, before the fork. If each process read the settings, a secret's file that is missing
later would keep replaced processes from booting, which would end the service.
"""
workers = _web.processes
threads = _web.web_threads
worker_connections = 4096
"""Maximum number of connections of a process; beyond that, the least valuable are closed."""
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a nameless heartbeat file
"""The heartbeat file is in memory: a disk that stalls must not stall the poller."""
graceful_timeout = 25
"""After SIGTERM, running requests are finished within this time, in seconds."""
timeout = 60
keepalive = _web.web_keepalive_seconds
http_parser = "python"
"""By default gunicorn uses its parser in C if that happens to be installed, which is less strict: its version 0.6.10
accepts two spaces in the request line. The protections are tested with this one.
"""
limit_request_fields = 100
limit_request_field_size = 8190
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
"""gunicorn refuses contradictory headers about TLS at a proxy; here they make no difference."""
forwarder_headers = ""
"""No header of a proxy may change the path of a request."""
proxy_protocol = False
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Refuse TLS, which the worker does not support: a handshake would occupy a thread."""
    if server.cfg.is_ssl:
        sys.stderr.write(
            "gunicorn's TLS (certfile, keyfile) is not supported: put a proxy in front that terminates TLS\n"
        )
        sys.exit(1)


def pre_request(_worker: Any, request: Any) -> None:
    """Invalidate an Idempotency-Key that is given twice: joined with a comma, it would look like another key."""
    keys = [number for number, (name, _) in enumerate(request.headers) if name == "IDEMPOTENCY-KEY"]
    if len(keys) > 1:
        request.headers[keys[0]] = ("IDEMPOTENCY-KEY", "given twice")


def pre_fork(server: Any, worker: Any) -> None:
    """Reserve a slot for the metrics of the new process."""
    worker.metrics_slot = _slots.claim()
    if worker.metrics_slot is None:
        server.log.warning("too many processes at once: the metrics of one of them are missing")


def post_worker_init(worker: Any) -> None:
    """Share the metrics with the other processes, and start to count the backlog."""
    from app import metrics
    from app.process_metrics import ProcessMetrics

    metrics.share(_slots, worker.metrics_slot)
    if backlog_metrics := worker.wsgi.extensions.get("backlog_metrics"):  # benchmarks run other applications
        backlog_metrics.start()
        worker.wsgi.extensions["own_metrics"].register(ProcessMetrics(worker.ppid))


def worker_exit(_server: Any, _worker: Any) -> None:
    """Publish the last metrics and log lines of a process that exits."""
    from app import metrics, webhook

    metrics.publish()
    webhook.request_log.flush()


def child_exit(_server: Any, worker: Any) -> None:
    """Free the slot of a process that has ended in any way."""
    _slots.release(worker.metrics_slot)
