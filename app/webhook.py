"""One interaction: authenticate → validate → record → answer."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from time import time
from typing import Any

import structlog
from flask import Blueprint, Response, current_app, request

from app.body import (
    BodyMalformedError,
    BodyTooLargeError,
    BodyTooSlowError,
    arrived_at,
    declared_length,
    read_body,
)
from app.door import Door
from app.metrics import FORM_LABELLED, request_counter
from app.problems import problem
from app.secrets import matching_label
from app.validation import Interaction, InvalidInteractionError, NotJsonError, Problem, parse
from outbox.errors import OutboxError
from outbox.rows import Accepted, KeyReused, NewRow, RecordOutcome

log = structlog.get_logger(__name__)
blueprint = Blueprint("webhook", __name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FORMS = ("application/x-www-form-urlencoded", "multipart/")
RETRY_AFTER_SECONDS = 2

Environ = Mapping[str, Any]
"""A request as WSGI has it. The flow reads its headers here: flask's views on them cost more than the recording."""


@blueprint.post("/webhook/cxone-data-action")
def receive() -> Response:
    """Accept an interaction: 202 once it is committed to the outbox."""
    door: Door = current_app.extensions["door"]
    environ = request.environ
    label = matching_label(door.secrets, environ.get("HTTP_X_CXONE_WEBHOOK_SECRET"))
    if label is None:  # the body is not read
        outcome, answer = "unauthorized", problem(401, "Invalid CXone webhook secret", close=True)
    else:
        outcome, answer = _take(door, environ)
    request_counter(outcome, label or "none").inc()
    return answer


def _take(door: Door, environ: Environ) -> tuple[str, Response]:
    """Outcome for the metrics, and the answer, for an authenticated request."""
    refused = _refused_unread(door, environ)
    if refused is not None:
        return refused
    try:
        body = read_body(environ, door.max_bytes)
    except BodyTooLargeError:
        return "too_large", problem(413, f"The body has more than {door.max_bytes} bytes", close=True)
    except BodyTooSlowError:
        return "too_slow", problem(408, "The body did not arrive whole in time", close=True)
    except BodyMalformedError:
        return "not_http", problem(400, "The body is not in chunks as HTTP/1.1 has them", close=True)
    return _record(door, environ, body)


def _record(door: Door, environ: Environ, body: bytes) -> tuple[str, Response]:
    try:
        row = _row(environ, body, parse(body))
        return _answered(door.recorder.record(row, arrived_at(environ)))
    except NotJsonError as error:
        return "not_json", problem(400, str(error))
    except InvalidInteractionError as error:
        return "invalid", problem(422, "The body is not a valid interaction: see errors", error.problems)
    except OutboxError:
        detail = "The interaction is not known to be stored: send it again, it is taken once"
        return "unavailable", problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS)


def _row(environ: Environ, body: bytes, interaction: Interaction) -> NewRow:
    if environ.get("CONTENT_TYPE", "").lstrip().lower().startswith(_FORMS):
        FORM_LABELLED.inc()
        _warn_of_form_label()
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    return NewRow(
        # The two kinds of key, and those of replays, never meet.
        key=f"key:{key}" if key is not None else f"body:{hashlib.sha256(body).hexdigest()}",
        interaction_id=interaction.interaction_id,
        channel=interaction.channel,
        timestamp_ms=int(time() * 1000) if interaction.timestamp_ms is None else interaction.timestamp_ms,
        customer_email=interaction.customer_email,
        agent_id=interaction.agent_id,
        payload=body,
        traceparent=_traceparent(environ),
    )


@cache
def _warn_of_form_label() -> None:
    """Once a process: a line for each would drown the log, and the metric counts them."""
    log.warning(
        "JSON comes labelled as form data, and is taken as JSON: set the content type to application/json",
        action="form_labelled",
    )


def _refused_unread(door: Door, environ: Environ) -> tuple[str, Response] | None:
    """What can be refused without reading the body."""
    if door.rate_limit is not None and not door.rate_limit.allows():
        detail = "More requests than WEBHOOK_RATE_LIMIT: send it again later"
        return "rate_limited", problem(429, detail, retry_after_seconds=1, close=True)
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
        return "encoded", problem(415, "Content-Encoding is not supported: send the JSON as it is", close=True)
    if (declared_length(environ) or 0) > door.max_bytes:
        return "too_large", problem(413, f"The body has more than {door.max_bytes} bytes", close=True)
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and not _KEY.fullmatch(key):
        return "bad_key", problem(
            400, "Idempotency-Key must be 1 to 255 visible ASCII characters, given once", close=True
        )
    if door.backlog_limit is not None and door.backlog_limit.reached():
        detail = "The backlog has reached WEBHOOK_BACKLOG_LIMIT: send it again later"
        return "backlog", problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS * 5, close=True)
    return None


def _answered(outcome: RecordOutcome) -> tuple[str, Response]:
    if isinstance(outcome, Accepted):
        body: dict[str, object] = {
            "status": "accepted",
            "interactionId": outcome.interaction_id,
            "outboxId": outcome.outbox_id,
        }
        if outcome.duplicate:
            body["duplicate"] = True
        named = "duplicate" if outcome.duplicate else "accepted"
        return named, Response(json.dumps(body), 202, content_type="application/json")
    if isinstance(outcome, KeyReused):
        return "key_reused", problem(409, "The Idempotency-Key was used with another body: take a new key")
    detail = "The database cannot store this interaction"
    return "refused", problem(422, detail, [Problem("", "cannot be stored")])


def _traceparent(environ: Environ) -> str | None:
    """The W3C trace context, if it is valid; dropped otherwise."""
    given = environ.get("HTTP_TRACEPARENT", "")
    return given if _TRACEPARENT.fullmatch(given) else None
