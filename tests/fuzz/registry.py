"""What the Schema Registry answers.

Whatever it is, each request ends with a result of its kind or an error that makes the relay wait and quotes nothing.
A schema id is one that fits into a record. Afterwards a proper answer is understood.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from relay.check.registry import check_registry
from relay.errors import UnavailableError
from relay.http_client import MAX_REQUEST_SECONDS
from relay.kafka.encoder import make_encoder
from relay.kafka.schema_registry import RefusedError, SchemaRegistry
from relay.settings import RelaySettings
from tests.fuzz.answers import Current, json_answer, serve
from tests.fuzz.corpus import Input
from tests.fuzz.log import CapturedLog, assert_unquoted

CANARY, PASSWORD = "canary-5f1d", "registry-secret"
PROPER = json_answer(b'{"id": 7}')


class RegistryAnswers:
    """The relay's client of the registry.

    Args:
        base: of the registry.
        current: its answer.
        log: of this process.
    """

    def __init__(self, base: str, current: Current, log: CapturedLog) -> None:
        self._current, self._log = current, log
        self._settings = RelaySettings.model_validate(
            {
                "kafka_bootstrap_servers": "none",
                "schema_registry_url": base,
                "schema_registry_username": "relay",
                "schema_registry_password": PASSWORD,
            }
        )
        self._registry = SchemaRegistry(self._settings)

    def check(self, given: Input) -> None:
        """Make each request."""
        self._current.given = given
        requests: list[Callable[[], object]] = [
            lambda: make_encoder(self._settings),
            lambda: check_registry(self._settings),
            lambda: self._registry.is_compatible("subject"),
            lambda: self._registry.schema(7),
        ]
        for request in requests:
            began = monotonic()
            try:
                request()
            except (UnavailableError, RefusedError) as error:
                assert_unquoted((CANARY, PASSWORD), str(error))
            assert monotonic() - began < 3 * MAX_REQUEST_SECONDS
        self._log.check()

    def finish(self) -> None:
        """Check that a proper answer is understood."""
        self._current.given = Input("answer", PROPER)
        assert self._registry.register("subject") == 7
        make_encoder(self._settings)


@contextmanager
def open_registry(_folder: Path) -> Iterator[RegistryAnswers]:
    """Start the registry."""
    current = Current()
    with serve(current) as server, CapturedLog((CANARY, PASSWORD)) as log:
        yield RegistryAnswers(server.base, current, log)
