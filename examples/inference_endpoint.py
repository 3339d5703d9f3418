"""An inference endpoint that scores each interaction once, although it may be called several times.

The relay calls it at least once for each row that it has sent, with the outbox id as ``Idempotency-Key``: if a relay
dies before it has stored an answer, it makes the call again. This endpoint remembers the answer to each call in
SQLite, and gives a repeated call the same one. The key alone is not enough: a new or restored outbox gives ids out
again, so the body is compared, too.

How the relay reads the status: 2xx is done; 408, 425, 429 and 5xx are tried again (429 and 503 after ``Retry-After``);
any other parks the call for an operator. So answer 4xx only to what will never succeed.

Usage::

    PORT=8500 python inference_endpoint.py scores.db       # then INFERENCE_URL=http://localhost:8500/score
"""

import json
import os
import sqlite3
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TABLE = "CREATE TABLE IF NOT EXISTS scores (key TEXT, request BLOB, score REAL, PRIMARY KEY (key, request))"


class Scores:
    """The answers so far, in a file."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute(TABLE)
        self._lock = threading.Lock()

    def get(self, key: str, request: bytes) -> float:
        """Return the score of a call: the one that was given before, or a new one, which is stored first."""
        with self._lock, self._database:  # the second of two equal calls at once waits, and finds the first one's score
            found = self._database.execute("SELECT score FROM scores WHERE (key, request) = (?, ?)", (key, request))
            if known := found.fetchone():
                return float(known[0])
            score = _infer(json.loads(request)["interactionId"])
            self._database.execute("INSERT INTO scores VALUES (?, ?, ?)", (key, request, score))
            return score


def _infer(interaction_id: str) -> float:
    """Score an interaction. Your model goes here."""
    print(f"scored {interaction_id}", flush=True)
    return zlib.crc32(interaction_id.encode()) / 2**32


class Handler(BaseHTTPRequestHandler):
    """Answers ``POST /score``."""

    protocol_version = "HTTP/1.1"
    scores: Scores

    def do_POST(self) -> None:
        """Score the interaction in the body."""
        request = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers.get("Idempotency-Key")
        if self.path != "/score" or key is None:
            return self._answer(400, {"error": "expected POST /score with an Idempotency-Key"})
        try:
            return self._answer(200, {"score": self.scores.get(key, request)})
        except (ValueError, TypeError, KeyError):
            return self._answer(422, {"error": "expected a JSON object with interactionId"})

    def _answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing but what is scored."""


def main(path: str) -> None:
    """Serve until the process is ended."""
    Handler.scores = Scores(path)
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8500"))), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
