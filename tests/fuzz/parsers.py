"""The parsers of what arrives from others, each with the rules for whatever it is given.

``make fuzz TARGET=parsers`` runs them without processes and sockets, guided by coverage (``tests/fuzz/coverage.py``).
"""

import json
from collections.abc import Callable, Sequence

from app.strict_json import NotJsonError
from app.validation import InvalidInteractionError, parse, placeholders
from outbox.models import PendingRow
from relay.enrichment.oauth import TokenError, parse_token
from relay.enrichment.response import read_fields
from relay.errors import UnavailableError
from relay.http_client import MAX_RETRY_AFTER_SECONDS, HttpResult, parse_retry_after
from relay.kafka import progress
from relay.kafka.encoder import Encoder
from relay.settings import RelaySettings
from tests.fuzz.corpus import load

_ENCODER = Encoder(1)
_ROW = PendingRow(1, 1, "i-1", "voice", 0, None, None, None, None, 0)
_SETTINGS = RelaySettings.model_validate(
    {
        "kafka_bootstrap_servers": "none",
        "schema_registry_url": "http://none",
        "cxone_oauth_url": "https://none/token",
        "cxone_client_id": "client",
        "cxone_client_secret": "secret",
        "cxone_enrich_url": "https://none/{interactionId}",
        "cxone_enrich_email_path": "/customer/email,/fromAddress,/0/email",
    }
)


def body(data: bytes) -> None:
    """A request body: refused for a reason, or an interaction that can be sent."""
    try:
        found = parse(data)
    except NotJsonError:
        return
    except InvalidInteractionError as error:
        json.dumps(error.problems)
        return
    placeholders(found)
    row = _ROW._replace(
        interaction_id=found.interaction_id,
        channel=found.channel,
        timestamp_ms=found.timestamp_ms or 0,
        customer_email=found.customer_email,
        agent_id=found.agent_id,
    )
    _ENCODER.records([row])
    assert "\0" not in f"{row}"


def token(data: bytes) -> None:
    """A token that fits into a header, or an error."""
    for status in (200, 400):
        try:
            found = parse_token(HttpResult(status, None if status == 200 else "HTTP 400", body=data), _SETTINGS)
        except TokenError:
            continue
        assert found.value.isascii()
        assert found.value.isprintable()
        assert found.lifetime_seconds >= 0


def contact(data: bytes) -> None:
    """Fields that can be sent, or an error."""
    try:
        fields = read_fields(HttpResult(200, body=data), _SETTINGS)
    except UnavailableError:
        return
    _ENCODER.records([_ROW._replace(customer_email=fields.customer_email, agent_id=fields.agent_id)])


def retry_after(data: bytes) -> None:
    """Seconds within the limit, or none."""
    found = parse_retry_after(data.decode("latin-1"), 1_764_187_200.0)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER_SECONDS


def progress_record(data: bytes) -> None:
    """A progress record, which is encoded as it was read, or an error."""
    try:
        found = progress.decode(data)
    except ValueError:
        return
    assert progress.decode(progress.encode(found)) == found


PARSERS: dict[str, Callable[[bytes], None]] = {
    each.__name__.replace("_", "-"): each for each in (body, token, contact, retry_after, progress_record)
}


def seeds(name: str) -> Sequence[bytes]:
    """Inputs to begin with: those that were found, and those of the target to which the parser belongs."""
    found = [each.data for each in load("parsers") if each.part == name]
    match name:
        case "body":
            return found + [each.data for each in load("webhook") if each.part == "body"]
        case "token" | "contact":
            return found + [each.data.partition(b"\r\n\r\n")[2] for each in load("cxone") if each.part == name]
    return found
