"""The call after the commit, against an endpoint that misbehaves."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support import new_rows, wait_until
from tests.world import World


class Endpoint:
    """Cuts its first answer short, and is fine afterwards."""

    def __init__(self) -> None:
        endpoint = self
        self.keys: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.keys.append(self.headers["Idempotency-Key"])
                cut = len(endpoint.keys) == 1
                self.send_response(200)
                if cut:
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"64\r\n{" if cut else b"{}")
                self.close_connection = cut

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/score"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint for one test."""
    served = Endpoint()
    yield served
    served.close()


def test_an_answer_that_breaks_off_after_its_status_stops_nobody(world: World, endpoint: Endpoint) -> None:
    """The status decides, whatever becomes of the rest of the answer; each call is made once, none is left."""
    ids = world.record(new_rows(5, interactions=5))
    world.relay(INFERENCE_URL=endpoint.url)
    wait_until(
        lambda: world.query("SELECT count(*) FROM outbox_inference_call WHERE state = 'done'") == [(5,)],
        "every call is done",
    )
    assert sorted(int(key) for key in endpoint.keys) == ids
