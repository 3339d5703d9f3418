"""Applications to compare the webhook with.

The upper bound is a Flask route that does nothing; the lower one is the webhook with one commit per request. Two
more show where the time goes: the route when it waits for another thread, and the webhook without a database.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from flask import Flask, Response, request

from app.dependencies import EXTENSION
from app.group_commit import Arrival, GroupCommitter
from outbox.db.engine import create_outbox_engine
from outbox.models import Accepted, NewRow, RecordOutcome
from outbox.store import Store

app = Flask(__name__)


@app.post("/webhook/cxone-data-action")
def accept() -> Response:
    """Read the body and answer with 202."""
    request.get_data()
    return Response('{"status": "accepted"}', 202, content_type="application/json")


def second_thread() -> Flask:
    """The same route, but each request waits for another thread, as it does for a group commit."""
    waiting, committer = Flask(__name__), GroupCommitter(_DiscardingStore())

    @waiting.post("/webhook/cxone-data-action")
    def accept() -> Response:
        committer.record(NewRow(b"key", "interaction", "voice", 0, None, None, request.get_data()))
        return Response('{"status": "accepted"}', 202, content_type="application/json")

    return waiting


def without_database() -> Flask:
    """The webhook, but nothing is committed."""
    return _webhook(GroupCommitter(_DiscardingStore()))


def one_commit_per_request() -> Flask:
    """The webhook, but each request's thread commits its own row."""
    return _webhook(_SingleCommitter(Store(create_outbox_engine(os.environ["DATABASE_URL"], may_create=False))))


def _webhook(committer: GroupCommitter) -> Flask:
    from app.factory import create_app_from_environ

    webhook = create_app_from_environ()
    webhook.extensions[EXTENSION] = replace(webhook.extensions[EXTENSION], committer=committer)
    return webhook


class _SingleCommitter(GroupCommitter):
    """Commits each row by itself."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._record = store.record

    def record(self, row: NewRow, arrival: Arrival | None = None) -> RecordOutcome:  # noqa: ARG002 - as in the base
        """Commit one row."""
        (outcome,) = self._record([row])
        return outcome


class _DiscardingStore(Store):
    """Accepts every row and stores none."""

    def __init__(self) -> None:
        """Use no database."""

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Accept each row as new."""
        return [Accepted(1, row.interaction_id, duplicate=False) for row in rows]
