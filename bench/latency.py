"""Latency: from the webhook's answer until a ``read_committed`` consumer has the record."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

from bench.place import Outbox, Place
from bench.report import percentiles
from tests.web_process import PATH, SECRET, WebProcess

SENDERS = 16
BODY = '{"id": "%s", "channel": "voice", "customer": {"email": "someone@example.com"}, "timestamp": %d}'
PATIENCE_SECONDS = 60
WARM_UP_SECONDS = 3.0


def measure(place: Place, kind: str, shards: int, rates: list[int], seconds: float) -> dict[str, Any]:
    """Percentiles at each rate, in requests a second."""
    with place.outbox(kind, shards) as outbox:
        return latencies(place, outbox, rates, seconds)


def latencies(place: Place, outbox: Outbox, rates: list[int], seconds: float) -> dict[str, Any]:
    """The same with an outbox that is there."""
    web = WebProcess(
        {"DATABASE_URL": outbox.url, "LOG_LEVEL": "WARNING", "WEB_CONCURRENCY": "1"}, place.folder / "web.log"
    )
    relay = place.relay(outbox.settings)
    consumer = place.consumer(outbox.topic)
    try:
        _run(web.port, consumer, 50, min(WARM_UP_SECONDS, seconds))
        return {f"at {rate}/s": _run(web.port, consumer, rate, seconds) for rate in rates}
    finally:
        consumer.close()
        relay.stop()
        web.stop()


def _run(port: int, consumer: Any, rate: int, seconds: float) -> dict[str, Any]:
    answered: dict[str, float] = {}
    seen: dict[str, float] = {}
    name, count, done = uuid.uuid4().hex[:6], int(rate * seconds), threading.Event()
    reader = threading.Thread(target=_read, args=(consumer, seen, count, done), daemon=True)
    reader.start()
    began = time.perf_counter()

    def send(first: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(first, count, SENDERS):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            interaction = f"{name}-{number}"
            headers = {"X-CXone-Webhook-Secret": SECRET, "Content-Type": "application/json"}
            connection.request("POST", PATH, BODY % (interaction, number), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 202, answer.status
            answered[interaction] = time.perf_counter()

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(SENDERS)))
    reached = count / (time.perf_counter() - began)
    assert done.wait(PATIENCE_SECONDS), f"{len(seen)} of {count} records came"
    times = [max(0.0, seen[interaction] - at) for interaction, at in answered.items()]
    return {**percentiles(times), "rate reached /s": round(reached)}


def _read(consumer: Any, seen: dict[str, float], count: int, done: threading.Event) -> None:
    while len(seen) < count:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            seen[message.key().decode()] = time.perf_counter()
    done.set()
