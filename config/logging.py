"""Logging of every process: to stderr, as lines for people or as JSON, without personal data.

A log line is a sentence plus an ``action`` that machines can search for. Tracebacks come without
local variables, which hold rows and secrets.
"""

import logging
import sys
import traceback

import structlog
from structlog.typing import Processor

from config.settings import BaseSettings


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
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    for chatty in ("httpx", "httpx2"):  # a line for each request, with its URL
        logging.getLogger(chatty).setLevel("WARNING")
    logging.getLogger("urllib3").setLevel("ERROR")  # its warnings quote URLs and answers


def frames(error: BaseException) -> list[str]:
    """Where an error came from, innermost last: file, line and function, nothing else.

    For errors whose message may quote what somebody sent.
    """
    found = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in found]
