"""Latency: from the webhook's answer until a ``read_committed`` consumer has the record."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from typing import NamedTuple

from confluent_kafka import Consumer

from bench.environment import Environment, Outbox
from bench.report import percentiles
from testkit.relay_process import RelayProcess
from testkit.web_process import PATH, SECRET, WebProcess

SENDERS = 16
BODY = '{"id": "%s", "channel": "voice", "customer": {"email": "someone@example.com"}, "timestamp": %d}'
PATIENCE_SECONDS = 60
WARM_UP_RATE, WARM_UP_TIMES, WARM_UP_SECONDS = 100, 3, 30.0
"""Three times as long as what is measured, half a minute at most: a broker just started is several times as slow,
until its code is compiled."""

Figures = dict[str, float]
Arrive = Callable[[list[str], int], dict[str, float]]
"""Sends interactions evenly, so many a second, and tells when each was committed."""


class Flow(NamedTuple):
    """The whole product with a consumer behind it."""

    web: WebProcess
    relay: RelayProcess
    consumer: Consumer

    def at_rates(self, rates: list[int], seconds: float) -> dict[str, Figures]:
        """As ``at_rates``, of requests to the webhook."""
        return at_rates(partial(_requests, self.web.port), self.consumer, rates, seconds)


def measure(place: Environment, kind: str, shards: int, rates: list[int], seconds: float) -> dict[str, Figures]:
    """Percentiles at each rate, in requests a second."""
    with place.outbox(kind, shards) as outbox, flowing(place, outbox) as flow:
        return flow.at_rates(rates, seconds)


@contextmanager
def flowing(place: Environment, outbox: Outbox) -> Iterator[Flow]:
    """Web, relay and consumer for the block."""
    environ = {"DATABASE_URL": outbox.url, "LOG_LEVEL": "WARNING", "WEB_CONCURRENCY": "1"}
    with ExitStack() as ending:
        web = WebProcess(environ, place.folder / "web.log")
        ending.callback(web.stop)
        relay = place.relay(outbox.settings)
        ending.callback(relay.stop)
        consumer = place.consumer(outbox.topic)
        ending.callback(consumer.close)
        yield Flow(web, relay, consumer)


def at_rates(arrive: Arrive, consumer: Consumer, rates: list[int], seconds: float) -> dict[str, Figures]:
    """Percentiles from each commit to its record, and the rate that was reached, at each rate; after a warm-up."""
    _at_rate(arrive, consumer, WARM_UP_RATE, min(WARM_UP_SECONDS, WARM_UP_TIMES * seconds))
    return {f"at {rate}/s": _at_rate(arrive, consumer, rate, seconds) for rate in rates}


def _at_rate(arrive: Arrive, consumer: Consumer, rate: int, seconds: float) -> Figures:
    seen: dict[str, float] = {}
    name, count, done = uuid.uuid4().hex[:6], int(rate * seconds), threading.Event()
    reader = threading.Thread(target=_read, args=(consumer, seen, count, done), daemon=True)
    reader.start()
    began = time.perf_counter()
    committed = arrive([f"{name}-{number}" for number in range(count)], rate)
    reached = count / (time.perf_counter() - began)
    assert done.wait(PATIENCE_SECONDS), f"{len(seen)} of {count} records came"
    times = [max(0.0, seen[interaction] - moment) for interaction, moment in committed.items()]
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
