"""Logging of every process: to stderr, as text or JSON, without personal data.

A log line is a sentence with an ``action`` to search for. Tracebacks contain neither local variables nor error
messages, which may quote rows and secrets. Libraries are logged from INFO on: their debug lines quote requests and
statements.
"""

import logging
import os
import sys
import traceback
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from config.settings import BaseSettings
from config.tracing import is_enabled

MAX_CAUSES = 10
OWN_PACKAGES = ("app", "config", "console", "migrations", "outbox", "relay")


def configure_logging(settings: BaseSettings) -> None:
    """Send the log lines of structlog and the standard library to stderr, in the configured format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_enabled(os.environ):
        from config.otel import add_span_ids

        shared.append(add_span_ids)
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
