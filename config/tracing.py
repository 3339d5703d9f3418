"""Spans of a process, sent to an OpenTelemetry collector if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set.

If it is not set, nothing of OpenTelemetry is imported, and a trace context that somebody else has begun is passed on as
it is. A context is a W3C ``traceparent``.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Literal

import structlog

from config.settings import SettingsError

log = structlog.get_logger(__name__)

ENDPOINT, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
MAX_LINKS = 128
"""Of a span to rows."""

Kind = Literal["SERVER", "CLIENT", "PRODUCER"]
Value = str | int
NO_ATTRIBUTES: Mapping[str, Value] = MappingProxyType({})


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether spans are to be recorded."""
    return bool(environ.get(ENDPOINT))


def check_tracing(environ: Mapping[str, str]) -> None:
    """Check that spans can be recorded, if they are to be.

    Raises:
        SettingsError: The packages are missing, or the protocol is not supported.
    """
    if not is_enabled(environ):
        return
    try:
        import config.otel  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"{ENDPOINT} is set, but OpenTelemetry cannot be imported ({error}): "
            "install cxone-outbox-relay with its extra otel, or unset the variable"
        ) from None
    protocol = environ.get(PROTOCOL) or "http/protobuf"
    if protocol != "http/protobuf":
        raise SettingsError(f"{PROTOCOL}={protocol}: expected http/protobuf, which collectors receive on port 4318")


class Span:
    """A span that nobody records."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent
        """The trace context to pass on; None if there is none."""

    def set(self, name: str, value: Value) -> None:
        """Set an attribute, which must not identify a person."""

    def fail(self, error: str) -> None:
        """Mark the span as failed.

        Args:
            error: Kind of the error; a message might quote a row.
        """


class Tracer:
    """Records no spans, and passes contexts on."""

    @contextmanager
    def span(
        self,
        name: str,  # noqa: ARG002 - used by the tracer that records
        kind: Kind,  # noqa: ARG002
        parent: str | None = None,
        attributes: Mapping[str, Value] = NO_ATTRIBUTES,  # noqa: ARG002
    ) -> Iterator[Span]:
        """A span around a block, which an exception marks as failed.

        Args:
            name: What is done.
            kind: As OpenTelemetry defines it.
            parent: Context in which it is done; None begins a trace.
            attributes: They must not identify a person.
        """
        yield Span(parent)

    @contextmanager
    def batch_span(
        self,
        name: str,  # noqa: ARG002
        kind: Kind,  # noqa: ARG002
        contexts: Iterable[str | None],  # noqa: ARG002
        attributes: Mapping[str, Value] = NO_ATTRIBUTES,  # noqa: ARG002
    ) -> Iterator[Span]:
        """A span around work on many rows, with links to the first ``MAX_LINKS`` sampled ones.

        Args:
            name: As for ``span``, like ``kind`` and ``attributes``.
            kind: See ``name``.
            contexts: Of the rows.
            attributes: See ``name``.
        """
        yield Span(None)

    def stop(self) -> None:
        """Send the last spans, within seconds."""


NO_TRACER = Tracer()


def start_tracer(service: str) -> Tracer:
    """A tracer, which sends spans if this is enabled. Call it after the fork, which its thread would not survive.

    Args:
        service: Name of the process, unless ``OTEL_SERVICE_NAME`` is set.
    """
    if not is_enabled(os.environ):
        return NO_TRACER
    from config.otel import OpenTelemetryTracer

    try:
        return OpenTelemetryTracer(service)
    except (ValueError, RuntimeError) as error:  # the SDK refuses one of its settings
        log.error("traces are off: %s", error, action="traces_off")  # noqa: TRY400 - it says which one
        return NO_TRACER
