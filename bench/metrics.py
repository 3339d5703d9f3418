"""Metrics: what they cost web and relay. Without them runs ``bench.unmetered``.

The two sides alternate within each round, and the order from round to round. What a scrape costs is measured by itself.
"""

from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import requests

from bench.drain import time_relays
from bench.environment import Environment, fill
from bench.environment import cpu_seconds as relay_cpu_seconds
from bench.ingest import CONNECTIONS, WARM_UP_SECONDS, append_cost, cpu_seconds, start_webhook
from bench.load import closed_loop
from bench.report import ratio, spread
from testkit.relay_process import RelayProcess
from testkit.web_process import APPLICATION, WebProcess

SIDES = {
    "on": (APPLICATION, "relay"),
    "off": ("bench.unmetered:create_app()", "bench.unmetered"),
}
"""Name of each side to web's application and the relay's module."""
SCRAPES = 50
Figures = dict[str, dict[str, list[float]]]


def measure(
    environment: Environment, database: str, count: int, rounds: int, shards: int, seconds: float
) -> dict[str, Any]:
    """Return the figures for one kind of database."""
    figures: Figures = {name: defaultdict(list) for name in SIDES}
    with ExitStack() as stack:
        servers = {
            name: start_webhook(environment, database, shards, stack, application)
            for name, (application, _) in SIDES.items()
        }
        for server in servers.values():
            closed_loop(server.port, CONNECTIONS, min(WARM_UP_SECONDS, seconds))
        for names in _orders(rounds):
            for name in names:
                append_cost(servers[name], seconds, figures[name])
        web_scrape = _scrape_seconds(servers["on"])
    for names in _orders(rounds):
        for name in names:
            _drain(environment, database, count, shards, SIDES[name][1], figures[name])
    relay_scrape = figures["on"].pop("relay CPU ms/scrape")
    figures["off"].pop("relay CPU ms/scrape")
    return {
        **{name: {what: spread(values, 2) for what, values in measured.items()} for name, measured in figures.items()},
        "on / off": {what: ratio(figures["on"][what], figures["off"][what], 3) for what in figures["on"]},
        "web CPU ms/scrape": round(web_scrape * 1000, 1),
        "relay CPU ms/scrape": spread(relay_scrape, 1),
    }


def _orders(rounds: int) -> list[list[str]]:
    """Return the sides of each round, in turn from the first and from the last."""
    return [list(SIDES)[:: 1 - 2 * (number % 2)] for number in range(rounds)]


def _scrape_seconds(server: WebProcess) -> float:
    before = cpu_seconds(server)
    for _ in range(SCRAPES):
        requests.get(f"{server.base}/metrics", timeout=10).raise_for_status()
    return (cpu_seconds(server) - before) / SCRAPES


def _drain(
    environment: Environment, database: str, count: int, shards: int, module: str, measured: dict[str, list[float]]
) -> None:
    with environment.outbox(database, shards) as outbox:
        fill(outbox.engine, count)
        consumer = environment.consumer(outbox.topic)
        log = environment.folder / "relay-metrics.log"
        relay = RelayProcess(outbox.settings, log, entry=(module, "run"))
        try:
            rate, cost = time_relays(environment, [relay], consumer, outbox.engine, count)
            before = relay_cpu_seconds(relay.pid)
            for _ in range(SCRAPES):
                relay.get("/metrics")
            scrape = (relay_cpu_seconds(relay.pid) - before) / SCRAPES
        finally:
            consumer.close()
            relay.stop()
    measured["rows/s"].append(rate)
    measured["relay CPU us/row"].append(cost["relay CPU us/row"])
    measured["relay CPU ms/scrape"].append(scrape * 1000)
