"""Logging of every process: to stderr, as text or JSON, without personal data.

A log line is a sentence with an ``action`` to search for. Tracebacks contain neither local variables nor error
messages, which may quote rows and secrets. Libraries are logged from INFO on: their debug lines quote requests and
statements.
"""

import logging
import os
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from config.settings import BaseSettings
from config.tracing import is_enabled

MAX_CAUSES = 10
LIBRARY_ACTIONS = {"gunicorn": "gunicorn", "relay": "kafka_client"}
"""By package; librdkafka's lines have the logger ``relay.librdkafka``."""
OWN_PACKAGES = ("app", "config", "console", "migrations", "outbox", "relay")


def configure_logging(settings: BaseSettings, process: str) -> None:
    """Send the log lines of structlog and the standard library to stderr, in the configured format.

    Args:
        settings: The format, and the least severe level.
        process: Name of the process, which each line has.
    """
    shared = _processors(process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO" if settings.log_level == "DEBUG" else settings.log_level)
    for name in OWN_PACKAGES:
        logging.getLogger(name).setLevel(settings.log_level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    for name in ("httpx", "httpx2"):  # they log the URL of each request
        logging.getLogger(name).setLevel("WARNING")
    logging.getLogger("alembic.runtime.plugins").setLevel("WARNING")  # loaded with the module, it lists itself
    logging.getLogger("urllib3").setLevel("ERROR")  # its warnings quote URLs and responses


def log_uncaught() -> None:
    """Log exceptions that nobody catches, in any thread, and Python's warnings, in the same format."""
    log = structlog.get_logger(__name__)

    def report(error: BaseException | None) -> None:
        log.critical("uncaught %s", type(error).__name__, action="uncaught", exc_info=error)

    sys.excepthook = lambda _kind, error, _traceback: report(error)
    threading.excepthook = lambda args: report(args.exc_value)
    logging.captureWarnings(capture=True)


def _processors(process: str) -> list[Processor]:
    """What every line goes through, whoever logs it."""
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(allow=["action"]),  # the rest would be what libraries choose
        partial(_complete, process),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_enabled(os.environ):
        with suppress(ImportError):  # web and relay do not start without it; the other processes record no spans
            from config.otel import add_span_ids

            processors.append(add_span_ids)
    return processors


def _complete(process: str, _logger: Any, _method: str, line: EventDict) -> EventDict:
    """Add the process, and an action to lines of libraries."""
    line["process"] = process
    if "action" not in line:
        line["action"] = LIBRARY_ACTIONS.get(line["logger"].partition(".")[0], "library")
    return line


def _renderers(settings: BaseSettings) -> list[Processor]:
    if settings.log_format == "json":
        return [
            structlog.processors.ExceptionRenderer(lambda info: _describe_errors(info[1])),
            structlog.processors.JSONRenderer(),
        ]
    return [_escape, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_print_errors)]


def _escape(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Escape control characters of services' messages, which a terminal would interpret; JSON escapes them itself."""
    return {name: _escape_text(value) if isinstance(value, str) else value for name, value in line.items()}


def _escape_text(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _describe_errors(error: BaseException | None) -> list[dict[str, Any]]:
    """Type and frames of an error and of its causes."""
    found: list[dict[str, Any]] = []
    while error is not None and len(found) < MAX_CAUSES:
        found.append({"exc_type": f"{type(error).__module__}.{type(error).__qualname__}", "frames": frames(error)})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def _print_errors(stream: TextIO, info: ExcInfo) -> None:
    stream.writelines(
        f"\n  {line}" for error in _describe_errors(info[1]) for line in (*error["frames"], error["exc_type"])
    )


def frames(error: BaseException) -> list[str]:
    """File, line and function of each frame of an error's traceback, innermost last.

    For errors whose message may quote what somebody sent.
    """
    summary = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in summary]
