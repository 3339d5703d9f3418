"""Checks of everything the relay needs, each with a remedy if it fails.

Functions named ``check_…`` query settings and services. Functions named ``judge_…`` only decide what the result means.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from config.settings import BaseSettings, SettingsError, load, unknown_names
from outbox.models import Identity
from relay.check.broker import check_broker
from relay.check.broker_clock import check_clock
from relay.check.cxone import check_oauth
from relay.check.database import check_database
from relay.check.finding import Finding, Status, failure, ok, unknown, warning
from relay.check.inference import check_inference
from relay.check.outbox import judge_identity
from relay.check.progress import check_progress
from relay.check.registry import check_registry
from relay.check.topics import check_topics
from relay.check.transactions import check_transactions
from relay.check.transport import check_database_transport, check_http_transport
from relay.settings import RelaySettings

S = TypeVar("S", bound=BaseSettings)
NOT_CHECKED = "not checked"


def check_all(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield every finding as soon as it is known. Nothing is checked that depends on something that failed."""
    settings, errors = _load(RelaySettings, environ)
    yield from errors or [ok("settings", "every setting is present and valid")]
    for line in unknown_names(environ):
        yield warning("settings", line, "correct the name, or unset it")
    base, _ = _load(BaseSettings, environ)
    identity = None
    if base is not None:
        url = base.database_url.get_secret_value()
        findings, identity = check_database(url)
        yield from findings
        yield from check_database_transport(url)
    if settings is None:
        for subject in ("broker", "schema registry", "inference", "oauth"):
            yield unknown(subject, NOT_CHECKED, "correct the settings first")
        return
    yield from check_http_transport(settings)
    yield from _check_kafka(settings, identity)
    yield from check_registry(settings)
    yield from check_inference(settings)
    yield from check_oauth(settings)


def _load(kind: type[S], environ: Mapping[str, str]) -> tuple[S | None, list[Finding]]:
    try:
        return load(kind, environ), []
    except SettingsError as error:
        lines = dict.fromkeys(str(error).splitlines())
        return None, [failure("settings", line, "correct the setting, then run the check again") for line in lines]


def _check_kafka(settings: RelaySettings, identity: Identity | None) -> Iterator[Finding]:
    findings, admin, cluster = check_broker(settings)
    yield from findings
    if admin is None or cluster is None:
        for subject in ("transactions", "topics"):
            yield unknown(subject, NOT_CHECKED, "correct the failure of the broker first")
        return
    yield check_transactions(settings)
    topics = check_topics(admin, settings, identity.shards if identity else None, len(cluster.brokers))
    yield from topics
    progress = [each.status for each in topics if each.subject.startswith(f"topic {settings.kafka_progress_topic} ")]
    if progress and Status.FAILURE not in progress:  # it exists, and the relay may write to it
        yield check_clock(settings)
    if identity is not None:
        same = judge_identity(settings, identity, cluster.id)
        yield same
        if identity.topic is not None and same.status is Status.OK:
            yield from check_progress(admin, settings, identity)
