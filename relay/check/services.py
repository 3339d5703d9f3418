"""The services behind HTTP: the Schema Registry, inference, and CXone."""

from urllib.parse import urlsplit

from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.enrichment.oauth import TokenError, fetch_token
from relay.enrichment.request import request_interaction
from relay.enrichment.response import ThrottledError, read_fields
from relay.errors import MisconfiguredError, UnavailableError
from relay.http_client import NAME_UNKNOWN, RETRIED_CLIENT_ERRORS, TLS_FAILED, HttpClient, HttpResult
from relay.inference.policy import require_allowed_host
from relay.kafka.schema_registry import (
    PATH_CURE,
    UNAUTHORIZED,
    NoAnswerError,
    NotARegistryError,
    RefusedError,
    Registry,
)
from relay.settings import RelaySettings

SECONDS = 5.0
NOBODY = "0"
"""An interaction that there is none of: whether CXone lets this client ask is seen without anybody's data."""
NOT_FOUND, TOO_MANY, UNKNOWN_METHOD = 404, 429, 501
COMPATIBLE = "make the versions there compatible with relay/kafka/schemas/interaction.avsc, or use another KAFKA_TOPIC"


# The Schema Registry -------------------------------------------------------------------------------


def check_registry(settings: RelaySettings) -> list[Finding]:
    """Reachable, authorised, and the schema of each topic registered or compatible. Nothing is registered by this."""
    registry = Registry(settings)
    schemas: list[Finding] = []
    for subject in (f"{topic}-value" for topic in settings.kafka_topics):
        try:
            schemas.append(_look_at_schema(registry, subject))
        except RefusedError as error:
            return [*schemas, *judge_registry_error(registry.place, subject, error.status)]
        except NotARegistryError as error:
            return [failure("schema registry", str(error).removesuffix(f": {PATH_CURE}"), PATH_CURE)]
        except NoAnswerError as error:
            return [_silence("schema registry", registry.place, HttpResult(None, error.cause), "SCHEMA_REGISTRY_URL")]
    return [ok("schema registry", f"{registry.place} answers, and takes the login"), *schemas]


def _look_at_schema(registry: Registry, subject: str) -> Finding:
    try:
        return ok("schema", f"{subject} holds the schema as id {registry.look_up(subject)}")
    except RefusedError as error:
        if error.status != NOT_FOUND:
            raise
    try:
        compatible = registry.is_compatible(subject)
    except RefusedError as error:
        if error.status != NOT_FOUND:
            raise
        compatible = True  # no such subject yet: it begins with our schema
    if not compatible:
        return failure("schema", f"{subject} holds versions that do not go with the relay's", COMPATIBLE)
    cure = "start the relay with the right to register it, or register relay/kafka/schemas/interaction.avsc yourself"
    return warning("schema", f"{subject} does not hold the relay's schema yet, and could", cure)


def judge_registry_error(place: str, subject: str, status: int) -> list[Finding]:
    """What a refusal of the registry means, by its HTTP status."""
    seen = f"{place} answers {status}"
    if status in UNAUTHORIZED:
        cure = (
            "check SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD (with some registries an API key and its "
            f"secret, which are not those of Kafka), and the right to read subject {subject}"
        )
        return [failure("schema registry", f"{seen}: it refuses the login or its rights", cure)]
    if status == TOO_MANY:
        cure = "ask again later, or raise the registry's rate limit; the relay asks once at its start"
        return [unknown("schema registry", f"{seen}: too many requests", cure)]
    if 400 <= status < 500 and status not in RETRIED_CLIENT_ERRORS:
        return [failure("schema", f"{seen}: it refuses the schema of {subject}", COMPATIBLE)]
    return [failure("schema registry", seen, "let it recover; rows wait in the outbox meanwhile")]


# Inference -----------------------------------------------------------------------------------------


def check_inference(settings: RelaySettings) -> list[Finding]:
    """Reachable by a connection and an OPTIONS request, which is no call: it has no body and asks for nothing."""
    url = settings.inference_url
    if url is None:
        return [ok("inference", "INFERENCE_URL is not set: no calls are made")]
    host = urlsplit(url).hostname or ""
    try:
        require_allowed_host(url, settings.inference_allowed_hosts)
    except MisconfiguredError as error:
        return [failure("inference", str(error), "add it to INFERENCE_ALLOWED_HOSTS, or correct INFERENCE_URL")]
    headers = {}
    if settings.inference_token:
        headers["Authorization"] = f"Bearer {settings.inference_token.get_secret_value()}"
    client = HttpClient(1, headers, SECONDS, settings.http_ca_location)
    answer = client.request("OPTIONS", url)
    if answer.status is None:
        return [_silence("inference", host, answer, "INFERENCE_URL")]
    return [judge_inference(host, answer.status)]


def judge_inference(host: str, status: int) -> Finding:
    """What an answer to OPTIONS means: any shows that somebody is there, few tell more."""
    seen = f"{host} answers OPTIONS with {status}"
    if status in UNAUTHORIZED:
        return failure("inference", seen, "check INFERENCE_TOKEN, or let the endpoint take it: calls would be parked")
    if status == NOT_FOUND:
        return warning("inference", seen, "check the path of INFERENCE_URL: a 404 to a call parks it")
    if status == TOO_MANY or (status >= 500 and status != UNKNOWN_METHOD):
        return warning("inference", seen, "let it recover: calls wait in the outbox, and are made then")
    return ok("inference", seen)


# CXone ---------------------------------------------------------------------------------------------


def check_oauth(settings: RelaySettings) -> list[Finding]:
    """Whether the OAuth server gives a token, and CXone takes it from this client; it is thrown away."""
    if settings.cxone_enrich_url is None:
        return [ok("oauth", "CXONE_ENRICH_URL is not set: nothing is asked of CXone")]
    host = urlsplit(settings.cxone_oauth_url or "").hostname or ""
    try:
        token = fetch_token(settings)
    except TokenError as error:
        judged = warning if error.outcome == "throttled" else failure
        return [judged("oauth", f"{host} gives no token", str(error))]
    return [ok("oauth", f"{host} gives a token"), _check_enrichment(settings, token)]


def _check_enrichment(settings: RelaySettings, token: str) -> Finding:
    host = urlsplit(settings.cxone_enrich_url or "").hostname or ""
    answer = request_interaction(NOBODY, HttpClient(1, ca_location=settings.http_ca_location), settings, token)
    seen = f"{host} answers {answer.status}" if answer.status else f"{host} does not answer ({answer.error})"
    try:
        read_fields(answer, settings)
    except UnavailableError as error:
        judged = warning if isinstance(error, ThrottledError) else failure
        return judged("enrichment", seen, str(error))
    return ok("enrichment", f"{host} takes the token: asked for interaction {NOBODY} it answers {answer.status}")


# Shared --------------------------------------------------------------------------------------------


def _silence(subject: str, place: str, answer: HttpResult, name: str) -> Finding:
    seen = f"{place} does not answer ({answer.error})"
    if answer.error == TLS_FAILED:
        cure = f"check its certificate and HTTP_CA_LOCATION, or let {name} name the host that the certificate is for"
        return failure(subject, seen, cure)
    if answer.error == NAME_UNKNOWN:
        return failure(subject, seen, f"correct the host in {name}")
    return failure(subject, seen, f"start it, open the way to it, or correct {name}")
