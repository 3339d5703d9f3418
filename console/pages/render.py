"""What all pages share: parts that keep themselves current, times with ages, and texts that senders wrote."""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import markupsafe
from flask import Blueprint, Response, make_response, render_template, request
from markupsafe import Markup

from outbox.operators.commands import filter_arguments, format_command
from outbox.operators.format import escape, format_actor, format_age
from outbox.operators.rows import RowFilter

blueprint = Blueprint("render", __name__)
POLL = "HX-Request"
"""The header by which htmx asks for the live part of a page."""

LAST_MS = 253_402_300_799_000
"""The last second of the year 9999, which stands for any later time."""


@blueprint.app_template_global("now_ms")
def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def live_page(name: str, **values: Any) -> Response:
    """Render a page around its live part; for a poll the live part alone, or 304 if it has not changed.

    Args:
        name: ``pages/NAME.html`` is the page, ``pages/_NAME.html`` its live part.
        values: for both.
    """
    live = render_template(f"pages/_{name}.html", **values)
    etag = hashlib.sha256(live.encode()).hexdigest()[:32]
    if POLL not in request.headers:
        body = render_template(f"pages/{name}.html", live=Markup(live), etag=etag, **values)  # noqa: S704 - from a template
        return make_response(body)
    if request.if_none_match.contains_weak(etag):
        response = Response(status=304)
    else:
        response = make_response(live + render_template("pages/_as_of.html"))
    response.set_etag(etag, weak=True)
    return response


def page(name: str, status: int = 200, **values: Any) -> Response:
    """Render a page that does not change by itself."""
    return make_response(render_template(f"pages/{name}.html", **values), status)


blueprint.add_app_template_filter(escape, "visible")
blueprint.add_app_template_filter(format_age, "duration")
blueprint.add_app_template_filter(format_actor, "actor")


@blueprint.app_template_filter("attribute")
def attribute(text: str) -> Markup:
    """Return a text that a sender wrote as the value of an attribute, which submits it unchanged."""
    escaped = str(markupsafe.escape(text))
    return Markup("".join(each if each.isprintable() else f"&#{ord(each)};" for each in escaped))  # noqa: S704 - escaped


@blueprint.app_template_filter("relay_command")
def relay_command(arguments: Sequence[str]) -> str:
    """Return a command to copy."""
    return format_command(*arguments)


def list_command(wanted: RowFilter, *group: str) -> str:
    """Return the command that lists what a filter selects.

    Args:
        wanted: the filter.
        group: the command's group, such as ``inference``.
    """
    return format_command(*group, "list", *(filter_arguments(wanted) or ["--all"]))


@blueprint.app_template_filter("iso")
def iso(at_ms: int) -> str:
    """Return a time as HTML's ``datetime`` attribute takes it."""
    return _utc(at_ms).strftime("%Y-%m-%dT%H:%M:%SZ")


@blueprint.app_template_filter("utc")
def utc(at_ms: int) -> str:
    """Return a time to the second."""
    return _utc(at_ms).strftime("%Y-%m-%d %H:%M:%S UTC")


@blueprint.app_template_filter("age")
def age(at_ms: int) -> str:
    """Return how long ago a time was, or in how long it will be."""
    past_ms = now_ms() - at_ms
    return f"{format_age(past_ms)} ago" if past_ms >= 0 else f"in {format_age(-past_ms)}"


@blueprint.app_template_global("address")
def address() -> str:
    """Return the address of the page that is shown, for its polls."""
    query = urlencode(list(request.args.items(multi=True)))
    return quote(request.script_root + request.path) + (f"?{query}" if query else "")


@blueprint.app_template_global("as_of")
def as_of() -> str:
    """Return the time at which a page was made."""
    return utc(now_ms())


def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(min(at_ms, LAST_MS) / 1000, UTC)
