"""A client of the Schema Registry's HTTP API, which Confluent defined and other registries offer.

An answer that any web server may give does not count as the registry's: a 404 means that a schema is missing only if
it carries the registry's own error code.
Source: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

from relay.errors import UnavailableError
from relay.http_client import RETRIED_CLIENT_ERRORS, HttpClient, HttpResult, parse_json
from relay.kafka.avro import SCHEMA_TEXT
from relay.settings import RelaySettings

T = TypeVar("T")
ANSWER_TIMEOUT_SECONDS = 10.0
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
UNAUTHORIZED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
READ_ONLY_MODE = 42205
"""Error code of a registry that accepts no new schemas."""
SCHEMA_FILE = "relay/kafka/schemas/interaction.avsc"
CHECK_URL = (
    "check the host and the path of SCHEMA_REGISTRY_URL (Apicurio's path is /apis/ccompat/v7, other registries have "
    "none or one of their own)"
)


class Refusal(Enum):
    """Why the registry refuses a request."""

    RIGHTS = auto()
    """It refuses the login, or the login lacks a right."""
    READ_ONLY = auto()
    NOT_FOUND = auto()
    """It has no such subject or schema."""
    THROTTLED = auto()
    SCHEMA = auto()
    """It refuses the schema."""
    FAULT = auto()
    """It fails; the same request may succeed later."""


EXPLANATIONS = {
    Refusal.RIGHTS: (
        "refuses the login, or the login lacks a right",
        "check SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD, and the right to read subject {subject}",
    ),
    Refusal.READ_ONLY: ("is in read-only mode", f"register {SCHEMA_FILE} under {{subject}} there"),
    Refusal.NOT_FOUND: (
        "has no such schema under {subject}, and the relay may not register it",
        f"register {SCHEMA_FILE} there",
    ),
    Refusal.THROTTLED: (
        "receives too many requests",
        "wait, the relay retries; if it lasts, raise the registry's rate limit",
    ),
    Refusal.SCHEMA: (
        f"refuses the schema of {{subject}}: the versions there are not compatible with {SCHEMA_FILE}",
        f"make the versions there compatible with {SCHEMA_FILE}, or use another KAFKA_TOPIC",
    ),
    Refusal.FAULT: ("fails", "wait for the registry to recover; rows stay in the outbox meanwhile"),
}
"""For each refusal, what the registry does, and the remedy."""


class NotARegistryError(UnavailableError):
    """The server at this URL does not speak the registry's protocol."""


class NoAnswerError(UnavailableError):
    """No answer, or an incomplete one.

    Attributes:
        cause: what went wrong.
    """

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(f"the Schema Registry at {address} does not answer ({cause})")
        self.cause = cause


class RefusedError(Exception):
    """The registry answers with an error.

    Attributes:
        status: HTTP status.
        code: the registry's ``error_code``; 0: none, as when a proxy refuses the login or is overloaded.
    """

    def __init__(self, status: int, code: int) -> None:
        super().__init__(f"status {status}, error code {code}")
        self.status, self.code = status, code

    @property
    def refusal(self) -> Refusal:
        """Why the request was refused."""
        if self.code == READ_ONLY_MODE:
            return Refusal.READ_ONLY
        if self.status in UNAUTHORIZED | {HTTPStatus.METHOD_NOT_ALLOWED}:
            return Refusal.RIGHTS
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return Refusal.THROTTLED
        if self.status == HTTPStatus.NOT_FOUND:
            return Refusal.NOT_FOUND
        if 400 <= self.status < 500 and self.status not in RETRIED_CLIENT_ERRORS:
            return Refusal.SCHEMA
        return Refusal.FAULT

    def explain(self, subject: str) -> tuple[str, str]:
        """What the registry does, as ``answers 429: …``, and the remedy."""
        what, remedy = (text.format(subject=subject) for text in EXPLANATIONS[self.refusal])
        code = f" (error code {self.code})" if self.code else ""
        return f"answers {self.status}{code}: it {what}", remedy


class SchemaRegistry:
    """A client of the registry. It tries each request once."""

    def __init__(self, settings: RelaySettings) -> None:
        self._urls = [url.strip().rstrip("/") for url in settings.schema_registry_url.split(",")]
        self.address = ",".join(url.rsplit("@", 1)[-1] for url in self._urls)
        """The URL without a login."""
        self._login: tuple[str, str] | None = None
        if settings.schema_registry_username is not None:
            password = settings.schema_registry_password
            self._login = (settings.schema_registry_username, password.get_secret_value() if password else "")
        headers = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE}
        self._client = HttpClient(1, headers, ANSWER_TIMEOUT_SECONDS, settings.http_ca_location)

    def register(self, subject: str) -> int:
        """Register the relay's schema unless it is registered; its id. Raises as ``_request``."""
        return self._request("POST", f"/subjects/{quote(subject, safe='')}/versions", _schema_id)

    def look_up(self, subject: str) -> int:
        """The id of the relay's schema. Raises as ``_request``."""
        return self._request("POST", f"/subjects/{quote(subject, safe='')}", _schema_id)

    def is_compatible(self, subject: str) -> bool:
        """Whether the relay's schema could be registered. Raises as ``_request``."""
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        return self._request("POST", path, _is_compatible)

    def schema(self, schema_id: int) -> str:
        """The text of a schema. Raises as ``_request``."""
        return self._request("GET", f"/schemas/ids/{schema_id}", lambda answer: str(answer["schema"]))

    def _request(self, method: str, path: str, extract: Callable[[Any], T]) -> T:
        """Ask each URL in turn until one answers. The body of a POST is the relay's schema.

        Args:
            method: of HTTP.
            path: below the registry's URL.
            extract: takes the result out of the answer's JSON.

        Raises:
            RefusedError: the registry refuses.
            NoAnswerError: no URL answers.
            NotARegistryError: the server that answers is not a registry.
        """
        body: dict[str, Any] = {"json": {"schema": SCHEMA_TEXT}} if method == "POST" else {}
        answer = HttpResult(None, "not asked")
        for url in self._urls:
            answer = self._client.request(method, f"{url}{path}", auth=self._login, **body)
            if answer.status is not None:
                break
        if answer.status is None:
            raise NoAnswerError(self.address, answer.error or "")
        if not 200 <= answer.status < 300:
            raise self._error(answer.status, _error_code(answer))
        try:
            return extract(parse_json(answer))
        except (ValueError, KeyError, TypeError):
            raise self._not_a_registry(answer.status, "without the fields of a registry's answer") from None

    def _error(self, status: int, code: int) -> RefusedError | NotARegistryError:
        if 300 <= status < 400:
            return self._not_a_registry(status, "with a redirect, which the relay does not follow")
        no_such_path = status == code == HTTPStatus.NOT_FOUND  # a registry's own codes have five digits
        overloaded = status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED
        if (code and not no_such_path) or overloaded or status in UNAUTHORIZED | RETRIED_CLIENT_ERRORS:
            return RefusedError(status, code)
        return self._not_a_registry(status, "without a registry's error code")

    def _not_a_registry(self, status: int, detail: str) -> NotARegistryError:
        return NotARegistryError(
            f"there is no Schema Registry at {self.address}: it answers {status} {detail}: {CHECK_URL}"
        )


def _schema_id(answer: Any) -> int:
    """The id of a schema: a record has 32 bits for it, signed.

    Raises:
        ValueError, KeyError, TypeError: there is none.
    """
    found = answer["id"]
    if type(found) is not int or not 0 <= found < 2**31:
        raise ValueError("no schema id")
    return found


def _is_compatible(answer: Any) -> bool:
    """Raises as ``_schema_id``."""
    found = answer["is_compatible"]
    if not isinstance(found, bool):
        raise TypeError("neither true nor false")
    return found


def _error_code(answer: HttpResult) -> int:
    try:
        code = parse_json(answer)["error_code"]
    except (ValueError, KeyError, TypeError):
        return 0
    return code if isinstance(code, int) else 0


def subject_of(topic: str) -> str:
    """The subject that a topic's values are registered under."""
    return f"{topic}-value"


def register_or_look_up(settings: RelaySettings, topic: str) -> int:
    """The id of a topic's value schema: registered if the relay may, otherwise looked up.

    Raises:
        UnavailableError: the registry does not answer, or refuses.
    """
    subject, registry = subject_of(topic), SchemaRegistry(settings)
    try:
        try:
            return registry.register(subject)
        except RefusedError as error:
            if error.refusal not in {Refusal.RIGHTS, Refusal.READ_ONLY}:
                raise
            return registry.look_up(subject)
    except RefusedError as error:
        what, remedy = error.explain(subject)
        raise UnavailableError(f"the Schema Registry {what}: {remedy}") from None
