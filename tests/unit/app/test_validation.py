"""Validation of request bodies."""

import contextlib
import json
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.strict_json import NotJsonError
from app.validation import MAX_PROBLEMS, Interaction, InvalidInteractionError, Problem, parse


def body(**changes: Any) -> bytes:
    """A valid body with changes; None leaves a field as null."""
    return json.dumps({"id": "i-1", "channel": "voice", **changes}).encode()


def problems(raw: bytes) -> list[Problem]:
    """The problems of a body that is JSON but not an interaction."""
    with pytest.raises(InvalidInteractionError) as caught:
        parse(raw)
    return caught.value.problems


def pointers(raw: bytes) -> list[str]:
    """Where the problems are."""
    return [problem.pointer for problem in problems(raw)]


def test_a_full_interaction_is_accepted() -> None:
    """Each known field reaches the interaction; unknown fields are ignored."""
    raw = body(customer={"email": "a@b"}, agent={"id": 7}, timestamp=5, other={"x": [1, None, True, 1.5]})
    assert parse(raw) == Interaction("i-1", "voice", 5, "a@b", "7")


def test_optional_fields_may_be_absent_or_null() -> None:
    """They become None."""
    assert parse(body()) == Interaction("i-1", "voice", None, None, None)
    assert parse(body(customer=None, agent={"id": None})) == Interaction("i-1", "voice", None, None, None)
    assert parse(body(customer={"email": None}, agent=None)) == Interaction("i-1", "voice", None, None, None)


def test_an_empty_string_in_an_optional_field_is_null() -> None:
    """CXone sends an empty string for a variable that is not set."""
    nothing = Interaction("i-1", "voice", None, None, None)
    assert parse(body(customer={"email": ""})) == nothing
    assert parse(body(agent={"id": ""})) == nothing
    assert parse(body(timestamp="")) == nothing
    assert parse(body(customer={"email": " "}, agent={"id": " "})) == Interaction("i-1", "voice", None, " ", " ")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12345.0", 12345),
        ("12345.000", 12345),
        ("1.2345e4", 12345),
        ("123450e-1", 12345),
        ("0.0", 0),
        ("-0.0", 0),
        ("4628930123450000001.0", 4628930123450000001),
        ("9223372036854775807.0", 2**63 - 1),
        ("9.223372036854775807e18", 2**63 - 1),
    ],
)
def test_a_number_without_a_fraction_is_an_integer(written: str, value: int) -> None:
    """As in JSON Schema, and exactly: no digit of a long id changes."""
    raw = f'{{"id": {written}, "channel": "v", "agent": {{"id": {written}}}, "timestamp": {written}}}'
    assert parse(raw.encode()) == Interaction(str(value), "v", value, None, str(value))


def test_strings_are_not_trimmed_and_their_length_is_in_characters() -> None:
    """A character outside ASCII counts as one."""
    assert parse(body(id=" a ", channel=" ")) == Interaction(" a ", " ", None, None, None)
    assert parse(json.dumps({"id": "\N{GRINNING FACE}" * 256, "channel": "ü" * 64}, ensure_ascii=False).encode())
    assert parse(body(id="\N{GRINNING FACE}")).interaction_id == "\N{GRINNING FACE}"


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63)])
def test_an_integer_id_becomes_a_string(number: int) -> None:
    """The smallest and largest 64-bit integers are valid ids."""
    assert parse(body(id=number)).interaction_id == str(number)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"id": ""}, "/id"),
        ({"id": "x" * 257}, "/id"),
        ({"id": None}, "/id"),
        ({"id": True}, "/id"),
        ({"id": 1.5}, "/id"),
        ({"agent": {"id": 0.5}}, "/agent/id"),
        ({"id": ["a"]}, "/id"),
        ({"id": 2**63}, "/id"),
        ({"id": -(2**63) - 1}, "/id"),
        ({"channel": ""}, "/channel"),
        ({"channel": "x" * 65}, "/channel"),
        ({"channel": 5}, "/channel"),
        ({"channel": None}, "/channel"),
        ({"customer": "x"}, "/customer"),
        ({"customer": {"email": "x" * 321}}, "/customer/email"),
        ({"customer": {"email": 5}}, "/customer/email"),
        ({"agent": []}, "/agent"),
        ({"agent": {"id": "x" * 257}}, "/agent/id"),
        ({"agent": {"id": False}}, "/agent/id"),
        ({"agent": {"id": 2**63}}, "/agent/id"),
        ({"timestamp": -1}, "/timestamp"),
        ({"timestamp": 2**63}, "/timestamp"),
        ({"timestamp": 1.5}, "/timestamp"),
        ({"timestamp": "5"}, "/timestamp"),
        ({"timestamp": " "}, "/timestamp"),
        ({"timestamp": []}, "/timestamp"),
        ({"timestamp": True}, "/timestamp"),
        ({"other": "a\0b"}, "/other"),
        ({"other": {"a/b~c": ["\0"]}}, "/other/a~1b~0c/0"),
        ({"id": "\ud800"}, "/id"),
        ({"other": ["\udfff"]}, "/other/0"),
    ],
)
def test_an_invalid_value_is_refused_with_its_pointer(changes: dict[str, Any], pointer: str) -> None:
    """Wrong type, empty, too long, out of range, NUL, lone surrogate."""
    assert pointers(body(**changes)) == [pointer]


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b'{"id": 1, "id": 2, "channel": "v"}', "/id"),
        (b'{"id": 1, "channel": "v", "x": {"y": 1, "y": 1}}', "/x/y"),
        (b'{"id": 1, "channel": "v", "x": 1e400}', "/x"),
        (b'{"id": 1, "channel": "v", "x": 1e19}', "/x"),
        (b'{"id": 1, "channel": "v", "x": 1e99999999999999999999}', "/x"),
        (b'{"id": 1, "channel": "v", "x": -9223372036854775808.5}', "/x"),
        (b'{"id": 9223372036854775808.0, "channel": "v"}', "/id"),
        (b'{"id": 1, "channel": "v", "agent": {"id": 1e30}}', "/agent/id"),
        (b'{"id": 1, "channel": "v", "x": [' + b"9" * 5000 + b"]}", "/x/0"),
        (b'{"id": ' + b"9" * 5000 + b', "channel": "v"}', "/id"),
        (b'{"id": 1, "channel": "v", "timestamp": 1e400}', "/timestamp"),
        (b"[]", ""),
        (b'"text"', ""),
        (b"5", ""),
        (b"null", ""),
    ],
)
def test_json_that_is_not_an_interaction_is_refused(raw: bytes, pointer: str) -> None:
    """Repeated keys, numbers out of range, and documents that are not objects."""
    assert pointers(raw) == [pointer]


def test_all_problems_are_reported_at_once() -> None:
    """A sender need not correct one field at a time."""
    assert pointers(b'{"channel": "", "agent": 5}') == ["/agent", "/channel", "/id"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  \n",
        b"{",
        b"{} {}",
        b"{'id': 1}",
        b'{"id": NaN}',
        b'{"id": Infinity}',
        b'{"id": -Infinity}',
        b'{"id": "\xff"}',
        b"\xef\xbb\xbf",
        '{"id": 1}'.encode("utf-16"),
        b'{"id": "a\nb", "channel": "v"}',
        b'{"id": 01, "channel": "v"}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"id": 1, "channel": "v", "x": ' + b"[" * 64 + b"]" * 64 + b"}",
    ],
)
def test_a_body_that_is_not_json_is_refused(raw: bytes) -> None:
    """Not RFC 8259, not UTF-8, empty, or nested deeper than 64 levels."""
    with pytest.raises(NotJsonError):
        parse(raw)


VALID = '{"id": "b", "channel": "v"}'


def test_one_byte_order_mark_is_skipped() -> None:
    """RFC 8259, 8.1 allows that; a mark inside a value is part of the value."""
    assert parse(f"\ufeff{VALID}".encode()) == parse(VALID.encode())
    assert parse(body(id="\ufeffi")).interaction_id == "\ufeffi"


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (f"\ufeff\ufeff{VALID}", "the byte order mark (BOM) (line 1, column 1)"),
        (f"\n\ufeff{VALID}", "the byte order mark (BOM) (line 2, column 1)"),
        (f"{VALID}\ufeff", "U+FEFF ZERO WIDTH NO-BREAK SPACE, the byte order mark"),
        (f"{VALID}\u200b", "U+200B ZERO WIDTH SPACE"),
        (f"{VALID}\r\n\u2060\n", "U+2060 WORD JOINER (line 2, column 1)"),
        ('{"id":\u00a0"b", "channel": "v"}', "U+00A0 NO-BREAK SPACE (line 1, column 7)"),
        ('{\u00a0"id": "b", "channel": "v"}', "U+00A0 NO-BREAK SPACE"),
        ('{"id"\u00a0: "b", "channel": "v"}', "U+00A0 NO-BREAK SPACE"),
        ('{"id": "b"\u00a0, "channel": "v"}', "U+00A0 NO-BREAK SPACE"),
        ('{"id": "b",\u2028"channel": "v"}', "U+2028 LINE SEPARATOR"),
        ('{"id": "b", \u3000"channel": "v"}', "U+3000 IDEOGRAPHIC SPACE"),
        ('{\u201cid\u201d: "b"}', "U+201C LEFT DOUBLE QUOTATION MARK"),
        (f"{VALID}\0", "U+0000 control character"),
        (f"{VALID}\x0c", "U+000C control character"),
        ('{"id": "a\tb", "channel": "v"}', "U+0009 control character"),
    ],
)
def test_an_unexpected_character_is_named(raw: str, named: str) -> None:
    """The message names an invisible or look-alike character, and its place."""
    assert named in not_json(raw.encode())


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (VALID.encode("utf-16"), "UTF-16"),
        (VALID.encode("utf-16-be"), "UTF-16"),
        (b"\xfe\xff" + VALID.encode("utf-16-be"), "UTF-16"),
        (VALID.encode("utf-32"), "UTF-32"),
        ('{"id": "caf\xe9", "channel": "v"}'.encode("latin-1"), "byte 11"),
        ('{"id": "\u201cb\u201d", "channel": "v"}'.encode("cp1252"), "byte 8"),
        (b'{"id": "\xed\xa0\x80", "channel": "v"}', "byte 8"),
    ],
)
def test_another_encoding_is_refused(raw: bytes, named: str) -> None:
    """The message names the encoding or the first wrong byte, and asks for UTF-8."""
    detail = not_json(raw)
    assert named in detail
    assert "send UTF-8" in detail


def not_json(raw: bytes) -> str:
    """The error message for a body that is not JSON."""
    with pytest.raises(NotJsonError) as caught:
        parse(raw)
    return str(caught.value)


@pytest.mark.parametrize("written", ['"1764187200000"', '"2026-11-26T20:00:00.123+05:30"', "1.5", "-1", "true", "[]"])
def test_a_time_in_another_format_is_refused(written: str) -> None:
    """The message names the expected unit."""
    (problem,) = problems(f'{{"id": 1, "channel": "v", "timestamp": {written}}}'.encode())
    assert problem.pointer == "/timestamp"
    assert "expected milliseconds" in problem.detail


def test_nesting_of_64_is_allowed() -> None:
    """Adjacent brackets do not count as nesting."""
    assert parse(b'{"id": 1, "channel": "v", "x": ' + b"[" * 63 + b"]" * 63 + b"}")
    assert parse(b'{"id": 1, "channel": "v", "x": [' + b",".join([b"[]"] * 500) + b"]}")


def test_the_number_of_reported_problems_is_limited() -> None:
    """A response must not be larger than its request."""
    assert len(problems(b'{"x": [' + b",".join([b"1e400"] * 100_000) + b"]}")) == MAX_PROBLEMS
    assert len(problems(b"[" + b",".join([b"1e400"] * 100_000) + b"]")) == MAX_PROBLEMS


def test_a_repeated_key_is_found_in_linear_time() -> None:
    """One repeated key among a hundred thousand."""
    keys = b",".join(b'"%d":1' % number for number in range(100_000))
    began = process_time()
    assert pointers(b'{"id": 1, "channel": "v", ' + keys + b', "7": 1}') == ["/7"]
    assert process_time() - began < 5


@pytest.mark.parametrize("number", [b"9" * 10**6, b"9" * 10**6 + b".0", b"1e" + b"9" * 10**6, b"-" + b"9" * 19])
def test_a_number_with_a_million_digits_is_refused(number: bytes) -> None:
    """Python's limit on digits is not reached."""
    assert pointers(b'{"id": 1, "channel": "v", "x": ' + number + b"}") == ["/x"]


def test_no_message_quotes_a_value() -> None:
    """The sender may log the messages, so they must not contain personal data."""
    canary = "canary@example.com"
    found = problems(json.dumps({"id": {canary: canary}, "channel": [canary], "customer": canary}).encode())
    assert all(canary not in problem.detail and canary not in problem.pointer for problem in found)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
def test_no_body_raises_another_error(raw: bytes) -> None:
    """Any bytes become an interaction or raise one of the two documented errors."""
    with contextlib.suppress(NotJsonError, InvalidInteractionError):
        parse(raw)
