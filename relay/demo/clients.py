"""The demo's senders and its consumer: who posts interactions, and who counts what arrived."""

import io
import json
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, NamedTuple

import fastavro
import requests
from confluent_kafka import Consumer, KafkaError, TopicPartition

from relay.kafka.avro import SCHEMA_TEXT

SENDERS = 16
READ_SECONDS = 60.0
_SCHEMA = fastavro.parse_schema(json.loads(SCHEMA_TEXT))


class Arrived(NamedTuple):
    """A record of the topic."""

    outbox_id: int
    value: dict[str, Any]


def post_all(url: str, secret: str, count: int, accepted: Callable[[int], None]) -> None:
    """Post sample interactions over HTTP; each id of a 202 is passed to ``accepted``.

    An answer other than 202 is sent again, as CXone does: the repeated delivery finds its row.
    """
    session = requests.Session()
    session.trust_env = False  # a proxy does not know this machine
    session.mount(url, requests.adapters.HTTPAdapter(pool_maxsize=SENDERS))

    def post(number: int) -> None:
        body = {
            "id": f"interaction-{number % max(1, count // 10):05}",
            "channel": random.Random(number).choice(["voice", "chat", "email", "sms"]),  # noqa: S311 - sample data
            "customer": {"email": f"customer{number % 97}@example.com"},
            "agent": {"id": f"agent-{number % 13}"},
            "turn": number,
        }
        for _attempt in range(10):
            try:
                answer = session.post(url, json=body, headers={"X-CXone-Webhook-Secret": secret}, timeout=30)
            except requests.RequestException:
                continue
            if answer.status_code == requests.codes.accepted:
                accepted(answer.json()["outboxId"])
                return

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(post, range(count)))


def read_topic(config: dict[str, Any], topic: str) -> list[Arrived]:
    """Every record that a ``read_committed`` consumer sees in the topic, up to its present end."""
    consumer = Consumer(
        {
            **config,
            "group.id": f"demo-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    waiting = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)  # a consumer's look creates nothing
    consumer.assign([TopicPartition(topic, number, 0) for number in waiting])
    found, deadline = [], monotonic() + READ_SECONDS
    while waiting and monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        error = message.error()
        if error is None:
            headers = dict(message.headers() or [])
            value = fastavro.schemaless_reader(io.BytesIO((message.value() or b"")[5:]), _SCHEMA, None)
            found.append(Arrived(int(headers["outbox-id"] or 0), value))  # type: ignore[arg-type]
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            waiting.discard(message.partition() or 0)
    consumer.close()
    return found
