"""Traces: what they cost web and relay, off, for one interaction in a hundred, and for each.

The three sides alternate within each round. CPU seconds are those of the product's processes, with the thread that
sends spans; the collector is another process, which reads spans and forgets them.
"""

import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy import Engine, text

from bench.drain import drain
from bench.environment import Environment, fill
from bench.ingest import CONNECTIONS, WARM_UP_SECONDS, append_cost, start_webhook
from bench.load import closed_loop
from bench.report import ratio, spread

SIDES = {"off": 0, "1 %": 100, "100 %": 1}
"""Name of each side to the number of interactions of which one is sampled; 0: tracing is off."""
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
Figures = dict[str, dict[str, list[float]]]


def measure(
    environment: Environment, database: str, count: int, rounds: int, shards: int, seconds: float
) -> dict[str, Any]:
    """Return the figures for one kind of database."""
    figures: Figures = {name: defaultdict(list) for name in SIDES}
    with _collector() as endpoint, ExitStack() as stack:
        settings = {name: _settings(endpoint, one_in) for name, one_in in SIDES.items()}
        servers = {name: start_webhook(environment, database, shards, stack, **settings[name]) for name in SIDES}
        for server in servers.values():
            closed_loop(server.port, CONNECTIONS, min(WARM_UP_SECONDS, seconds))
        for _ in range(rounds):
            for name, server in servers.items():
                append_cost(server, seconds, figures[name])
        for _ in range(rounds):
            for name, one_in in SIDES.items():
                _drain(environment, database, count, shards, settings[name], one_in, figures[name])
    found: dict[str, Any] = {
        name: {what: spread(values, 1) for what, values in measured.items()} for name, measured in figures.items()
    }
    for name in (name for name in SIDES if name != "off"):
        found[f"{name} / off"] = {what: ratio(figures[name][what], figures["off"][what]) for what in figures[name]}
    return found


def _settings(endpoint: str, one_in: int) -> dict[str, str]:
    if not one_in:
        return {}
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(1 / one_in)}
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **sampler}


def _drain(
    environment: Environment,
    database: str,
    count: int,
    shards: int,
    settings: Mapping[str, str],
    one_in: int,
    measured: dict[str, list[float]],
) -> None:
    with environment.outbox(database, shards) as outbox:
        fill(outbox.engine, count)
        _give_contexts(outbox.engine, one_in)
        rate, cost = drain(environment, outbox._replace(settings={**outbox.settings, **settings}), count)
    measured["rows/s"].append(rate)
    measured["relay CPU us/row"].append(cost["relay CPU us/row"])


def _give_contexts(engine: Engine, one_in: int) -> None:
    """Give the rows the contexts that a webhook would, one in so many of them sampled."""
    if one_in:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE outbox SET traceparent = '{CONTEXT}0'"))
            connection.execute(text(f"UPDATE outbox SET traceparent = '{CONTEXT}1' WHERE id % {one_in} = 0"))


@contextmanager
def _collector() -> Iterator[str]:
    """Run a collector in a process of its own; yields its URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_collect, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


def _collect(port: "Connection[int, int]") -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()
