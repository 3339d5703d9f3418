"""Spans as OpenTelemetry's SDK records and sends them; imported only if tracing is enabled.

Spans wait in the SDK's bounded queue for its thread that sends them. If the collector is slow or down, spans are lost,
and a log line a minute says how many.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from time import monotonic
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict

from config.settings import MASK
from config.tracing import MAX_LINKS, NO_ATTRIBUTES, Kind, Span, Tracer, Value
from config.version import VERSION

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 3.0
"""How long the end of a process waits for its last spans to be sent."""
LOG_INTERVAL_SECONDS = 60.0
"""Between two log lines about lost spans."""
DEFAULT_QUEUE_SIZE = 2048
"""Of the SDK, in spans."""

_PROPAGATOR = TraceContextTextMapPropagator()


class OpenTelemetryTracer(Tracer):
    """Records spans, and sends them from a thread of its own.

    Args:
        service: Name of the process, unless ``OTEL_SERVICE_NAME`` is set.
    """

    def __init__(self, service: str) -> None:
        for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel("CRITICAL")  # they quote URLs and responses; see SpanLosses
        logging.getLogger("opentelemetry.util.re").addFilter(_hide_header)
        defaults = Resource.create({"service.name": service, "service.version": VERSION})
        # No shutdown at exit: it would wait for 30 s.
        self._provider = TracerProvider(
            resource=defaults.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        losses = SpanLosses()
        self._provider.add_span_processor(_CountingProcessor(_CountingExporter(OTLPSpanExporter(), losses), losses))
        self._tracer = self._provider.get_tracer(service, VERSION)

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        parent: str | None = None,
        attributes: Mapping[str, Value] = NO_ATTRIBUTES,
        links: Sequence[trace.Link] = (),
    ) -> Iterator[Span]:
        """See ``Tracer``; a span can also have links."""
        with self._tracer.start_as_current_span(
            name,
            _context(parent),
            trace.SpanKind[kind],
            attributes,
            links,
            record_exception=False,  # its message may quote a row
            set_status_on_exception=False,
        ) as recorded:
            span = _RecordedSpan(recorded, parent)
            try:
                yield span
            except BaseException as error:
                span.fail(type(error).__name__)
                raise

    @contextmanager
    def batch_span(
        self,
        name: str,
        kind: Kind,
        contexts: Iterable[str | None],
        attributes: Mapping[str, Value] = NO_ATTRIBUTES,
    ) -> Iterator[Span]:
        """See ``Tracer``.

        The span is a child of the first sampled row's, so that it is sampled as well. As a root of its own, a sampler
        that takes one trace in a hundred would drop 99 in 100 of the batches that contain a sampled row.
        """
        sampled = list(islice((context for context in contexts if context and _is_sampled(context)), MAX_LINKS))
        links = [trace.Link(trace.get_current_span(_context(each)).get_span_context()) for each in sampled]
        with self.span(name, kind, sampled[0] if sampled else None, attributes, links) as span:
            yield span

    def stop(self) -> None:
        """Send the last spans, within ``FLUSH_SECONDS``."""
        flush = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


class _RecordedSpan(Span):
    def __init__(self, span: trace.Span, parent: str | None) -> None:
        context = span.get_span_context()
        super().__init__(_traceparent(context) if context.is_valid else parent)
        self._span = span

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def fail(self, error: str) -> None:
        self._span.set_attribute("error.type", error)
        self._span.set_status(trace.StatusCode.ERROR)


def add_span_ids(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Add the ids of the span in which a line is logged; a processor of structlog."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"], line["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return line


def _hide_header(record: logging.LogRecord) -> bool:
    """Hide a malformed header of ``OTEL_EXPORTER_OTLP_HEADERS``, which may be a token, in the SDK's warning."""
    record.args = (MASK,)
    return True


def _context(traceparent: str | None) -> Context:
    """The context with the span of a traceparent; an empty one if there is none."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context()) if traceparent else Context()


def _traceparent(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _is_sampled(traceparent: str) -> bool:
    return traceparent[-1] in "13579bdf"  # the lowest bit of the flags


class SpanLosses:
    """Counts the spans that the collector does not get, and logs their number at most once a minute."""

    def __init__(self) -> None:
        size = os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE, "")
        self._capacity = int(size) if size.isdecimal() else DEFAULT_QUEUE_SIZE
        self._ended = count(1)
        self._taken = self._overflowed = self._refused = self._logged = 0
        self._next_log = 0.0

    def ended(self) -> None:
        """Count a span that joins the queue; if that is full, the oldest one is lost. Called by any thread."""
        self._overflowed = max(self._overflowed, next(self._ended) - self._taken - self._capacity)

    def taken(self, spans: int) -> None:
        """Count spans that have left the queue."""
        self._taken += spans

    def refused(self, spans: int) -> None:
        """Count spans that the collector did not take."""
        self._refused += spans

    def report(self) -> None:
        """Log how many spans were lost since the last report, if any."""
        lost = self._overflowed + self._refused - self._logged
        if lost and monotonic() >= self._next_log:
            self._next_log = monotonic() + LOG_INTERVAL_SECONDS
            self._logged += lost
            log.warning(
                "%d spans lost: the collector does not take them, or too slowly; check OTEL_EXPORTER_OTLP_ENDPOINT",
                lost, action="spans_lost", spans=lost,
            )  # fmt: skip


class _CountingProcessor(BatchSpanProcessor):
    def __init__(self, exporter: SpanExporter, losses: SpanLosses) -> None:
        super().__init__(exporter)
        self._losses = losses

    def on_end(self, span: ReadableSpan) -> None:
        if span.context and span.context.trace_flags.sampled:
            self._losses.ended()
        super().on_end(span)


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, losses: SpanLosses) -> None:
        self._exporter, self._losses = exporter, losses

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._losses.taken(len(spans))
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._losses.refused(len(spans))
        self._losses.report()
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
