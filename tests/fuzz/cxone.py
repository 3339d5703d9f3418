"""What CXone answers: its token endpoint (``token``) and its API (``contact``).

Whatever it is, a request ends with fields that can be stored and sent, or with an error that makes the rows wait and
quotes nothing. At the end interactions are answered by inputs first and properly afterwards: each is completed, none is
given up.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import monotonic

from prometheus_client import CollectorRegistry

from outbox.models import PendingRow
from outbox.store import Store
from relay.backoff import Backoff
from relay.check.cxone import check_oauth
from relay.enrichment.enricher import Enricher
from relay.enrichment.failures import FailurePolicy, FailureRecord
from relay.enrichment.oauth import TokenError, TokenSource
from relay.enrichment.request import request_interaction
from relay.enrichment.response import MAX_AGENT_CHARACTERS, MAX_EMAIL_CHARACTERS, RetryLaterError, read_fields
from relay.enrichment.throttle import Throttle
from relay.errors import UnavailableError
from relay.health import Health
from relay.http_client import MAX_REQUEST_SECONDS, HttpClient
from relay.kafka.encoder import Encoder
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings
from testkit.rows import new_row
from testkit.waiting import wait_until
from tests.fuzz.answers import AnswerServer, Current, Request, json_answer, serve
from tests.fuzz.corpus import Input
from tests.fuzz.log import CapturedLog, assert_unquoted
from tests.fuzz.outbox import new_outbox

CANARY, SECRET = "canary-5f1d", "cxone-secret-of-the-tests"
PROPER_TOKEN = json_answer(b'{"access_token": "token", "expires_in": 3600}')
PROPER_CONTACT = json_answer(b'{"fromAddress": "proper@example.com", "agentId": 7}')
MAX_CONTACTS = 60
OWN_ANSWER_SECONDS = 1.0
"""Answers whose ``Retry-After`` is longer are not used at the end: it is honoured."""


class CxoneAnswers:
    """The relay's clients of CXone.

    Args:
        folder: for the outbox.
        server: CXone.
        current: its answer.
        log: of this process.
    """

    def __init__(self, folder: Path, server: AnswerServer, current: Current, log: CapturedLog) -> None:
        self._folder, self._server, self._current, self._log = folder, server, current, log
        self._settings = RelaySettings.model_validate(
            {
                "kafka_bootstrap_servers": "none",
                "schema_registry_url": "http://none",
                "cxone_oauth_url": f"{server.base}/token",
                "cxone_client_id": "client",
                "cxone_client_secret": SECRET,
                "cxone_enrich_url": f"{server.base}/contacts/{{interactionId}}",
                "cxone_enrich_email_path": "/customer/email,/fromAddress,/0/email",
                "cxone_enrich_rate": 33,
            }
        )
        self._client = HttpClient(1)
        self._used: dict[bytes, None] = {}

    def check(self, given: Input) -> None:
        """Make a request."""
        self._current.given = given
        began = monotonic()
        request = self._check_token if given.part == "token" else self._check_contact
        try:
            request()
        except UnavailableError as error:
            assert_unquoted((CANARY, SECRET), str(error))
            if isinstance(error, RetryLaterError) and error.retry_after_seconds > OWN_ANSWER_SECONDS:
                return
        assert monotonic() - began < 3 * MAX_REQUEST_SECONDS
        assert_unquoted((CANARY, SECRET), repr(check_oauth(self._settings)))
        self._log.check()
        if given.part == "contact" and len(self._used) < MAX_CONTACTS:
            self._used[given.data] = None

    def _check_token(self) -> None:
        tokens = TokenSource(self._settings, Random(1))
        try:
            token = tokens.get()
            assert token.isascii()
            assert token.isprintable()
            request_interaction("i-1", self._client, self._settings, token)
        finally:
            self._current.given = Input("token", PROPER_TOKEN)
        _wait_for_token(tokens)

    def _check_contact(self) -> None:
        fields = read_fields(request_interaction("i-1", self._client, self._settings, "token"), self._settings)
        assert fields.customer_email is None or len(fields.customer_email) <= MAX_EMAIL_CHARACTERS
        assert fields.agent_id is None or len(fields.agent_id) <= MAX_AGENT_CHARACTERS
        Encoder(1).records([_ROW._replace(customer_email=fields.customer_email, agent_id=fields.agent_id)])

    def finish(self) -> None:
        """Let an enricher complete an interaction for each of the first inputs."""
        stop = threading.Event()
        answers = {f"/contacts/i-{number}": data for number, data in enumerate(self._used)}

        def answer(request: Request) -> bytes:
            return PROPER_TOKEN if request.path == "/token" else answers.pop(request.path, PROPER_CONTACT)

        with new_outbox(self._folder) as (engine, lease):
            store = Store(engine)
            rows = [new_row(f"i-{number}", customer_email=None, agent_id=None) for number in range(len(answers))]
            store.record(rows)
            self._server.answer = answer
            enricher = self._enricher(store, stop)
            try:
                wait_until(
                    lambda: len(enricher.complete(store.pending(lease, 1_000))) == len(rows), "all are completed"
                )
                Encoder(1).records(store.pending(lease, 1_000))
            finally:
                stop.set()
        self._log.check()

    def _enricher(self, store: Store, stop: threading.Event) -> Enricher:
        """An enricher with short pauses, which gives up as usual."""
        random, metrics = Random(1), RelayMetrics(CollectorRegistry())
        throttle = Throttle(33, random, Backoff(random, 0.02, 0.1))
        failures = FailureRecord(random, FailurePolicy(pause_seconds=0.1, max_pause_seconds=0.5))
        return Enricher(self._settings, store, stop, Health(), metrics, throttle=throttle, failures=failures)


_ROW = PendingRow(1, 1, "i-1", "voice", 0, None, None, None, None, 0)


def _wait_for_token(tokens: TokenSource) -> None:
    """Assert that a token is there once the endpoint answers properly, after its pause."""

    def get() -> str | None:
        try:
            return tokens.get(rejected="")
        except TokenError:
            return None

    assert wait_until(get, "there is a token", 10)


@contextmanager
def open_cxone(folder: Path) -> Iterator[CxoneAnswers]:
    """Start CXone."""
    current = Current()
    with serve(current) as server, CapturedLog((CANARY, SECRET)) as log:
        yield CxoneAnswers(folder, server, current, log)
