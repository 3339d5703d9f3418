"""The published schema and the webhook's validation accept the same bodies."""

import json
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from app.strict_json import INT64_MAX, INT64_MIN, NotJsonError
from app.validation import InvalidInteractionError, parse

DOCUMENT = json.loads(files("app").joinpath("openapi.json").read_bytes())


def _is_integer(_checker: object, value: object) -> bool:
    """Whether a value is an integer to JSON Schema: a number without a fraction, such as 1.0."""
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


INTERACTION = {**DOCUMENT, "$ref": "#/components/schemas/Interaction"}
SCHEMA = Draft202012Validator(INTERACTION)
ExactValidator = extend(
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)
EXACT_SCHEMA = ExactValidator(INTERACTION)


def accepted_by_schema(text: str) -> bool:
    """Whether the published schema accepts a body; numbers are compared exactly."""
    return bool(EXACT_SCHEMA.is_valid(json.loads(text, parse_float=Decimal)))


def accepted_by_webhook(text: str) -> bool:
    """Whether the webhook accepts a body that is JSON."""
    try:
        parse(text.encode())
    except InvalidInteractionError:
        return False
    return True


def _written(number: int) -> st.SearchStrategy[str]:
    """Spellings of a number."""
    return st.sampled_from(
        [f"{number}", f"{number}.0", f"{number}.5", f"{number}e0", f"{number}.0e0", f"{number}.5e1", f"{number}e1"]
    )


numbers = (st.integers(INT64_MIN - 2, INT64_MAX + 2) | st.sampled_from([INT64_MIN, INT64_MAX, 0, -1])).flatmap(
    _written
) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
texts = (
    st.text(max_size=5)
    | st.sampled_from(["", " ", "\0", "\ud800", "\U0001f600"])
    | st.integers(63, 330).map("x".__mul__)
).map(json.dumps)
scalars = st.sampled_from(["null", "true", "false"]) | numbers | texts


def _objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.sampled_from(["id", "email", "x", "a\0", "\udfff", ""])
    members = st.dictionaries(names, values, max_size=3)
    return members.map(lambda found: "{" + ", ".join(f"{json.dumps(n)}: {v}" for n, v in found.items()) + "}")


values = st.recursive(
    scalars,
    lambda inner: _objects(inner) | st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
    max_leaves=6,
)


def _document(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"


@st.composite
def interactions(draw: st.DrawFn) -> str:
    """Bodies that are almost valid: any field may be arbitrary or absent."""
    identifiers, channels = st.just('"i-1"') | numbers | texts, st.just('"voice"') | texts
    fields = {
        "id": draw(identifiers | values),
        "channel": draw(channels | values),
        "customer": draw(st.just("null") | _objects(texts | scalars) | values),
        "agent": draw(st.just("null") | _objects(numbers | texts) | values),
        "timestamp": draw(numbers | texts | values),
        "x": draw(values),
    }
    absent = draw(st.sets(st.sampled_from(sorted(fields)), max_size=4))
    return _document({name: value for name, value in fields.items() if name not in absent})


@given(interactions() | values)
@example('{"id": 12345.0, "channel": "v", "agent": {"id": 1e3}, "timestamp": 1764187200000.0}')
@example('{"id": "i", "channel": "v", "timestamp": 9223372036854775807.0}')
@example('{"id": "i", "channel": "v", "timestamp": -1}')
@example('{"id": "i", "channel": "v", "timestamp": ""}')
@example('{"id": "i", "channel": "v", "customer": {"email": ""}, "agent": {"id": ""}}')
@example('{"id": "i", "channel": "v", "x": [{"y": 1e300}]}')
@example('{"id": "i", "channel": "v", "x": [{"y\\u0000": 1}]}')
@example('{"id": "i", "channel": "v", "x": "\\ud800"}')
def test_schema_and_webhook_accept_the_same_bodies(text: str) -> None:
    """The webhook accepts a body exactly if the published schema does."""
    assert accepted_by_webhook(text) == accepted_by_schema(text), text


@pytest.mark.parametrize(
    "text", ['{"id": 1, "channel": "v", "timestamp": 1764187200000.0}', '{"id": 1.0, "channel": ""}']
)
def test_a_validator_that_reads_doubles_agrees(text: str) -> None:
    """An unmodified validator, which reads 12345.0 as a double, accepts the same bodies."""
    assert SCHEMA.is_valid(json.loads(text)) == accepted_by_webhook(text)


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(_json)
def test_schema_and_webhook_agree_on_arbitrary_json(value: Any) -> None:
    """An unmodified validator agrees on documents that do not resemble an interaction."""
    for document in (value, {"id": "i", "channel": "v", "x": value}, {"id": value, "channel": "v", "timestamp": value}):
        text = json.dumps(document)
        assert accepted_by_webhook(text) == SCHEMA.is_valid(json.loads(text)), text


def test_rules_beyond_json_schema_are_described() -> None:
    """JSON Schema cannot forbid repeated keys or deep nesting, so the description names both rules."""
    description = DOCUMENT["paths"]["/webhook/cxone-data-action"]["post"]["requestBody"]["description"]
    assert "repeated" in description
    assert "64 deep" in description
    with pytest.raises(NotJsonError):
        parse(b'{"id": 1, "channel": "v", "x": ' + b"[" * 64 + b"]" * 64 + b"}")
