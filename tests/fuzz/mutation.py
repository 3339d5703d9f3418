"""Mutations of an input, drawn by Hypothesis, which shrinks what it finds to few mutations of a simple input."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzz.corpus import Input

MAX_BYTES = 300_000
MAX_MUTATIONS = 4
_NUMBERS = (
    "0", "-0", "-1", "1", "255", "256", "65535", "65536", "2147483647", "2147483648", "4294967296",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "1e400", "1E-400",
    "0.1", "1.0", "1e5", "9" * 25, "9" * 5000, "1e" + "9" * 20, "0x10", "+1", "01", "1_0", "NaN", "-Infinity",
)  # fmt: skip
_STRINGS = (
    "", "\0", "a\0b", "\ud800", "\udfff", "\ud83d\ude00", "\u2028", "\ufeff", "\r\n", "x" * 300, "x" * 70_000,
    "../..", "%00", "{contactId}", "\u0661\u0662", "é" * 40, "null", "0",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1.5,
    float("inf"), float("-inf"), float("nan"), [], {}, [[]], {"": ""}, *_STRINGS,
)  # fmt: skip
_TOKENS = (
    b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b",",
    b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"\\uD83D\\uDE00", b"{", b"}", b"[", b"]", b"null", b"NaN",
    b"\r\n\r\n", b"0\r\n\r\n", b"chunked", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0",
    b"HTTP/1.1 200 OK\r\n", b"Retry-After: 1\r\n", b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n",
)  # fmt: skip
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")
_BODY = b"\r\n\r\n"

Mutation = Callable[[DrawFn, bytes], bytes]


def inputs(corpus: Sequence[Input]) -> SearchStrategy[Input]:
    """Inputs of a corpus, with up to ``MAX_MUTATIONS`` mutations."""
    parts = {part: [each.data for each in corpus if each.part == part] for part in {each.part for each in corpus}}
    return st.sampled_from(sorted(parts)).flatmap(
        lambda part: _mutated(parts[part]).map(lambda data: Input(part, data))
    )


@st.composite
def _mutated(draw: DrawFn, data: Sequence[bytes]) -> bytes:
    found = draw(st.sampled_from(data))
    for _ in range(draw(st.integers(0, MAX_MUTATIONS))):
        if draw(st.integers(0, 9)) == 0:
            found = _splice(draw, found, draw(st.sampled_from(data)))
        else:
            found = draw(st.sampled_from(_MUTATIONS))(draw, found)
    return found[:MAX_BYTES]


def _span(draw: DrawFn, data: bytes) -> tuple[int, int]:
    """A range of the data, mostly a short one."""
    start = draw(st.integers(0, len(data)))
    longest = len(data) - start
    return start, start + draw(st.integers(0, min(longest, 8)) | st.integers(0, longest))


def _splice(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    start, end = _span(draw, data)
    first, last = _span(draw, other)
    return data[:start] + other[first:last] + data[end:]


def _flip(draw: DrawFn, data: bytes) -> bytes:
    if not data:
        return data
    at, bit = draw(st.integers(0, len(data) - 1)), draw(st.integers(0, 7))
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _replace(draw: DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + draw(st.sampled_from(_TOKENS) | st.binary(max_size=8)) + data[end:]


def _insert(draw: DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from(_TOKENS) | st.binary(max_size=8)) + data[at:]


def _delete(draw: DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _truncate(draw: DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def _repeat(draw: DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    times = draw(st.sampled_from((2, 3, 70, 1_100, 20_000)))
    return (data[:end] + data[start:end] * min(times, MAX_BYTES // (end - start + 1)) + data[end:])[:MAX_BYTES]


def _renumber(draw: DrawFn, data: bytes) -> bytes:
    found = list(_DIGITS.finditer(data))
    if not found:
        return data
    match = draw(st.sampled_from(found))
    return data[: match.start()] + draw(st.sampled_from(_NUMBERS)).encode() + data[match.end() :]


def _change_json(draw: DrawFn, data: bytes) -> bytes:
    """Put another value, a repeated or another key, or a deep nesting somewhere into the JSON of a body."""
    head, separator, body = data.rpartition(_BODY)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return data
    places = list(_places(document))
    if not places:
        return data
    container, key = draw(st.sampled_from(places))
    value = draw(st.sampled_from(_VALUES))
    match draw(st.integers(0, 4)):
        case 0:
            depth = draw(st.sampled_from((1, 62, 63, 64, 65, 1_000)))
            for number in range(depth):
                value = [value] if number % 2 else {"a": value}
            container[key] = value
        case 1 if isinstance(container, dict):
            container[draw(st.sampled_from(_STRINGS))] = container.pop(key)
        case 2:
            del container[key]
        case _:
            container[key] = value
    as_ascii = draw(st.booleans())
    try:
        text = json.dumps(document, ensure_ascii=as_ascii).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return data
    return head + separator + text


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Each container and key of a document."""
    found: list[tuple[Any, Any]] = []
    pending = [node] if isinstance(node, dict | list) else []
    while pending:
        container = pending.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                pending.append(container[key])
    return found


_MUTATIONS: tuple[Mutation, ...] = (
    _flip, _replace, _insert, _delete, _truncate, _repeat, _renumber, _change_json, _change_json, _change_json
)  # fmt: skip
