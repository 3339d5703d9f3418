"""Latency: from the webhook's answer until a ``read_committed`` consumer has the record."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from itertools import cycle
from typing import Any

from confluent_kafka import Consumer
from sqlalchemy import Engine

from bench.place import Place
from bench.report import percentiles
from outbox.engine import create_outbox_engine
from tests.web_process import PATH, SECRET, WebProcess

SENDERS = 16
BODY = '{"id": "%s", "channel": "voice", "customer": {"email": "someone@example.com"}, "timestamp": %d}'
PATIENCE_SECONDS = 60
WARM_UP_RATE, WARM_UP_SECONDS = 50, 3.0

Send = Callable[[str, int], float]
"""Sends one interaction by its id and number, and tells when it was committed."""


def measure(place: Place, kind: str, shards: int, rates: list[int], seconds: float) -> dict[str, Any]:
    """Percentiles at each rate, in requests a second."""
    url = place.make(kind, shards)
    settings = place.settings(url, shards)
    web = WebProcess({"DATABASE_URL": url, "LOG_LEVEL": "WARNING", "WEB_CONCURRENCY": "1"}, place.folder / "web.log")
    relay = place.relay(settings)
    consumer = place.consumer(settings["KAFKA_TOPIC"])
    try:
        return at_rates(lambda: _webhook(web.port), consumer, rates, seconds)
    finally:
        consumer.close()
        relay.stop()
        web.stop()


def _webhook(port: int) -> Send:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)

    def send(interaction: str, number: int) -> float:
        headers = {"X-CXone-Webhook-Secret": SECRET, "Content-Type": "application/json"}
        connection.request("POST", PATH, BODY % (interaction, number), headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202, answer.status
        return time.perf_counter()

    return send


@contextmanager
def senders(url: str, send: Callable[[Engine, str, int], float]) -> Iterator[Callable[[], Send]]:
    """Gives each thread a connection of its own to send with; all are closed after the block."""
    engines = [create_outbox_engine(url) for _ in range(SENDERS)]
    turns = cycle([partial(send, engine) for engine in engines])
    yield lambda: next(turns)
    for engine in engines:
        engine.dispose()


def at_rates(
    sender: Callable[[], Send], consumer: Consumer, rates: list[int], seconds: float
) -> dict[str, dict[str, float]]:
    """Percentiles at each rate, after a warm-up."""
    _paced(sender, consumer, WARM_UP_RATE, WARM_UP_SECONDS)
    return {f"at {rate}/s": _paced(sender, consumer, rate, seconds) for rate in rates}


def _paced(sender: Callable[[], Send], consumer: Consumer, rate: int, seconds: float) -> dict[str, float]:
    """Interactions arrive evenly, so many a second; each thread has a sender of its own."""
    answered: dict[str, float] = {}
    seen: dict[str, float] = {}
    name, count, done = uuid.uuid4().hex[:6], int(rate * seconds), threading.Event()
    reader = threading.Thread(target=_read, args=(consumer, seen, count, done), daemon=True)
    reader.start()
    began = time.perf_counter()

    def send(first: int) -> None:
        send_one = sender()
        for number in range(first, count, SENDERS):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            interaction = f"{name}-{number}"
            answered[interaction] = send_one(interaction, number)

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(SENDERS)))
    reached = count / (time.perf_counter() - began)
    assert done.wait(PATIENCE_SECONDS), f"{len(seen)} of {count} records came"
    times = [max(0.0, seen[interaction] - at) for interaction, at in answered.items()]
    return {**percentiles(times), "rate reached /s": round(reached)}


def _read(consumer: Consumer, seen: dict[str, float], count: int, done: threading.Event) -> None:
    while len(seen) < count:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            seen[(message.key() or b"").decode()] = time.perf_counter()
    done.set()
