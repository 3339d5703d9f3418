"""What the webhook is compared with: the least that a Flask route can do, and one commit for each request.

Between the two, to see where the time goes: that route when it waits for another thread, and the webhook
when nothing is committed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from flask import Flask, Response, request

from app.group_commit import GroupCommitter
from outbox.models import Accepted, NewRow, RecordOutcome
from outbox.store import Store

app = Flask(__name__)


@app.post("/webhook/cxone-data-action")
def take() -> Response:
    """Read the body and answer."""
    request.get_data()
    return Response('{"status": "accepted"}', 202, content_type="application/json")


def handed_over() -> Flask:
    """The same route, but each request waits for another thread, as it does for a group commit."""
    waiting, committer = Flask(__name__), GroupCommitter(_NothingCommitted())

    @waiting.post("/webhook/cxone-data-action")
    def take() -> Response:
        committer.record(NewRow("key", "interaction", "voice", 0, None, None, request.get_data()))
        return Response('{"status": "accepted"}', 202, content_type="application/json")

    return waiting


def nothing_committed() -> Flask:
    """The whole webhook, except that no database is spoken to."""
    return _webhook(lambda _: GroupCommitter(_NothingCommitted()))


def one_commit_a_request() -> Flask:
    """The whole webhook, except that each request's thread commits its own row."""
    return _webhook(_Alone)


def _webhook(committer: Callable[[Store], GroupCommitter]) -> Flask:
    from app.dependencies import EXTENSION
    from app.factory import create_app_from_environ

    webhook = create_app_from_environ()
    dependencies = webhook.extensions[EXTENSION]
    webhook.extensions[EXTENSION] = replace(dependencies, committer=committer(dependencies.committer.store))
    return webhook


class _Alone(GroupCommitter):
    """A committer that does not group."""

    def record(self, row: NewRow, arrived: float | None = None) -> RecordOutcome:  # noqa: ARG002 - as the other
        """Commit this row."""
        (outcome,) = self.store.record([row])
        return outcome


class _NothingCommitted(Store):
    """A ledger that forgets."""

    def __init__(self) -> None:
        """Without a database."""

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Each row counts as new."""
        return [Accepted(1, row.interaction_id, duplicate=False) for row in rows]

    def notify(self, outcomes: Sequence[RecordOutcome]) -> None:
        """Nobody is told."""
