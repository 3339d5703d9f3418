"""What Kafka answers: a script has a line for each answer that a proxy changes on its way from a real broker.

Whatever it is, the relay goes on: as soon as the answers are the broker's again, each row is in the topic exactly once
and in order, none is parked, and no error was unexpected. It neither spins nor grows meanwhile.
"""

import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import psutil

from relay.kafka.producer import RECORD_ERRORS
from testkit.databases import migrate
from testkit.deployment import Deployment, settings_for
from testkit.proxied_services import ProxiedKafka
from testkit.rows import new_row
from testkit.services import ExternalService
from testkit.waiting import wait_until
from tests.fuzz.answers import json_answer, serve
from tests.fuzz.corpus import Input
from tests.fuzz.log import LogWatch

CANARY = "canary-5f1d"
ROWS = 5
HOSTILE_SECONDS = 20.0
"""How long the lines of a script may take until the broker's own answers are passed on again."""
RECOVERY_SECONDS = 120.0
MAX_CPU_SHARE = 0.5
MAX_MEMORY_BYTES = 400 * 2**20
PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
ANY = -1
LIBRARY_DEFECT = "rd_slice_narrow_copy: Assertion"
"""After a batch of records with a wrong checksum, librdkafka 2.16 goes on reading from the wrong position, and may
abort the process. Source: https://github.com/confluentinc/confluent-kafka-python/issues/689"""
_HEADER_BYTES = 8
"""Length and correlation id."""
_LINE = re.compile(r"(-?\d{1,3}) ([a-z]+)(?: (-?\d{1,25}))?(?: (-?\d{1,25}))?")
_TOPIC = re.compile(rb"interactions-[0-9a-f]{8}(?:-progress)?")
_KEY = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}/\d")
"""Of a progress record."""
_AT_RANDOM = ("flip", "put")


class Change:
    """A line of a script: ``API-KEY OPERATION NUMBER NUMBER``.

    Answers that contain offsets are not changed at random: of a broker that lies about those nobody could tell. Nor is
    metadata: names in it that are not UTF-8 end the process, in ``list_topics`` of confluent-kafka 2.16.1.
    """

    def __init__(self, api_key: int, operation: str, first: int, second: int) -> None:
        self.api_key, self._operation, self._first, self._second = api_key, operation, first, second

    def fits(self, api_key: int) -> bool:
        """Whether it changes the answer to such a request."""
        if self._operation in _AT_RANDOM and api_key in (PRODUCE, FETCH, LIST_OFFSETS, METADATA):
            return False
        return self.api_key in (ANY, api_key)

    def __call__(self, message: bytes) -> bytes:
        """Return what is sent instead."""
        return _OPERATIONS[self._operation](message, self._first, self._second)


def parse(script: bytes) -> list[Change]:
    """Read a script; lines that are none are left out."""
    found = (_LINE.fullmatch(line) for line in script.decode("ascii", "replace").splitlines())
    lines = [match.groups(default="0") for match in found if match]
    return [Change(int(key), name, int(a), int(b)) for key, name, a, b in lines if name in _OPERATIONS]


def _flip(message: bytes, at: int, bit: int) -> bytes:
    at = _HEADER_BYTES + at % (len(message) - _HEADER_BYTES)
    return message[:at] + bytes([message[at] ^ 1 << bit % 8]) + message[at + 1 :]


def _flip_progress(message: bytes, at: int, bit: int) -> bytes:
    """Flip a bit in the value of a progress record, if there is one."""
    key = _KEY.search(message)
    if key is None:
        return message
    at = key.end() + at % 64
    return message[:at] + bytes([message[at] ^ 1 << bit % 8]) + message[at + 1 :] if at < len(message) else message


def _put(message: bytes, at: int, value: int) -> bytes:
    at = _HEADER_BYTES + at % max(1, len(message) - _HEADER_BYTES - 1)
    return message[:at] + (value % 2**16).to_bytes(2, "big") + message[at + 2 :]


def _refuse(message: bytes, code: int, _: int) -> bytes:
    """Put an error code into the answer to a Produce request; those that park rows are left out."""
    topic = _TOPIC.search(message)
    if topic is None or code in RECORD_ERRORS:
        return message
    at = topic.end() + 5
    return message[:at] + (code % 2**16).to_bytes(2, "big") + message[at + 2 :]


def _cut(message: bytes, length: int, _: int) -> bytes:
    return message[: length % len(message)]


def _shorten(message: bytes, length: int, _: int) -> bytes:
    body = message[4 : 4 + length % (len(message) - 4)]
    return struct.pack(">i", len(body)) + body


def _set_length(message: bytes, length: int, _: int) -> bytes:
    return (length % 2**32).to_bytes(4, "big") + message[4:]


def _set_correlation(message: bytes, number: int, _: int) -> bytes:
    return message[:4] + (number % 2**32).to_bytes(4, "big") + message[8:]


def _append(message: bytes, count: int, _: int) -> bytes:
    body = message[4:] + b"\xff" * (count % 100_000)
    return struct.pack(">i", len(body)) + body


def _noise(_message: bytes, count: int, byte: int) -> bytes:
    return bytes([byte % 256]) * (count % 100_000)


_OPERATIONS: dict[str, Callable[[bytes, int, int], bytes]] = {
    "flip": _flip,
    "progress": _flip_progress,
    "put": _put,
    "refuse": _refuse,
    "cut": _cut,
    "shorten": _shorten,
    "length": _set_length,
    "correlation": _set_correlation,
    "append": _append,
    "noise": _noise,
    "twice": lambda message, _first, _second: message * 2,
    "drop": lambda _message, _first, _second: b"",
}


class KafkaAnswers:
    """A relay whose broker is behind a proxy.

    Args:
        kafka: the broker.
        deployment: of the relay.
    """

    def __init__(self, kafka: ProxiedKafka, deployment: Deployment) -> None:
        self._kafka, self._deployment = kafka, deployment
        self._lock = threading.Lock()
        self._script: list[Change] = []
        self._pause = threading.Event()
        self._ids: list[int] = []
        kafka.proxy.change = self._change
        self._start_relay()
        self._send()
        self._wait_sent()

    def check(self, given: Input) -> None:
        """Change answers while the relay connects and sends; then let it recover."""
        relay, began, cpu = self._relay, monotonic(), self._cpu_seconds()
        with self._lock:
            self._script = parse(given.data)
        self._kafka.proxy.cut()
        self._send()
        while self._script and monotonic() - began < HOSTILE_SECONDS and self._deployment.pending():
            self._pause.wait(0.05)
        with self._lock:
            self._script = []
        self._wait_sent()
        assert self._deployment.query("SELECT count(*) FROM outbox_parked") == [(0,)], "a row is parked"
        seconds, used = monotonic() - began, self._cpu_seconds() - cpu
        assert relay is not self._relay or used < 2 + MAX_CPU_SHARE * seconds, f"{used:.1f} s of CPU in {seconds:.1f} s"
        self._log.check()

    def finish(self) -> None:
        """Check that each row is in the topic exactly once and in order, and that the relay has not grown."""
        self._wait_sent()
        self._deployment.check_exactly_once(self._ids)
        assert self._process.memory_info().rss < MAX_MEMORY_BYTES, self._process.memory_info()
        assert self._relay.degraded() == {}
        assert self._relay.stop() == 0
        self._log.check()

    def _change(self, api_key: int, message: bytes) -> bytes:
        """Apply the first line of the script that fits and changes the message; runs in the proxy's threads."""
        with self._lock:
            for line in self._script:
                if line.fits(api_key) and (changed := line(message)) != message:
                    self._script.remove(line)
                    return changed
        return message

    def _send(self) -> None:
        self._ids += self._deployment.record([new_row(f"i-{number % 2}", channel=CANARY) for number in range(ROWS)])

    def _start_relay(self) -> None:
        self._relay = self._deployment.relay()
        self._process = psutil.Process(self._relay.pid)
        self._log = LogWatch(self._relay.log, secrets=(CANARY,))

    def _cpu_seconds(self) -> float:
        try:
            return sum(self._process.cpu_times()[:2])
        except psutil.NoSuchProcess:  # it has ended: the next wait says why
            return 0.0

    def _wait_sent(self) -> None:
        """Wait until the rows are sent; a relay that has ended is started again, as by a supervisor."""

        def is_over() -> bool:
            return not self._deployment.pending() or not self._relay.running()

        wait_until(is_over, "the rows are sent", RECOVERY_SECONDS)
        if self._relay.running():
            return
        code, logged = self._relay.wait(), self._relay.log.read_text()[-1000:]
        self._log.check()
        self._start_relay()
        self._wait_sent()
        assert LIBRARY_DEFECT in logged, f"the relay has ended: {code}, {logged}"


@contextmanager
def open_kafka(folder: Path) -> Iterator[KafkaAnswers]:
    """Start the broker and the relay."""
    url = f"sqlite:///{folder}/outbox.db"
    migrate(url, 1)
    kafka = ProxiedKafka(folder / "kafka")
    kafka.start()
    try:
        with serve(lambda _request: json_answer(b'{"id": 1}')) as registry:
            environ = settings_for(kafka, ExternalService(registry.base), url)
            environ |= {"KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_servers}
            deployment = Deployment(url, environ, kafka.client_config, folder)
            try:
                yield KafkaAnswers(kafka, deployment)
            finally:
                deployment.close()
    finally:
        kafka.stop()
