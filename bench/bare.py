"""What the webhook is compared with: the least that a Flask route can do, and one commit for each request."""

from flask import Flask, Response, request

app = Flask(__name__)


@app.post("/webhook/cxone-data-action")
def take() -> Response:
    """Read the body and answer."""
    request.get_data()
    return Response('{"status": "accepted"}', 202, content_type="application/json")


def one_commit_a_request() -> Flask:
    """The whole webhook, except that each request's thread commits its own row."""
    from dataclasses import replace

    from app.factory import create_app_from_environ
    from app.recorder import Recorder
    from outbox.rows import NewRow, RecordOutcome

    class Alone(Recorder):
        """A recorder that gathers nothing."""

        def record(self, row: NewRow) -> RecordOutcome:
            """Commit this row."""
            (outcome,) = self._store.record([row])
            return outcome

    webhook = create_app_from_environ()
    door = webhook.extensions["door"]
    webhook.extensions["door"] = replace(door, recorder=Alone(door.recorder._store))  # noqa: SLF001 - for comparison
    return webhook
