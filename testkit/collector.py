"""An OpenTelemetry collector: receives spans by OTLP/HTTP, and keeps them."""

import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from testkit.waiting import wait_until

Attributes = dict[str, str | int | bool]


class ReceivedSpan(NamedTuple):
    """A span as a collector sees it."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it began its trace."""
    links: list[str]
    """Span ids."""
    attributes: Attributes
    failed: bool
    resource: Attributes
    raw: bytes
    """Everything that was sent about it."""


class Collector:
    """Receives spans until it is closed."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.is_open = threading.Event()
        """While it is not set, requests are read but not answered."""
        self.is_open.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.is_open.wait()
                collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        """Settings of a process that sends its spans here, soon."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[ReceivedSpan]:
        """The spans with this name."""
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[ReceivedSpan]:
        """Wait for this many spans with this name, and return them."""
        wait_until(lambda: len(self.named(name)) >= count, f"the collector has {count} spans {name!r}")
        return self.named(name)

    def close(self) -> None:
        """Stop receiving."""
        self.is_open.set()
        self._server.shutdown()
        self._server.server_close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield ReceivedSpan(
                    service=str(resource["service.name"]),
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=[link.span_id.hex() for link in span.links],
                    attributes=_attributes(span.attributes),
                    failed=span.status.code == 2,
                    resource=resource,
                    raw=span.SerializeToString() + resource_spans.resource.SerializeToString(),
                )


def _attributes(found: Iterable[KeyValue]) -> Attributes:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in found}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector for one test."""
    collector = Collector()
    yield collector
    collector.close()
