"""``relay verify``: each planted fault is found with its kind, and a clean topic has none."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from testkit.command_line import command, expect
from testkit.deployment import Deployment, NewDeployment
from testkit.rows import new_rows
from testkit.topic import ConsumedRecord, create_topics

MAIL = "someone@example.com"


def verdict(deployment: Deployment, *arguments: str, code: int = 0, **environ: str) -> dict[str, Any]:
    """Return what ``relay verify --json`` prints."""
    ended = command(deployment.environ, "verify", "--until", "now", "--json", *arguments, **environ)
    expect(ended, code)
    assert MAIL not in ended.stdout
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def faults(fields: dict[str, Any]) -> dict[str, int]:
    """Return the faults that were found."""
    return {kind: count for kind, count in fields["faults"].items() if count}


def notes(fields: dict[str, Any]) -> dict[str, int]:
    """Return the other findings."""
    return {kind: count for kind, count in fields["notes"].items() if count}


def sent(new_deployment: NewDeployment, count: int = 60, shards: int = 2) -> tuple[Deployment, list[int]]:
    """Deploy, and send rows of ten interactions; return their ids."""
    deployment = new_deployment(shards)
    ids = deployment.record(new_rows(count))
    relay = deployment.relay()
    deployment.wait_drained()
    relay.stop()
    return deployment, ids


def restore(
    deployment: Deployment, change: Callable[[list[ConsumedRecord]], Sequence[ConsumedRecord]]
) -> dict[str, str]:
    """Copy the topic, changed, as a broker's restored disk would have it; return the settings for the copy."""
    copy = f"{deployment.topic}-copy"
    records = change(deployment.seen())
    partitions = 1 + max(record.partition for record in records)
    create_topics(deployment.client_config, NewTopic(copy, partitions, 1))
    produce(deployment, copy, records)
    deployment.execute(f"UPDATE outbox_identity SET topic = '{copy}'")
    return {"KAFKA_TOPIC": copy}


def produce(deployment: Deployment, topic: str, records: Sequence[ConsumedRecord]) -> None:
    """Write records as a producer that is no relay."""
    producer = Producer(deployment.client_config)
    for record in records:
        headers: list[tuple[str, str | bytes | None]] = [
            (name, value.encode()) for name, value in record.headers.items()
        ]
        producer.produce(topic, record.value, record.key.encode(), record.partition, headers=headers)
    assert producer.flush(30) == 0


def test_each_planted_fault_is_found_with_its_kind(new_deployment: NewDeployment) -> None:
    """A missing, a doubled, a swapped, a changed and a foreign record are named, and nothing else is."""
    deployment, ids = sent(new_deployment)
    clean = verdict(deployment, "--values")
    assert (clean["verdict"], clean["rows"], clean["in_topic"], faults(clean)) == ("ok", 60, 60, {})
    seen = {record.outbox_id: record for record in deployment.seen()}
    lost, twice, changed = ids[5], ids[16], ids[27]
    early, late = ids[38], ids[48]  # of one interaction
    foreign = seen[lost]._replace(headers={**seen[lost].headers, "outbox-id": str(ids[-1] + 1000)})

    def planted(records: list[ConsumedRecord]) -> list[ConsumedRecord]:
        other = {early: seen[late], late: seen[early], changed: seen[changed]._replace(value=seen[ids[28]].value)}
        kept = [other.get(record.outbox_id, record) for record in records if record.outbox_id != lost]
        return [*kept, seen[twice], foreign]

    environ = restore(deployment, planted)
    found = verdict(deployment, "--values", code=4, **environ)
    assert faults(found) == {"missing": 1, "doubled": 1, "out_of_order": 1, "changed": 1, "unknown": 1}
    first = {kind: [sample["id"] for sample in samples] for kind, samples in found["samples"].items()}
    assert first == {
        "missing": [lost],
        "doubled": [twice],
        "out_of_order": [early],
        "changed": [changed],
        "unknown": [ids[-1] + 1000],
    }
    assert notes(found) == {}
    as_text = command(deployment.environ, "verify", "--until", "now", **environ)
    expect(as_text, 4, stdout=f"first: {lost}\n")
    assert MAIL not in as_text.stdout
