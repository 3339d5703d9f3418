"""The webhook: authenticate, validate, commit, respond."""

import json
import re
from collections.abc import Iterable, Mapping
from time import monotonic, time
from typing import Any

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import MethodNotAllowed

from app.authentication import matching_label
from app.body import (
    BodyMalformedError,
    BodyTooLargeError,
    BodyTooSlowError,
    arrival_of,
    arrived_at,
    declared_length,
    read_body,
)
from app.bounded_log import BoundedLog, EventKind
from app.dependencies import EXTENSION, WebhookDependencies
from app.metrics import FORM_LABELLED, NO_LABEL, PLACEHOLDERS, request_counter, request_seconds
from app.problem_details import problem
from app.strict_json import NotJsonError
from app.validation import Interaction, InvalidInteractionError, Problem, parse, placeholders
from outbox.errors import OutboxError
from outbox.models import Accepted, KeyReused, NewRow, RecordOutcome, body_digest, chosen_key

blueprint = Blueprint("webhook", __name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/")
PATH = "/webhook/cxone-data-action"
RETRY_AFTER_SECONDS = 2
BACKLOG_RETRY_AFTER_SECONDS = 10
"""A backlog takes longer to shrink than a database to come back."""

Environ = Mapping[str, Any]
"""A WSGI environment. Headers are read from it because Flask's header objects cost more than the commit."""

request_log = BoundedLog()
"""Refused and suspicious requests: their outcome, label and fields, never a value or an address."""


@blueprint.post(PATH)
def receive() -> Response:
    """Accept an interaction: 202 after it is committed to the outbox."""
    webhook: WebhookDependencies = current_app.extensions[EXTENSION]
    environ = request.environ
    label = matching_label(webhook.secrets, environ.get("HTTP_X_CXONE_WEBHOOK_SECRET"))
    if label is None:  # the body is not read
        return _refuse("unauthorized", problem(401, "Invalid CXone webhook secret", close=True))
    return _handle(webhook, environ, label)


@blueprint.app_errorhandler(404)
def not_found(_error: Exception) -> Response:
    """Name the webhook's path, which is easily mistyped in CXone, and count the request."""
    return _refuse("not_found", problem(404, f"Not found: send interactions to POST {PATH}"))


@blueprint.app_errorhandler(MethodNotAllowed)
def method_not_allowed(error: MethodNotAllowed) -> Response:
    """Name the methods that this path allows."""
    allowed = ", ".join(sorted(error.valid_methods or ()))
    response = problem(405, f"Method not allowed: use {allowed}")
    response.headers["Allow"] = allowed
    return _refuse("method_not_allowed", response)


def count(outcome: str, label: str = NO_LABEL) -> None:
    """Count the current request, and how long it took."""
    request_counter(outcome, label).inc()
    arrived = arrived_at(request.environ)
    if arrived is not None:
        request_seconds(outcome).observe(monotonic() - arrived)


def _refuse(outcome: str, response: Response, label: str = NO_LABEL, pointers: Iterable[str] = ()) -> Response:
    """Count and log a refusal."""
    count(outcome, label)
    request_log.warning(EventKind("refused", outcome, f"request refused: {outcome}", label), pointers)
    return response


def _handle(webhook: WebhookDependencies, environ: Environ, label: str) -> Response:
    """Respond to an authenticated request."""
    refusal = _early_refusal(webhook, environ)
    if refusal is not None:
        return _refuse(*refusal, label)
    try:
        body = read_body(environ, webhook.max_bytes)
    except BodyTooLargeError:
        return _refuse("too_large", _too_large(webhook), label)
    except BodyTooSlowError:
        return _refuse("too_slow", problem(408, "The body did not arrive completely in time", close=True), label)
    except BodyMalformedError:
        response = problem(400, "The chunked encoding of the body is not valid HTTP/1.1", close=True)
        return _refuse("not_http", response, label)
    return _accept(webhook, environ, body, label)


def _accept(webhook: WebhookDependencies, environ: Environ, body: bytes, label: str) -> Response:
    try:
        interaction = parse(body)
        outcome = webhook.committer.record(_row(environ, body, interaction), arrival_of(environ))
    except NotJsonError as error:
        return _refuse("not_json", problem(400, str(error)), label)
    except InvalidInteractionError as error:
        response = problem(422, "The body is not a valid interaction; see errors", error.problems)
        return _refuse("invalid", response, label, [each.pointer for each in error.problems])
    except OutboxError:
        detail = "It is unknown whether the interaction was stored. Send it again; it will be stored once"
        return _refuse("unavailable", problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS), label)
    _warn_of_mistakes(environ, interaction, label)
    return _respond(outcome, label)


def _warn_of_mistakes(environ: Environ, interaction: Interaction, label: str) -> None:
    """Count and log what is accepted, but is probably a mistake of the sender."""
    if environ.get("CONTENT_TYPE", "").lstrip().lower().startswith(_FORM_TYPES):
        FORM_LABELLED.inc()
        text = "accepted JSON with a content type of form data: set the content type to application/json"
        request_log.warning(EventKind("form_labelled", "accepted", text, label))
    pointers = placeholders(interaction)
    if pointers:
        PLACEHOLDERS.inc()
        text = "accepted an unreplaced placeholder: check the variables of the CXone action"
        request_log.warning(EventKind("placeholders", "accepted", text, label), pointers)


def _row(environ: Environ, body: bytes, interaction: Interaction) -> NewRow:
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    return NewRow(
        key=chosen_key(key) if key else body_digest(body),  # CXone sends an empty key if its variable is not set
        interaction_id=interaction.interaction_id,
        channel=interaction.channel,
        timestamp_ms=int(time() * 1000) if interaction.timestamp_ms is None else interaction.timestamp_ms,
        customer_email=interaction.customer_email,
        agent_id=interaction.agent_id,
        payload=body,
        traceparent=_traceparent(environ),
    )


def _early_refusal(webhook: WebhookDependencies, environ: Environ) -> tuple[str, Response] | None:
    """The outcome and response of a request that can be refused before its body is read."""
    if webhook.rate_limit is not None and not webhook.rate_limit.try_take():
        detail = "The rate exceeds WEBHOOK_RATE_LIMIT: send the request again later"
        return "rate_limited", problem(429, detail, retry_after_seconds=1, close=True)
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
        return "encoded", problem(415, "Content-Encoding is not supported: send the JSON uncompressed", close=True)
    if (declared_length(environ) or 0) > webhook.max_bytes:
        return "too_large", _too_large(webhook)
    key = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key and not _KEY.fullmatch(key):
        return "bad_key", problem(
            400, "Idempotency-Key must be given once and be 1 to 255 visible ASCII characters", close=True
        )
    if webhook.backlog_limit is not None and webhook.backlog_limit.reached():
        detail = "The backlog has reached WEBHOOK_BACKLOG_LIMIT: send the request again later"
        return "backlog", problem(503, detail, retry_after_seconds=BACKLOG_RETRY_AFTER_SECONDS, close=True)
    return None


def _respond(outcome: RecordOutcome, label: str) -> Response:
    if isinstance(outcome, Accepted):
        body: dict[str, object] = {
            "status": "accepted",
            "interactionId": outcome.interaction_id,
            "outboxId": outcome.outbox_id,
        }
        if outcome.duplicate:
            body["duplicate"] = True
        count("duplicate" if outcome.duplicate else "accepted", label)
        return Response(json.dumps(body), 202, content_type="application/json")
    if isinstance(outcome, KeyReused):
        response = problem(409, "The Idempotency-Key was already used with another body: use a new key")
        return _refuse("key_reused", response, label)
    response = problem(422, "The database cannot store this interaction", [Problem("", "cannot be stored")])
    return _refuse("refused", response, label, [""])


def _too_large(webhook: WebhookDependencies) -> Response:
    return problem(413, f"The body is larger than {webhook.max_bytes} bytes", close=True)


def _traceparent(environ: Environ) -> str | None:
    """The W3C trace context; None if it is absent or invalid."""
    given = environ.get("HTTP_TRACEPARENT", "")
    return given if _TRACEPARENT.fullmatch(given) else None
