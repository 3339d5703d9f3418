"""Logging of every process: to stderr, as lines for people or as JSON, without personal data.

A log line is a sentence plus an ``action`` that machines can search for. Tracebacks come without local variables
and without the errors' messages: both hold rows and secrets. Libraries are never heard below INFO, for what they say
to their developers quotes requests and statements.
"""

import logging
import sys
import traceback
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from config.settings import BaseSettings

MOST_CAUSES = 10
OURS = ("app", "config", "migrations", "outbox", "relay")


def configure_logging(settings: BaseSettings) -> None:
    """Send structlog's and the standard library's lines to stderr in the format wanted."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        last: list[Processor] = [
            structlog.processors.ExceptionRenderer(lambda info: _errors(info[1])),
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [_escape, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_print_errors)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO" if settings.log_level == "DEBUG" else settings.log_level)
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    for chatty in ("httpx", "httpx2"):  # a line for each request, with its URL
        logging.getLogger(chatty).setLevel("WARNING")
    logging.getLogger("urllib3").setLevel("ERROR")  # its warnings quote URLs and answers


def _escape(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """What a service says, and stands in a line, must not steer the terminal; JSON escapes it by itself."""
    return {name: _escaped(value) if isinstance(value, str) else value for name, value in line.items()}


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _errors(error: BaseException | None) -> list[dict[str, Any]]:
    """An error and what caused it, the last one first: kind and frames of each."""
    found: list[dict[str, Any]] = []
    while error is not None and len(found) < MOST_CAUSES:
        found.append({"exc_type": f"{type(error).__module__}.{type(error).__qualname__}", "frames": frames(error)})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def _print_errors(stream: TextIO, info: ExcInfo) -> None:
    stream.writelines(f"\n  {line}" for error in _errors(info[1]) for line in (*error["frames"], error["exc_type"]))


def frames(error: BaseException) -> list[str]:
    """Where an error came from, innermost last: file, line and function, nothing else.

    For errors whose message may quote what somebody sent.
    """
    found = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in found]
