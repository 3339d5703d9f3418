"""Validate a request body: it becomes an interaction, or a list of problems.

Nothing is defaulted or repaired: what is missing or out of range is refused by name. ``openapi.json`` publishes the
same rules, and a property test compares the two.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

from app.strict_json import OUT_OF_RANGE, ObjectWithRepeatedKeys, decode

MAX_PROBLEMS = 20
"""Maximum number of problems in one answer, which must not be larger than the request."""
MAX_POINTER_NAME = 64
"""Maximum number of characters of a field name in a JSON pointer."""
_BEYOND_64_BITS = "is beyond 64 bits: expected a number from -2^63 to 2^63 - 1"
_NOT_MILLISECONDS = "expected milliseconds since the epoch: an integer from 0 to 2^63 - 1"
_SUSPECT_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""The only way that NUL or a surrogate gets into a string. Valid surrogate pairs match as well."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"\{\s*[A-Za-z_][\w.]*\s*\}")
"""Such as ``{contactId}``, ``{{contact.id}}``, ``${id}``. A GUID in braces does not match: it contains hyphens."""


class Problem(NamedTuple):
    """One problem of a body, without the value.

    Attributes:
        pointer: JSON Pointer (RFC 6901) to the value.
        detail: What is wrong.
    """

    pointer: str
    detail: str


class InvalidInteractionError(Exception):
    """The body is JSON, but not an interaction.

    Attributes:
        problems: What is wrong, 1 to ``MAX_PROBLEMS``.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("not a valid interaction")
        self.problems = problems


class Interaction(NamedTuple):
    """The fields of a valid body that the outbox has columns for."""

    interaction_id: str
    channel: str
    timestamp_ms: int | None
    """None: the time of receipt."""
    customer_email: str | None
    agent_id: str | None


def parse(body: bytes) -> Interaction:
    """The interaction in a request body.

    Raises:
        NotJsonError: See ``strict_json.decode``.
        InvalidInteractionError: Contains a JSON Pointer for each problem.
    """
    document, is_marked = decode(body)
    found = _value_problems(document, "") if is_marked or _SUSPECT_ESCAPE.search(body) else iter(())
    problems = list(islice(found, MAX_PROBLEMS))
    if not isinstance(document, dict):
        raise InvalidInteractionError([Problem("", "must be an object"), *problems][:MAX_PROBLEMS])
    fields = _FieldReader(document, problems)
    interaction_id = fields.identifier("id", required=True)
    channel = fields.text("channel", 64, required=True)
    timestamp_ms = fields.timestamp("timestamp")
    customer_email = fields.nested("customer").text("email", 320)
    agent_id = fields.nested("agent").identifier("id")
    if problems or interaction_id is None or channel is None:
        raise InvalidInteractionError(sorted(set(problems))[:MAX_PROBLEMS])
    return Interaction(interaction_id, channel, timestamp_ms, customer_email, agent_id)


def placeholders(interaction: Interaction) -> list[str]:
    """JSON Pointers of the fields that contain a placeholder instead of a value."""
    fields = {
        "/id": interaction.interaction_id,
        "/channel": interaction.channel,
        "/customer/email": interaction.customer_email,
        "/agent/id": interaction.agent_id,
    }
    return [pointer for pointer, value in fields.items() if value and "{" in value and _PLACEHOLDER.search(value)]


def _value_problems(node: Any, pointer: str) -> Iterator[Problem]:
    """Problems of any value, whichever field it is in."""
    if node is OUT_OF_RANGE:
        yield Problem(pointer, _BEYOND_64_BITS)
    elif isinstance(node, str):
        yield from _text_problems(node, pointer)
    elif isinstance(node, dict):
        if isinstance(node, ObjectWithRepeatedKeys):
            yield from (Problem(f"{pointer}/{_escape(name)}", "key is repeated") for name in node.repeated_keys)
        for name, value in node.items():
            child = f"{pointer}/{_escape(name)}"
            yield from _text_problems(name, child)
            yield from _value_problems(value, child)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _value_problems(value, f"{pointer}/{index}")


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem(pointer, "contains the NUL character")
    if _SURROGATE.search(text):
        yield Problem(pointer, "contains a lone surrogate, which is not a Unicode character")


def _escape(name: str) -> str:
    """A field name as a part of a JSON Pointer (RFC 6901)."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    return shown[:MAX_POINTER_NAME].replace("~", "~0").replace("/", "~1")


def _normalize_number(value: Any) -> Any:
    """A number without a fraction as an integer, such as ``12345.0``; any other value as it is."""
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _FieldReader:
    """Reads fields of an object, and collects their problems.

    Args:
        fields: The object.
        problems: Where problems are added.
        pointer: JSON Pointer to the object.
    """

    def __init__(self, fields: dict[str, Any], problems: list[Problem], pointer: str = "") -> None:
        self._fields, self._problems, self._pointer = fields, problems, pointer

    def nested(self, name: str) -> "_FieldReader":
        """A reader of an optional object. If it is absent or null, it has no fields."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, dict):
            self._add_problem(name, "must be an object")
        return _FieldReader(value if isinstance(value, dict) else {}, self._problems, f"{self._pointer}/{name}")

    def text(self, name: str, max_length: int, *, required: bool = False) -> str | None:
        """A string; None if it is absent or invalid."""
        value = self._value(name, required=required)
        return None if value is None else self._check_text(name, value, max_length, "must be a string")

    def identifier(self, name: str, *, required: bool = False) -> str | None:
        """A string of up to 256 characters, or an integer, which becomes a string."""
        value = _normalize_number(self._value(name, required=required))
        if value is None:
            return None
        if _is_integer(value):
            return str(value)
        return self._check_text(name, value, 256, "must be a string or an integer")

    def timestamp(self, name: str) -> int | None:
        """An integer from 0 to 2**63 - 1; None if it is absent or invalid."""
        value = _normalize_number(self._value(name, required=False))
        if value is None:
            return None
        if _is_integer(value) and value >= 0:
            return int(value)
        self._add_problem(name, _NOT_MILLISECONDS)
        return None

    def _value(self, name: str, *, required: bool) -> Any:
        """The value to check, or None. CXone sends an empty string for a variable that is not set."""
        value = self._fields.get(name)
        if value is None and required:
            self._add_problem(name, "must not be null" if name in self._fields else "is missing")
        if value == "" and required:
            self._add_problem(name, "must not be empty")
        return None if value == "" or value is OUT_OF_RANGE else value

    def _check_text(self, name: str, value: Any, max_length: int, expected: str) -> str | None:
        if not isinstance(value, str):
            self._add_problem(name, expected)
        elif len(value) > max_length:
            self._add_problem(name, f"is longer than {max_length} characters")
        else:
            return value
        return None

    def _add_problem(self, name: str, detail: str) -> None:
        self._problems.append(Problem(f"{self._pointer}/{name}", detail))
