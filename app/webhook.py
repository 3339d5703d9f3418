"""One interaction: authenticate → validate → record → answer."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from time import time
from typing import Any

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import MethodNotAllowed

from app.authentication import matching_label
from app.body import BodyMalformedError, BodyTooLargeError, BodyTooSlowError, arrived_at, declared_length, read_body
from app.bounded_log import BoundedLog, Kind
from app.dependencies import WebhookDependencies
from app.metrics import FORM_LABELLED, PLACEHOLDERS, request_counter
from app.problem_details import problem
from app.validation import Interaction, InvalidInteractionError, NotJsonError, Problem, parse, placeholders
from outbox.errors import OutboxError
from outbox.models import Accepted, KeyReused, NewRow, RecordOutcome

blueprint = Blueprint("webhook", __name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FORMS = ("application/x-www-form-urlencoded", "multipart/")
PATH = "/webhook/cxone-data-action"
RETRY_AFTER_SECONDS = 2

Environ = Mapping[str, Any]
"""A request as WSGI has it. The flow reads its headers here: flask's views on them cost more than the recording."""

request_log = BoundedLog()
"""Refused and doubtful requests: their outcome, label and fields, never a value or an address."""


@blueprint.post(PATH)
def receive() -> Response:
    """Accept an interaction: 202 once it is committed to the outbox."""
    door: WebhookDependencies = current_app.extensions["door"]
    environ = request.environ
    label = matching_label(door.secrets, environ.get("HTTP_X_CXONE_WEBHOOK_SECRET"))
    if label is None:  # the body is not read
        return _refuse("unauthorized", problem(401, "Invalid CXone webhook secret", close=True))
    return _take(door, environ, label)


@blueprint.app_errorhandler(404)
def not_found(_error: Exception) -> Response:
    """Name the path that a mistyped one was meant for: it is easily got wrong in CXone, and every 404 counts."""
    return _refuse("not_found", problem(404, f"Nothing is at this path: interactions are sent to POST {PATH}"))


@blueprint.app_errorhandler(MethodNotAllowed)
def method_not_allowed(error: MethodNotAllowed) -> Response:
    """Name the methods that this path has."""
    allowed = ", ".join(sorted(error.valid_methods or ()))
    answer = problem(405, f"The method is not allowed here: use {allowed}")
    answer.headers["Allow"] = allowed
    return _refuse("method_not_allowed", answer)


def _refuse(outcome: str, answer: Response, label: str = "none", pointers: Iterable[str] = ()) -> Response:
    """Count a refusal and note it in the log."""
    request_counter(outcome, label).inc()
    request_log.note(Kind("refused", outcome, f"request refused: {outcome}", label), pointers)
    return answer


def _take(door: WebhookDependencies, environ: Environ, label: str) -> Response:
    """The answer to an authenticated request."""
    refused = _refused_unread(door, environ)
    if refused is not None:
        return _refuse(*refused, label)
    try:
        body = read_body(environ, door.max_bytes)
    except BodyTooLargeError:
        answer = problem(413, f"The body has more than {door.max_bytes} bytes", close=True)
        return _refuse("too_large", answer, label)
    except BodyTooSlowError:
        return _refuse("too_slow", problem(408, "The body did not arrive whole in time", close=True), label)
    except BodyMalformedError:
        answer = problem(400, "The body is not in chunks as HTTP/1.1 has them", close=True)
        return _refuse("not_http", answer, label)
    return _record(door, environ, body, label)


def _record(door: WebhookDependencies, environ: Environ, body: bytes, label: str) -> Response:
    try:
        interaction = parse(body)
        recorded = door.recorder.record(_row(environ, body, interaction), arrived_at(environ))
    except NotJsonError as error:
        return _refuse("not_json", problem(400, str(error)), label)
    except InvalidInteractionError as error:
        answer = problem(422, "The body is not a valid interaction: see errors", error.problems)
        return _refuse("invalid", answer, label, [each.pointer for each in error.problems])
    except OutboxError:
        detail = "The interaction is not known to be stored: send it again, it is taken once"
        return _refuse("unavailable", problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS), label)
    _note_doubts(environ, interaction, label)
    return _answer(recorded, label)


def _note_doubts(environ: Environ, interaction: Interaction, label: str) -> None:
    """Count what is accepted although the sender can hardly have meant it."""
    if environ.get("CONTENT_TYPE", "").lstrip().lower().startswith(_FORMS):
        FORM_LABELLED.inc()
        text = "JSON labelled as form data, accepted as JSON: set the content type to application/json"
        request_log.note(Kind("form_labelled", "accepted", text, label))
    pointers = placeholders(interaction)
    if pointers:
        PLACEHOLDERS.inc()
        text = "placeholder not filled in, accepted as it is: look at the variables of the CXone action"
        request_log.note(Kind("placeholders", "accepted", text, label), pointers)


def _row(environ: Environ, body: bytes, interaction: Interaction) -> NewRow:
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    return NewRow(
        # The two kinds of key, and those of replays, never meet. CXone sends an empty one for a variable not set.
        key=f"key:{key}" if key else f"body:{hashlib.sha256(body).hexdigest()}",
        interaction_id=interaction.interaction_id,
        channel=interaction.channel,
        timestamp_ms=int(time() * 1000) if interaction.timestamp_ms is None else interaction.timestamp_ms,
        customer_email=interaction.customer_email,
        agent_id=interaction.agent_id,
        payload=body,
        traceparent=_traceparent(environ),
    )


def _refused_unread(door: WebhookDependencies, environ: Environ) -> tuple[str, Response] | None:
    """What can be refused without reading the body."""
    if door.rate_limit is not None and not door.rate_limit.allows():
        detail = "More requests than WEBHOOK_RATE_LIMIT: send it again later"
        return "rate_limited", problem(429, detail, retry_after_seconds=1, close=True)
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
        return "encoded", problem(415, "Content-Encoding is not supported: send the JSON as it is", close=True)
    if (declared_length(environ) or 0) > door.max_bytes:
        return "too_large", problem(413, f"The body has more than {door.max_bytes} bytes", close=True)
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key and not _KEY.fullmatch(key):
        return "bad_key", problem(
            400, "Idempotency-Key must be 1 to 255 visible ASCII characters, given once", close=True
        )
    if door.backlog_limit is not None and door.backlog_limit.reached():
        detail = "The backlog has reached WEBHOOK_BACKLOG_LIMIT: send it again later"
        return "backlog", problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS * 5, close=True)
    return None


def _answer(outcome: RecordOutcome, label: str) -> Response:
    if isinstance(outcome, Accepted):
        body: dict[str, object] = {
            "status": "accepted",
            "interactionId": outcome.interaction_id,
            "outboxId": outcome.outbox_id,
        }
        if outcome.duplicate:
            body["duplicate"] = True
        request_counter("duplicate" if outcome.duplicate else "accepted", label).inc()
        return Response(json.dumps(body), 202, content_type="application/json")
    if isinstance(outcome, KeyReused):
        answer = problem(409, "The Idempotency-Key was used with another body: take a new key")
        return _refuse("key_reused", answer, label)
    answer = problem(422, "The database cannot store this interaction", [Problem("", "cannot be stored")])
    return _refuse("refused", answer, label, [""])


def _traceparent(environ: Environ) -> str | None:
    """The W3C trace context, if it is valid; dropped otherwise."""
    given = environ.get("HTTP_TRACEPARENT", "")
    return given if _TRACEPARENT.fullmatch(given) else None
