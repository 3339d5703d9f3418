"""Latency: time from the webhook's answer until a ``read_committed`` consumer has the record."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from confluent_kafka import Consumer

from bench.environment import Environment, Outbox
from bench.load import post_evenly
from bench.report import percentiles
from testkit.relay_process import RelayProcess
from testkit.web_process import WebProcess

BODY = '{"id": "%s", "channel": "voice", "customer": {"email": "someone@example.com"}, "timestamp": %d}'
TIMEOUT_SECONDS = 60
WARM_UP_RATE, WARM_UP_FACTOR, MAX_WARM_UP_SECONDS = 100, 3, 30.0
"""Warm up three times as long as the measurement, at most 30 s: a new broker is slow until its code is compiled."""

Figures = dict[str, float]
Send = Callable[[list[str], int], dict[str, float]]
"""Sends interactions evenly at a rate per second, and returns when each was committed."""


class Pipeline(NamedTuple):
    """The running product and a consumer of its topic."""

    web: WebProcess
    relay: RelayProcess
    consumer: Consumer

    def at_rates(self, rates: list[int], seconds: float) -> dict[str, Figures]:
        """Measure latency of requests to the webhook at each rate; see ``at_rates``."""
        return at_rates(partial(_post_evenly, self.web.port), self.consumer, rates, seconds)


def measure(
    environment: Environment, database: str, shards: int, rates: list[int], seconds: float
) -> dict[str, Figures]:
    """Return the percentiles at each rate, in requests a second."""
    with environment.outbox(database, shards) as outbox, running_pipeline(environment, outbox) as pipeline:
        return pipeline.at_rates(rates, seconds)


@contextmanager
def running_pipeline(environment: Environment, outbox: Outbox) -> Iterator[Pipeline]:
    """Run web, relay and consumer for the block."""
    environ = {"DATABASE_URL": outbox.url, "LOG_LEVEL": "WARNING"}
    with ExitStack() as ending:
        web = WebProcess(environ, environment.folder / "web.log")
        ending.callback(web.stop)
        relay = environment.relay(outbox.settings)
        ending.callback(relay.stop)
        consumer = environment.consumer(outbox.topic)
        ending.callback(consumer.close)
        yield Pipeline(web, relay, consumer)


def at_rates(send: Send, consumer: Consumer, rates: list[int], seconds: float) -> dict[str, Figures]:
    """Return, after a warm-up, the percentiles from commit to record and the achieved rate, at each rate."""
    _at_rate(send, consumer, WARM_UP_RATE, min(MAX_WARM_UP_SECONDS, WARM_UP_FACTOR * seconds))
    return {f"at {rate}/s": _at_rate(send, consumer, rate, seconds) for rate in rates}


def _at_rate(send: Send, consumer: Consumer, rate: int, seconds: float) -> Figures:
    seen: dict[str, float] = {}
    name, count, done = uuid.uuid4().hex[:6], int(rate * seconds), threading.Event()
    reader = threading.Thread(target=_read, args=(consumer, seen, count, done), daemon=True)
    reader.start()
    began = time.perf_counter()
    committed = send([f"{name}-{number}" for number in range(count)], rate)
    achieved = count / (time.perf_counter() - began)
    assert done.wait(TIMEOUT_SECONDS), f"only {len(seen)} of {count} records arrived in {TIMEOUT_SECONDS} s"
    times = [max(0.0, seen[interaction] - at) for interaction, at in committed.items()]
    return {**percentiles(times), "achieved rate/s": round(achieved)}


def _post_evenly(port: int, interactions: list[str], rate: int) -> dict[str, float]:
    """Post interactions to the webhook and return when each was answered."""
    bodies = [(BODY % (interaction, number)).encode() for number, interaction in enumerate(interactions)]
    return dict(zip(interactions, post_evenly(port, bodies, rate), strict=True))


def in_groups(commit: Callable[[list[str]], float], interactions: list[str], rate: int) -> dict[str, float]:
    """Commit interactions as the group committer does: what arrives during a commit goes into the next."""
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
