"""Latency: from the webhook's answer until a ``read_committed`` consumer has the record."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from typing import Any

from confluent_kafka import Consumer

from bench.place import Place
from bench.report import percentiles
from tests.web_process import PATH, SECRET, WebProcess

SENDERS = 16
BODY = '{"id": "%s", "channel": "voice", "customer": {"email": "someone@example.com"}, "timestamp": %d}'
PATIENCE_SECONDS = 60
WARM_UP_RATE, WARM_UP_SECONDS = 50, 3.0

Arrive = Callable[[list[str], int], dict[str, float]]
"""Sends interactions evenly, so many a second, and tells when each was committed."""


def measure(place: Place, kind: str, shards: int, rates: list[int], seconds: float) -> dict[str, Any]:
    """Percentiles at each rate, in requests a second."""
    url = place.make(kind, shards)
    settings = place.settings(url, shards)
    web = WebProcess({"DATABASE_URL": url, "LOG_LEVEL": "WARNING", "WEB_CONCURRENCY": "1"}, place.folder / "web.log")
    relay = place.relay(settings)
    consumer = place.consumer(settings["KAFKA_TOPIC"])
    try:
        return at_rates(partial(_requests, web.port), consumer, rates, seconds)
    finally:
        consumer.close()
        relay.stop()
        web.stop()


def at_rates(arrive: Arrive, consumer: Consumer, rates: list[int], seconds: float) -> dict[str, dict[str, float]]:
    """Percentiles at each rate, after a warm-up."""
    _at_rate(arrive, consumer, WARM_UP_RATE, WARM_UP_SECONDS)
    return {f"at {rate}/s": _at_rate(arrive, consumer, rate, seconds) for rate in rates}


def _at_rate(arrive: Arrive, consumer: Consumer, rate: int, seconds: float) -> dict[str, float]:
    seen: dict[str, float] = {}
    name, count, done = uuid.uuid4().hex[:6], int(rate * seconds), threading.Event()
    reader = threading.Thread(target=_read, args=(consumer, seen, count, done), daemon=True)
    reader.start()
    began = time.perf_counter()
    committed = arrive([f"{name}-{number}" for number in range(count)], rate)
    reached = count / (time.perf_counter() - began)
    assert done.wait(PATIENCE_SECONDS), f"{len(seen)} of {count} records came"
    times = [max(0.0, seen[interaction] - at) for interaction, at in committed.items()]
    return {**percentiles(times), "rate reached /s": round(reached)}


def _requests(port: int, interactions: list[str], rate: int) -> dict[str, float]:
    """To the webhook; committed is what it has answered."""
    answered: dict[str, float] = {}
    began = time.perf_counter()

    def send(first: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(first, len(interactions), SENDERS):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            interaction = interactions[number]
            headers = {"X-CXone-Webhook-Secret": SECRET, "Content-Type": "application/json"}
            connection.request("POST", PATH, BODY % (interaction, number), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 202, answer.status
            answered[interaction] = time.perf_counter()

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(SENDERS)))
    return answered


def in_groups(commit: Callable[[list[str]], float], interactions: list[str], rate: int) -> dict[str, float]:
    """As the webhook's recorder does: those that came during a commit go together into the next."""
    committed: dict[str, float] = {}
    began = time.perf_counter()
    while len(committed) < len(interactions):
        time.sleep(max(0.0, began + len(committed) / rate - time.perf_counter()))
        due = int((time.perf_counter() - began) * rate)
        group = interactions[len(committed) : max(due, len(committed)) + 1]
        committed |= dict.fromkeys(group, commit(group))
    return committed


def _read(consumer: Consumer, seen: dict[str, float], count: int, done: threading.Event) -> None:
    while len(seen) < count:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            seen[(message.key() or b"").decode()] = time.perf_counter()
    done.set()
