"""The Schema Registry, through the HTTP interface that Confluent defined and others offer.

What any web server may answer is no word of the registry: a 404 means that a schema is missing only with the
registry's own error code. Source: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import quote

from relay.errors import UnavailableError
from relay.http_client import RETRIED_CLIENT_ERRORS, HttpClient, HttpResult, parse_json
from relay.settings import RelaySettings

SCHEMA_TEXT = files("relay.kafka").joinpath("schemas/interaction.avsc").read_text()
ANSWER_SECONDS = 10.0
CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
UNAUTHORIZED = frozenset({401, 403})
NOT_ALLOWED, NOT_FOUND, CONFLICT, TOO_MANY, NOT_IMPLEMENTED = 405, 404, 409, 429, 501
READ_ONLY_MODE = 42205
T = TypeVar("T")
PATH_CURE = (
    "check the host and the path of SCHEMA_REGISTRY_URL (Apicurio's path is /apis/ccompat/v7, other registries have "
    "none or one of their own)"
)


class NotARegistryError(UnavailableError):
    """Whoever answers does not speak the registry's protocol at this URL."""


class NoAnswerError(UnavailableError):
    """Nobody answers, or not in full.

    Attributes:
        cause: name of what went wrong.
    """

    def __init__(self, place: str, cause: str) -> None:
        super().__init__(f"the Schema Registry at {place} does not answer ({cause})")
        self.cause = cause


class RefusedError(Exception):
    """The registry's own answer other than 2xx.

    Attributes:
        status: of HTTP.
        code: the registry's ``error_code``; 0: none, which only a refused login and an overloaded server lack.
    """

    def __init__(self, status: int, code: int) -> None:
        super().__init__(f"{status} ({code})")
        self.status, self.code = status, code


class Registry:
    """A client that tries once; who waits, waits in the open.

    Args:
        settings: of the relay.
    """

    def __init__(self, settings: RelaySettings) -> None:
        self._urls = [url.strip().rstrip("/") for url in settings.schema_registry_url.split(",")]
        self.place = ",".join(url.rsplit("@", 1)[-1] for url in self._urls)
        """The URL without a login."""
        self._login: tuple[str, str] | None = None
        if settings.schema_registry_username is not None:
            password = settings.schema_registry_password
            self._login = (settings.schema_registry_username, password.get_secret_value() if password else "")
        headers = {"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE}
        self._client = HttpClient(1, headers, ANSWER_SECONDS, settings.http_ca_location)

    def register(self, subject: str) -> int:
        """Register the relay's schema, if it is not yet; its id. Raises as ``_ask``."""
        return self._ask("POST", f"/subjects/{_quoted(subject)}/versions", lambda told: int(told["id"]))

    def look_up(self, subject: str) -> int:
        """The id of the relay's schema. Raises as ``_ask``."""
        return self._ask("POST", f"/subjects/{_quoted(subject)}", lambda told: int(told["id"]))

    def is_compatible(self, subject: str) -> bool:
        """Whether the relay's schema could be registered. Raises as ``_ask``."""
        path = f"/compatibility/subjects/{_quoted(subject)}/versions/latest"
        return self._ask("POST", path, lambda told: bool(told["is_compatible"]))

    def schema(self, number: int) -> str:
        """The text of the schema with this id. Raises as ``_ask``."""
        return self._ask("GET", f"/schemas/ids/{number}", lambda told: str(told["schema"]))

    def _ask(self, method: str, path: str, part: Callable[[Any], T]) -> T:
        """A part of the registry's answer; the relay's schema is the body of a POST.

        Raises:
            RefusedError: the registry refuses.
            NoAnswerError: nobody answers.
            NotARegistryError: somebody else answers.
        """
        given: dict[str, Any] = {"json": {"schema": SCHEMA_TEXT}} if method == "POST" else {}
        answer = HttpResult(None, "not asked")
        for url in self._urls:
            answer = self._client.request(method, f"{url}{path}", auth=self._login, **given)
            if answer.status is not None:
                break
        if answer.status is None:
            raise NoAnswerError(self.place, answer.error or "")
        if 200 <= answer.status < 300:
            try:
                return part(parse_json(answer))
            except (ValueError, KeyError, TypeError):
                raise self._stranger(answer.status, "without what a registry answers") from None
        raise self._refusal(answer)

    def _refusal(self, answer: HttpResult) -> RefusedError | NotARegistryError:
        status, code = answer.status or 0, _error_code(answer)
        if 300 <= status < 400:
            return self._stranger(status, "and leads elsewhere, where the relay does not follow")
        no_such_path = status == NOT_FOUND and code == NOT_FOUND  # what is missing in a registry has five digits
        overloaded = status >= 500 and status != NOT_IMPLEMENTED
        if (code and not no_such_path) or overloaded or status in UNAUTHORIZED | RETRIED_CLIENT_ERRORS:
            return RefusedError(status, code)
        return self._stranger(status, "as any web server may, not as a registry does")

    def _stranger(self, status: int, how: str) -> NotARegistryError:
        return NotARegistryError(f"there is no Schema Registry at {self.place}: it answers {status} {how}: {PATH_CURE}")


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


def _error_code(answer: HttpResult) -> int:
    try:
        code = parse_json(answer)["error_code"]
    except (ValueError, KeyError, TypeError):
        return 0
    return code if isinstance(code, int) else 0


def schema_id(settings: RelaySettings, topic: str) -> int:
    """The id of a topic's value schema: registered if we may, else looked up.

    Raises:
        UnavailableError: the registry does not answer, refuses the login or the schema, or does not let us register
            it: the relay waits until it is put right.
    """
    subject, registry = f"{topic}-value", Registry(settings)
    try:
        return registry.register(subject)
    except RefusedError as error:
        if error.status not in UNAUTHORIZED | {NOT_ALLOWED} and error.code != READ_ONLY_MODE:
            raise _told(error, subject) from None
    try:
        return registry.look_up(subject)
    except RefusedError as error:
        raise _told(error, subject) from None


def _told(error: RefusedError, subject: str) -> UnavailableError:
    status = error.status
    if status in UNAUTHORIZED | {NOT_ALLOWED}:
        return UnavailableError(
            f"the Schema Registry refuses the login or its rights ({status}): check SCHEMA_REGISTRY_USERNAME and "
            f"SCHEMA_REGISTRY_PASSWORD, and the right to read subject {subject}"
        )
    if status == TOO_MANY:
        return UnavailableError(
            "the Schema Registry answers 429, too many requests: the relay waits and asks again, nothing is lost "
            "meanwhile; if it lasts, raise the registry's rate limit"
        )
    if status == NOT_FOUND:
        return UnavailableError(
            f"the Schema Registry has no schema under {subject} and the relay may not register one: "
            "register relay/kafka/schemas/interaction.avsc there"
        )
    if 400 <= status < 500 and status not in RETRIED_CLIENT_ERRORS:
        return UnavailableError(
            f"the Schema Registry refuses the schema of {subject} ({status}, {error.code}): "
            "its versions there are not compatible with relay/kafka/schemas/interaction.avsc"
        )
    return UnavailableError(f"the Schema Registry answers {status}: it has to recover, nothing is lost meanwhile")
