"""Latency: from the webhook's answer until a ``read_committed`` consumer has the record."""

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from typing import Any, NamedTuple

from confluent_kafka import Consumer

from bench.place import Outbox, Place
from bench.report import percentiles
from tests.relay_process import RelayProcess
from tests.web_process import PATH, SECRET, WebProcess

SENDERS = 16
BODY = '{"id": "%s", "channel": "voice", "customer": {"email": "someone@example.com"}, "timestamp": %d}'
PATIENCE_SECONDS = 60
WARM_UP_SECONDS, WARM_UP_RATE = 3.0, 50


class Flow(NamedTuple):
    """The whole product with a consumer behind it."""

    web: WebProcess
    relay: RelayProcess
    consumer: Consumer

    def latency(self, rate: int, seconds: float) -> dict[str, Any]:
        """Percentiles at this rate, in requests a second, and the rate that was reached."""
        return _run(self.web.port, self.consumer, rate, seconds)


def measure(place: Place, kind: str, shards: int, rates: list[int], seconds: float) -> dict[str, Any]:
    """Percentiles at each rate, in requests a second."""
    with place.outbox(kind, shards) as outbox, flowing(place, outbox, min(WARM_UP_SECONDS, seconds)) as flow:
        return {f"at {rate}/s": flow.latency(rate, seconds) for rate in rates}


@contextmanager
def flowing(place: Place, outbox: Outbox, warm_up_seconds: float) -> Iterator[Flow]:
    """Web, relay and consumer for the block, warm."""
    environ = {"DATABASE_URL": outbox.url, "LOG_LEVEL": "WARNING", "WEB_CONCURRENCY": "1"}
    with ExitStack() as ending:
        web = WebProcess(environ, place.folder / "web.log")
        ending.callback(web.stop)
        relay = place.relay(outbox.settings)
        ending.callback(relay.stop)
        consumer = place.consumer(outbox.topic)
        ending.callback(consumer.close)
        flow = Flow(web, relay, consumer)
        flow.latency(WARM_UP_RATE, warm_up_seconds)
        yield flow


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
