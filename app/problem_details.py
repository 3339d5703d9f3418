"""Error responses as problem details (RFC 9457)."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Response

from app.validation import Problem

CONTENT_TYPE = "application/problem+json"


def problem(
    status: int,
    detail: str,
    errors: Sequence[Problem] = (),
    retry_after_seconds: int | None = None,
    *,
    close: bool = False,
) -> Response:
    """Create an error response.

    Args:
        status: HTTP status.
        detail: What is wrong and what to do, without any value of the request.
        errors: Problems in the body.
        retry_after_seconds: When to retry.
        close: Close the connection after the response, because the rest of the request is not read.
    """
    response = Response(problem_json(status, detail, errors), status, content_type=CONTENT_TYPE)
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(retry_after_seconds)
    if close:
        response.headers["Connection"] = "close"
    return response


def problem_json(status: int, detail: str, errors: Sequence[Problem] = ()) -> str:
    """The body of an error response; for the arguments see ``problem``."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in errors]
    return json.dumps(body)
