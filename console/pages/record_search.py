"""Searches in Kafka: each may hold a thread for some time limits, so few run at once."""

import os
import threading

from flask import Blueprint, current_app
from flask.sansio.blueprints import BlueprintSetupState

from console.dependencies import dependencies
from outbox.operators.row_history import StoredRow
from relay.kafka.row_verification import KafkaRecord, look_up_record

blueprint = Blueprint("record_search", __name__)
SEARCHES = "kafka_searches"
"""Name of the limit of searches among the extensions of the application."""
MAX_SEARCHES = 2
BUSY = "not looked up: other searches in Kafka are under way; try again in some seconds"


@blueprint.record_once
def add_searches(state: BlueprintSetupState) -> None:
    """Add the limit of searches to the application."""
    state.app.extensions[SEARCHES] = threading.BoundedSemaphore(MAX_SEARCHES)


def look_up(row: StoredRow, *, compare: bool) -> KafkaRecord:
    """Find a row's record, and compare it with the row if asked to, unless as many searches run as may."""
    using = dependencies()
    searches: threading.BoundedSemaphore = current_app.extensions[SEARCHES]
    if not searches.acquire(blocking=False):
        return KafkaRecord(not_seen=BUSY)
    try:
        personal = using.histories.personal_values(row.id) if compare else None
        return look_up_record(os.environ, row, using.store.identity(), personal)
    finally:
        searches.release()
