"""Diagnosis: each thing that the relay rests on is looked at, judged, and told with its cure.

What is seen and what is made of it are apart: functions named ``check_…`` look, those named
``judge_…`` only decide.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from config.settings import BaseSettings, SettingsError, load, unknown_names
from outbox.models import Identity
from relay.check.broker import check_broker, check_clock, check_transactions
from relay.check.database import check_database
from relay.check.finding import Finding, Status, failure, ok, unknown, warning
from relay.check.progress import check_progress
from relay.check.services import check_inference, check_oauth, check_registry
from relay.check.topics import check_topics
from relay.check.transport import check_database_transport, check_http_transport
from relay.identity import differences
from relay.settings import RelaySettings

S = TypeVar("S", bound=BaseSettings)


def check_all(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every finding, as soon as it is there; what rests on something that fails is not looked at."""
    settings, wrong = _settings(RelaySettings, environ)
    yield from wrong or [ok("settings", "each is there and well formed")]
    for line in unknown_names(environ):
        yield warning("settings", line, "correct the name, or unset it")
    base, _ = _settings(BaseSettings, environ)
    identity = None
    if base is not None:
        findings, identity = check_database(base.database_url.get_secret_value())
        yield from findings
        yield from check_database_transport(base.database_url.get_secret_value())
    if settings is None:
        for subject in ("broker", "schema registry", "inference", "oauth"):
            yield unknown(subject, "not looked at", "correct the settings first")
    else:
        yield from check_http_transport(settings)
        yield from _check_kafka(settings, identity)
        yield from check_registry(settings)
        yield from check_inference(settings)
        yield from check_oauth(settings)


def _settings(kind: type[S], environ: Mapping[str, str]) -> tuple[S | None, list[Finding]]:
    try:
        return load(kind, environ), []
    except SettingsError as error:
        lines = dict.fromkeys(str(error).splitlines())
        return None, [failure("settings", line, "set what it takes, and check again") for line in lines]


def _check_kafka(settings: RelaySettings, identity: Identity | None) -> Iterator[Finding]:
    findings, admin, cluster = check_broker(settings)
    yield from findings
    if admin is None or cluster is None:
        cure = "follow the broker's line first"
        yield from (unknown(subject, "not looked at", cure) for subject in ("transactions", "topics"))
        return
    yield from check_transactions(settings)
    topics = check_topics(admin, settings, identity.shards if identity else None, len(cluster.brokers))
    yield from topics
    progress = f"topic {settings.kafka_progress_topic} "
    verdicts = [finding.verdict for finding in topics if finding.subject.startswith(progress)]
    if verdicts and Status.FAILURE not in verdicts:  # it is there, and may be written to
        yield check_clock(settings)
    if identity is not None:
        same = judge_identity(settings, identity, cluster.id)
        yield same
        if identity.topic is not None and same.verdict is Status.OK:
            yield from check_progress(admin, settings, identity)


def judge_identity(settings: RelaySettings, identity: Identity, cluster_id: str) -> Finding:
    """Whether the outbox is used with what it was used with before: a relay refuses anything else."""
    different = differences(settings, identity, cluster_id)
    if settings.relay_shards not in (None, identity.shards):
        different.insert(0, f"RELAY_SHARDS was {identity.shards}, is {settings.relay_shards}")
    if different:
        cure = "go back to what it was used with: sending with these could lose or double rows"
        return failure("outbox", "; ".join(different), cure)
    told = f"used with topic {identity.topic}" if identity.topic else "not used with any topic yet"
    return ok("outbox", f"{identity.shards} shard(s), {told}")
