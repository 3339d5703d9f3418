"""gunicorn's settings: ``gunicorn -c python:app.gunicorn_conf "app.factory:create_app_from_environ()"``.

Threads wait for the group commit together, so the number of threads bounds how many requests share
one fsync; processes use the cores. ``WEB_CONCURRENCY`` (1 on SQLite, 2 on PostgreSQL) and
``WEB_THREADS`` (16) change them.
"""

import os
import resource
import socket
import sys
from typing import Any

from app.settings import WebSettings
from app.shared_metrics import SharedSlots
from config.logging import configure_logging
from config.settings import SettingsError, load
from outbox.db.engine import create_outbox_engine
from outbox.db.transactions import refuse_unsafe
from outbox.errors import OutboxError


def _settings() -> WebSettings:
    """Settings and the choice of database are checked once, before a process is forked."""
    try:
        settings = load(WebSettings, os.environ)
        configure_logging(settings)
        _check_address(settings.web_host)
        refuse_unsafe(create_outbox_engine(settings.database_url.get_secret_value(), may_create=False))
    except (SettingsError, OutboxError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    return settings


def _check_address(host: str) -> None:
    """Return if this machine has the address; gunicorn would retry, and not name the variable."""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise SettingsError(
            f"WEB_HOST={host}: takes an address of this machine, as 0.0.0.0, :: or 127.0.0.1 ({error.strerror})"
        ) from None


def _allow_descriptors() -> None:
    """As many connections as the system allows, not as many as it allows unasked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


_web = _settings()
_allow_descriptors()
_slots = SharedSlots(4 * _web.processes + 8)  # at each reload, new processes run beside the old ones for a while

bind = _web.bind
worker_class = "app.gunicorn_worker.Worker"
logger_class = "app.gunicorn_worker.RoutedLogger"
loglevel = _web.log_level.lower()
preload_app = True
"""Settings are read once, at the start: a secret's file that has changed or is missing must not keep a process that is
replaced from booting, which would end the service.
"""
workers = _web.processes
threads = _web.web_threads
worker_connections = 4096
"""Most connections of a process; where there are more, the ones that others can best do without are closed."""
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a nameless heartbeat file
"""In memory: a disk that stalls must not stall the poller."""
graceful_timeout = 25
"""SIGTERM: requests in hand are finished and answered within this time, in seconds."""
timeout = 60
keepalive = _web.web_keepalive_seconds
limit_request_fields = 100
limit_request_field_size = 8190
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
"""Whether a proxy spoke TLS makes no difference here, so no header about it is a reason to refuse a request."""
forwarder_headers = ""
"""No header of a proxy may change what path a request has."""
proxy_protocol = False
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Refuse what the worker does not do: a TLS handshake would wait in a thread."""
    if server.cfg.is_ssl:
        sys.stderr.write("gunicorn's TLS (certfile, keyfile) is not supported: put a proxy in front that does it\n")
        sys.exit(1)


def pre_request(_worker: Any, request: Any) -> None:
    """Make a key that was given twice unusable: joined with a comma, it would look like another key."""
    keys = [number for number, (name, _) in enumerate(request.headers) if name == "IDEMPOTENCY-KEY"]
    if len(keys) > 1:
        request.headers[keys[0]] = ("IDEMPOTENCY-KEY", "given twice")


def pre_fork(server: Any, worker: Any) -> None:
    """A place for the metrics of the process to come."""
    worker.metrics_slot = _slots.claim()
    if worker.metrics_slot is None:
        server.log.warning("too many processes at once: what one of them counts is missing from the metrics")


def post_worker_init(worker: Any) -> None:
    """Its metrics count together with those of the other processes from now on; it counts the backlog."""
    from app import metrics

    metrics.share(_slots, worker.metrics_slot)
    if counting := worker.wsgi.extensions.get("backlog_metrics"):  # not in the bare applications of the benches
        counting.start()


def worker_exit(_server: Any, _worker: Any) -> None:
    """A process ends in order: its last requests count, and are in the log, too."""
    from app import metrics, webhook

    metrics.leave_copy()
    webhook.request_log.flush()


def child_exit(_server: Any, worker: Any) -> None:
    """A process has ended, in order or not: its place is free."""
    _slots.release(worker.metrics_slot)
