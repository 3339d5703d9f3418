"""The Schema Registry: reachable, authorized, with the schema of each topic registered or compatible."""

from relay.check.finding import Finding, failure, ok, unknown, warning
from relay.check.http_service import no_answer
from relay.kafka.schema_registry import (
    CHECK_URL,
    EXPLANATIONS,
    SCHEMA_FILE,
    NoAnswerError,
    NotARegistryError,
    Refusal,
    RefusedError,
    SchemaRegistry,
    subject_of,
)
from relay.settings import RelaySettings

SUBJECT = "schema registry"


def check_registry(settings: RelaySettings) -> list[Finding]:
    """Check the registry and the schema of each topic. Nothing is registered."""
    registry = SchemaRegistry(settings)
    schemas: list[Finding] = []
    for subject in map(subject_of, settings.kafka_topics):
        try:
            schemas.append(_check_schema(registry, subject))
        except RefusedError as error:
            return [*schemas, judge_refusal(registry.address, subject, error)]
        except NotARegistryError as error:
            return [failure(SUBJECT, str(error).removesuffix(f": {CHECK_URL}"), CHECK_URL)]
        except NoAnswerError as error:
            return [no_answer(SUBJECT, registry.address, error.cause, "SCHEMA_REGISTRY_URL")]
    return [ok(SUBJECT, f"{registry.address} answers and accepts the login"), *schemas]


def _check_schema(registry: SchemaRegistry, subject: str) -> Finding:
    try:
        return ok("schema", f"{subject} has the relay's schema, with id {registry.look_up(subject)}")
    except RefusedError as error:
        if error.refusal is not Refusal.NOT_FOUND:
            raise
    try:
        compatible = registry.is_compatible(subject)
    except RefusedError as error:
        if error.refusal is not Refusal.NOT_FOUND:
            raise
        compatible = True  # the subject does not exist, and would begin with the relay's schema
    if not compatible:
        remedy = EXPLANATIONS[Refusal.SCHEMA][1]
        return failure("schema", f"{subject} has versions that are not compatible with the relay's schema", remedy)
    remedy = f"start the relay with the right to register it, or register {SCHEMA_FILE} yourself"
    return warning("schema", f"{subject} does not have the relay's schema yet; it could be registered", remedy)


def judge_refusal(address: str, subject: str, error: RefusedError) -> Finding:
    """Decide what a refusal of the registry means."""
    what, remedy = error.explain(subject)
    detail = f"{address} {what}"
    if error.refusal is Refusal.THROTTLED:
        return unknown(SUBJECT, detail, remedy)
    return failure("schema" if error.refusal is Refusal.SCHEMA else SUBJECT, detail, remedy)
