"""A Kafka record of an outbox row, and its headers."""

from collections.abc import Sequence

from confluent_kafka import Message

OUTBOX_ID, RECEIVED_AT, TRACEPARENT, REPLAY_OF = "outbox-id", "received-at", "traceparent", "replay-of"
"""Names of headers."""

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
