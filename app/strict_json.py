"""Decode a request body as JSON, and find what RFC 8259 leaves open: repeated keys and numbers beyond 64 bits.

Most bodies contain neither, so the body is first decoded without tracking where things are. Only if that finds a
repeated key or such a number, the body is decoded again, and the places are marked in the document.
"""

import codecs
import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

MAX_DEPTH = 64
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_DECIMAL_MIN, _DECIMAL_MAX = Decimal(INT64_MIN), Decimal(INT64_MAX)
_INT64_DIGITS = 20
_WIDE_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark is the start of this one
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_BYTE_ORDER_MARK = "\ufeff"

OUT_OF_RANGE = object()
"""Stands in a marked document for a number beyond 64 bits."""


class NotJsonError(Exception):
    """The body is not JSON. The message is meant for the sender, and does not quote the body."""


class ObjectWithRepeatedKeys(dict[str, Any]):
    """Stands in a marked document for an object in which keys are repeated."""

    repeated_keys: tuple[str, ...] = ()


class _MarkingNeededError(Exception):
    """The body contains a repeated key or a number beyond 64 bits."""


def decode(body: bytes) -> tuple[Any, bool]:
    """Decode a body.

    Returns:
        The document, and whether it contains ``OUT_OF_RANGE`` or ``ObjectWithRepeatedKeys``.

    Raises:
        NotJsonError: The body is not JSON, not UTF-8, empty, or nested deeper than 64.
    """
    text = _decode_text(body)
    if not text.strip(" \t\r\n"):
        raise NotJsonError("The body is empty: send a JSON object")
    try:
        document, is_marked = _decode_json(text)
    except RecursionError:
        raise NotJsonError(f"The body is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"The body is not JSON: {_explain(error)}") from None
    # A document cannot be deeper than it has brackets, so most need no further check.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        raise NotJsonError(f"The body is nested deeper than {MAX_DEPTH} levels")
    return document, is_marked


def _decode_text(body: bytes) -> str:
    """The body as text, without the one byte order mark that may precede it (RFC 8259, 8.1)."""
    try:
        return body.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        wide = next((name for mark, name in _WIDE_ENCODINGS if body.startswith(mark)), None)
        problem = wide or f"not UTF-8 (byte {error.start})"
        raise NotJsonError(f"The body is {problem}: send UTF-8, whatever charset the Content-Type names") from None


def _explain(error: json.JSONDecodeError) -> str:
    """What is wrong and where. A character that is invisible, or resembles another one, is named."""
    if "\0" in error.doc[:4]:
        return "it looks like UTF-16 or UTF-32 (NUL bytes): send UTF-8"
    place = f"(line {error.lineno}, column {error.colno})"
    character = error.doc[error.pos : error.pos + 1]
    if not character or (character.isascii() and character.isprintable()):
        return f"{error.msg} {place}"
    name = unicodedata.name(character, "control character")
    if character == _BYTE_ORDER_MARK:
        name += ", the byte order mark (BOM)"
    return f"unexpected U+{ord(character):04X} {name} {place}"


def _decode_json(text: str) -> tuple[Any, bool]:
    try:
        return _DECODER.decode(text), False
    except _MarkingNeededError:
        return _MARKING_DECODER.decode(text), True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _MarkingNeededError
    return found


def _marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = ObjectWithRepeatedKeys(found)
    marked.repeated_keys = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return marked


def _integer(text: str) -> int:
    if len(text) <= _INT64_DIGITS and INT64_MIN <= (number := int(text)) <= INT64_MAX:
        return number
    raise _MarkingNeededError


def _decimal(text: str) -> Decimal:
    """A number with a fraction or an exponent, exactly: a float would change the digits of a long id."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits and more
        raise _MarkingNeededError from None
    if _DECIMAL_MIN <= number <= _DECIMAL_MAX:
        return number
    raise _MarkingNeededError


def _or_out_of_range(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_or_mark(text: str) -> Any:
        try:
            return parse(text)
        except _MarkingNeededError:
            return OUT_OF_RANGE

    return parse_or_mark


def _refuse_constant(name: str) -> Any:
    raise NotJsonError(f"The body is not JSON: {name} is not a JSON value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_decimal, parse_constant=_refuse_constant
)
_MARKING_DECODER = json.JSONDecoder(
    object_pairs_hook=_marked_object,
    parse_int=_or_out_of_range(_integer),
    parse_float=_or_out_of_range(_decimal),
    parse_constant=_refuse_constant,
)


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level:
        level = [child for node in level for child in _children(node)]
        depth += 1
    return depth - 1


def _children(node: Any) -> list[Any]:
    """The values in a container. An empty container counts as one level; a scalar does not."""
    if isinstance(node, dict):
        return list(node.values()) or [None]
    if isinstance(node, list):
        return node or [None]
    return []
