"""Bytes of a request to an interaction, or the list of what is wrong with them. Pure, and strict.

Nothing is defaulted or repaired: what is missing or out of range is refused by name. ``openapi.json`` publishes the
same rules, and a property test compares the two.
"""

import codecs
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any, NamedTuple

MAX_DEPTH = 64
MAX_PROBLEMS = 20
"""How many problems are told at most: an answer must not be larger than what it answers."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_DECIMAL_MIN, _DECIMAL_MAX = Decimal(INT64_MIN), Decimal(INT64_MAX)
_INT64_DIGITS = 20
_BEYOND = "is beyond 64 bits: a number lies between -2^63 and 2^63 - 1"
_MILLISECONDS = "milliseconds expected: an integer since the epoch, from 0 to 2^63 - 1"
_WIDE_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Byte order marks, which are not UTF-8, and what they announce."""
_BYTE_ORDER_MARK = "\ufeff"
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""Nothing else brings NUL or a surrogate into a string (a valid pair of surrogates looks the same)."""
_SURROGATE = re.compile("[\ud800-\udfff]")


_PLACEHOLDER = re.compile(r"\{\s*[A-Za-z_][\w.]*\s*\}")
"""As ``{contactId}``, ``{{contact.id}}``, ``${id}``; the braces around a GUID hold hyphens."""


class Problem(NamedTuple):
    """One thing wrong: where (RFC 6901) and what, without the value."""

    pointer: str
    detail: str


class _OddError(Exception):
    """A key is repeated, or a number is out of range; the second, exact reading finds out where."""


class NotJsonError(Exception):
    """The body is not JSON as RFC 8259 has it; the message is fit for the sender."""


class InvalidInteractionError(Exception):
    """The body is JSON, but not an interaction.

    Attributes:
        problems: what is wrong, 1 to ``MAX_PROBLEMS``.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("not a valid interaction")
        self.problems = problems


class Interaction(NamedTuple):
    """What the outbox needs of a body that is in order."""

    interaction_id: str
    channel: str
    timestamp_ms: int | None
    """None: the time of receipt."""
    customer_email: str | None
    agent_id: str | None


class _Repeated(dict[str, Any]):
    """An object that has keys twice."""

    keys_twice: tuple[str, ...] = ()


_OUT_OF_RANGE = object()


def parse(body: bytes) -> Interaction:
    """The interaction in a request body.

    Raises:
        NotJsonError: not JSON, not UTF-8, empty, or nested deeper than 64.
        InvalidInteractionError: with a JSON pointer for each thing wrong.
    """
    document, odd = _decode(body)
    found = _faults(document, "") if odd or _ODD_ESCAPE.search(body) else iter(())
    problems = list(islice(found, MAX_PROBLEMS))
    if not isinstance(document, dict):
        raise InvalidInteractionError([Problem("", "an object is expected"), *problems][:MAX_PROBLEMS])
    take = _Taker(document, problems)
    interaction_id = take.identifier("id", required=True)
    channel = take.text("channel", 64, required=True)
    timestamp_ms = take.timestamp("timestamp")
    customer_email = take.within("customer").text("email", 320)
    agent_id = take.within("agent").identifier("id")
    if problems or interaction_id is None or channel is None:
        raise InvalidInteractionError(sorted(set(problems))[:MAX_PROBLEMS])
    return Interaction(interaction_id, channel, timestamp_ms, customer_email, agent_id)


def placeholders(interaction: Interaction) -> list[str]:
    """JSON pointers of the fields in which a placeholder stands where the sender meant a value."""
    fields = {
        "/id": interaction.interaction_id,
        "/channel": interaction.channel,
        "/customer/email": interaction.customer_email,
        "/agent/id": interaction.agent_id,
    }
    return [pointer for pointer, value in fields.items() if value and "{" in value and _PLACEHOLDER.search(value)]


def _decode(body: bytes) -> tuple[Any, bool]:
    """The document, and whether it has marks of what is odd: ``_OUT_OF_RANGE`` or ``_Repeated``."""
    text = _text(body)
    if not text.strip(" \t\r\n"):
        raise NotJsonError("the body is empty: send a JSON object")
    try:
        document, odd = _read(text)
    except RecursionError:
        raise NotJsonError(f"the body is nested deeper than {MAX_DEPTH}") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"the body is not JSON: {_explain(error)}") from None
    # A document cannot be deeper than it has brackets, so most need no further check.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        raise NotJsonError(f"the body is nested deeper than {MAX_DEPTH}")
    return document, odd


def _text(body: bytes) -> str:
    """The body as text, without the one byte order mark that may precede it (RFC 8259, 8.1)."""
    try:
        return body.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        found = next((name for mark, name in _WIDE_ENCODINGS if body.startswith(mark)), None)
        raise NotJsonError(
            f"the body is {found or f'not UTF-8 (byte {error.start})'}: send UTF-8, whatever charset the Content-Type "
            "names"
        ) from None


def _explain(error: json.JSONDecodeError) -> str:
    """What is wrong and where; a character that no one sees, or that only looks right, is called by its name."""
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


def _read(text: str) -> tuple[Any, bool]:
    """Read once; a second time, with marks, only where something is odd."""
    try:
        return _PLAIN.decode(text), False
    except _OddError:
        return _MARKING.decode(text), True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _OddError
    return found


def _marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = _Repeated(pairs)
    if len(found) != len(pairs):
        found.keys_twice = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return found


def _integer(text: str) -> int:
    if len(text) <= _INT64_DIGITS and INT64_MIN <= (number := int(text)) <= INT64_MAX:
        return number
    raise _OddError


def _decimal(text: str) -> Decimal:
    """A number with a fraction or an exponent, exactly: a float would change the digits of a long id."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits and more
        raise _OddError from None
    if _DECIMAL_MIN <= number <= _DECIMAL_MAX:
        return number
    raise _OddError


def _or_mark(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def reading(text: str) -> Any:
        try:
            return read(text)
        except _OddError:
            return _OUT_OF_RANGE

    return reading


def _constant(name: str) -> Any:
    raise NotJsonError(f"the body is not JSON: {name} is no JSON value")


_PLAIN = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_decimal, parse_constant=_constant)
_MARKING = json.JSONDecoder(
    object_pairs_hook=_marked_object,
    parse_int=_or_mark(_integer),
    parse_float=_or_mark(_decimal),
    parse_constant=_constant,
)


def _depth(document: Any) -> int:
    deepest, level = 0, [document]
    while level:
        level = [child for node in level for child in _children(node)]
        deepest += 1
    return deepest - 1


def _children(node: Any) -> list[Any]:
    """Of a container; a scalar has none. An empty container is itself one level."""
    if isinstance(node, dict):
        return list(node.values()) or [None]
    if isinstance(node, list):
        return node or [None]
    return []


def _faults(node: Any, pointer: str) -> Iterator[Problem]:
    """What no JSON value of ours may hold, wherever it stands."""
    if node is _OUT_OF_RANGE:
        yield Problem(pointer, _BEYOND)
    elif isinstance(node, str):
        yield from _text_problems(node, pointer)
    elif isinstance(node, dict):
        if isinstance(node, _Repeated):
            yield from (Problem(f"{pointer}/{_token(name)}", "key is repeated") for name in node.keys_twice)
        for name, value in node.items():
            here = f"{pointer}/{_token(name)}"
            yield from _text_problems(name, here)
            yield from _faults(value, here)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _faults(value, f"{pointer}/{index}")


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem(pointer, "holds the character NUL")
    if _SURROGATE.search(text):
        yield Problem(pointer, "holds a lone surrogate: not a Unicode character")


def _token(name: str) -> str:
    """A name in a JSON pointer (RFC 6901); what is no character is shown escaped."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    return shown[:64].replace("~", "~0").replace("/", "~1")


def _as_integer(value: Any) -> Any:
    """A number without a fraction as an integer, however it is written; anything else as it is."""
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Taker:
    """Takes fields out of an object and notes what is wrong with them."""

    def __init__(self, fields: dict[str, Any], problems: list[Problem], pointer: str = "") -> None:
        self._fields, self._problems, self._pointer = fields, problems, pointer

    def within(self, name: str) -> "_Taker":
        """The taker of an optional object inside; absent or null, it has no fields."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, dict):
            self._wrong(name, "must be an object")
        return _Taker(value if isinstance(value, dict) else {}, self._problems, f"{self._pointer}/{name}")

    def text(self, name: str, longest: int, *, required: bool = False) -> str | None:
        """A string of up to ``longest`` characters; an empty one is refused if required, else None."""
        value = self._present(name, required=required)
        return None if value is None else self._checked(name, value, longest, "must be a string")

    def identifier(self, name: str, *, required: bool = False) -> str | None:
        """As ``text`` of up to 256 characters, or an integer, which becomes a string."""
        value = _as_integer(self._present(name, required=required))
        if value is None:
            return None
        if _is_integer(value):
            return str(value)
        return self._checked(name, value, 256, "must be a string or an integer")

    def timestamp(self, name: str) -> int | None:
        """An integer from 0 to 2**63 - 1, or None."""
        value = _as_integer(self._present(name, required=False))
        if value is None:
            return None
        if _is_integer(value) and value >= 0:
            return int(value)
        self._wrong(name, _MILLISECONDS)
        return None

    def _present(self, name: str, *, required: bool) -> Any:
        """The value, or None if there is none to check. CXone sends an empty string for a variable that is not set."""
        value = self._fields.get(name)
        if value is None and required:
            self._wrong(name, "must not be null" if name in self._fields else "is missing")
        if value == "" and required:
            self._wrong(name, "must not be empty")
        return None if value == "" or value is _OUT_OF_RANGE else value

    def _checked(self, name: str, value: Any, longest: int, wanted: str) -> str | None:
        if not isinstance(value, str):
            self._wrong(name, wanted)
        elif len(value) > longest:
            self._wrong(name, f"is longer than {longest} characters")
        else:
            return value
        return None

    def _wrong(self, name: str, detail: str) -> None:
        self._problems.append(Problem(f"{self._pointer}/{name}", detail))
