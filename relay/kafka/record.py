"""A Kafka record of an outbox row, and its headers."""

from collections.abc import Sequence

from confluent_kafka import Message

OUTBOX_ID, RECEIVED_AT, TRACEPARENT, REPLAY_OF = "outbox-id", "received-at", "traceparent", "replay-of"
"""Names of headers."""
MAX_DIGITS = 19
"""Of a number that the database can hold; int() refuses thousands of digits."""

Headers = list[tuple[str, str | bytes | None]]
Record = tuple[bytes, bytes, Headers, str | None]
"""Key, value, headers and topic; None: the topic of the producer."""


def headers_of(message: Message) -> dict[str, bytes]:
    """The headers of a consumed record, by name; none if the name of one is not UTF-8.

    The client then raises ``SystemError``, and would return a broken list if it were asked again.
    """
    try:
        headers: Sequence[tuple[str, bytes | None]] = message.headers() or ()  # type: ignore[assignment]
    except SystemError:
        return {}
    return {name: value or b"" for name, value in headers}


def number_of(content: bytes) -> int | None:
    """The number in a header; None: it is not written as the encoder writes numbers, so somebody else wrote it."""
    is_number = content.isdigit() and len(content) <= MAX_DIGITS and (content == b"0" or not content.startswith(b"0"))
    return int(content) if is_number else None
