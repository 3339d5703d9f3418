"""The least that a Flask route can do, to compare with."""

from flask import Flask, Response, request

BODY = '{"id": "i-%d", "channel": "voice", "customer": {"email": "someone@example.com"}, "turn": %d}'

app = Flask(__name__)


@app.post("/webhook/cxone-data-action")
def take() -> Response:
    """Read the body and answer."""
    request.get_data()
    return Response('{"status": "accepted"}', 202, content_type="application/json")
