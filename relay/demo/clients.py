"""The demo's clients: senders of interactions, and a consumer of the topic."""

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

from relay.demo.processes import DemoProcesses
from relay.kafka.avro import SCHEMA_TEXT

SENDERS = 16
MAX_ATTEMPTS = 10
READ_TIMEOUT_SECONDS = 60.0
_SCHEMA = fastavro.parse_schema(json.loads(SCHEMA_TEXT))


class ConsumedRecord(NamedTuple):
    """A record of the topic."""

    outbox_id: int
    value: dict[str, Any]


def post_interactions(processes: DemoProcesses, count: int, accepted: Callable[[int], None]) -> None:
    """Post sample interactions to the webhook.

    A request without a 202 response is repeated, as CXone does; a repeated delivery creates no second row.

    Args:
        processes: the demo's processes.
        count: how many to post.
        accepted: called with the outbox id of each 202 response.
    """
    url, headers = processes.webhook_url, {"X-CXone-Webhook-Secret": processes.secret}
    session = requests.Session()
    session.trust_env = False  # no proxy for this machine
    session.mount(url, requests.adapters.HTTPAdapter(pool_maxsize=SENDERS))

    def post(number: int) -> None:
        body = {
            "id": f"interaction-{number % max(1, count // 10):05}",
            "channel": random.Random(number).choice(["voice", "chat", "email", "sms"]),  # noqa: S311 - sample data
            "customer": {"email": f"customer{number % 97}@example.com"},
            "agent": {"id": f"agent-{number % 13}"},
            "turn": number,
        }
        for _attempt in range(MAX_ATTEMPTS):
            try:
                response = session.post(url, json=body, headers=headers, timeout=30)
            except requests.RequestException:
                continue
            if response.status_code == requests.codes.accepted:
                accepted(response.json()["outboxId"])
                return

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(post, range(count)))


def read_topic(config: dict[str, Any], topic: str) -> list[ConsumedRecord]:
    """Read every record that a ``read_committed`` consumer sees, up to the current end of the topic."""
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
    unread = set(
        consumer.list_topics(topic, timeout=10).topics[topic].partitions
    )  # a consumer's request creates no topic
    consumer.assign([TopicPartition(topic, number, 0) for number in unread])
    found, deadline = [], monotonic() + READ_TIMEOUT_SECONDS
    while unread and monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        error = message.error()
        if error is None:
            headers = dict(message.headers() or [])
            value = fastavro.schemaless_reader(io.BytesIO((message.value() or b"")[5:]), _SCHEMA, None)
            found.append(ConsumedRecord(int(headers["outbox-id"] or 0), value))  # type: ignore[arg-type]
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition() or 0)
    consumer.close()
    return found
