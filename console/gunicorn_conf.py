"""gunicorn's configuration: ``gunicorn -c python:console.gunicorn_conf "console.factory:create_app_from_environ()"``.

One process with threads: what the console keeps in memory, such as tries to sign in, has to be in one place.
"""

import os
import sys

from config.gunicorn import require_address
from config.logging import configure_logging, log_uncaught
from config.settings import SettingsError, load
from console.settings import ConsoleSettings
from console.users import UsersFile, UsersFileError
from outbox.db.engine import create_outbox_engine
from outbox.db.transactions import refuse_unsafe
from outbox.errors import OutboxError


def _load_settings() -> ConsoleSettings:
    """Load the settings and check what they name, before the process is forked."""
    try:
        settings = load(ConsoleSettings, os.environ)
        configure_logging(settings, "console")
        log_uncaught()
        require_address("CONSOLE_HOST", settings.console_host, "127.0.0.1 or ::1")
        refuse_unsafe(create_outbox_engine(settings.database_url.get_secret_value(), may_create=False))
        if settings.console_users_file is not None and settings.console_auth == "file":
            UsersFile(settings.console_users_file)
    except (SettingsError, UsersFileError, OutboxError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    return settings


_console = _load_settings()

bind = _console.bind
worker_class = "gthread"
logger_class = "config.gunicorn.RoutedLogger"
loglevel = _console.log_level.lower()
accesslog = None
"""Addresses of pages are not logged."""
preload_app = True
"""The settings are read once, before the fork."""
workers = 1
threads = _console.console_threads
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a nameless heartbeat file
graceful_timeout = 25
"""After SIGTERM, running requests are finished within this time, in seconds."""
timeout = 60
keepalive = 75
http_parser = "python"
limit_request_fields = 100
limit_request_field_size = 8190
header_map = "drop"
"""A header with an underscore, which would look like the one that the proxy sets, is ignored."""
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
"""No header of a proxy may change the path of a request."""
proxy_protocol = False
control_socket_disable = True
