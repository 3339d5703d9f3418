"""A row's history as lines of text, for ``relay show``."""

from collections.abc import Iterator

from outbox.operators.row_facts import Fact, content_facts, later_facts, masked_values, receipt_facts, sending_facts
from outbox.operators.row_history import RowContent, RowHistory
from relay.kafka.row_verification import KafkaRecord, record_facts


def format_history(history: RowHistory, kafka: KafkaRecord, content: RowContent | None) -> Iterator[str]:
    """Yield the lines.

    Args:
        history: what the outbox knows.
        kafka: what the topic holds.
        content: the body and the personal values, if they are revealed.
    """
    yield f"row {history.row.id}: {history.row.state}"
    yield from (f"  {label:<13} {value}" for label, value in _facts(history, kafka, content))


def _facts(history: RowHistory, kafka: KafkaRecord, content: RowContent | None) -> Iterator[Fact]:
    row = history.row
    yield from receipt_facts(row)
    yield from content_facts(row, content)
    if content is None and (masked := masked_values(row)):
        yield "masked", f"{', '.join(masked)} (--reveal --reason WHY shows them and is audited)"
    yield from sending_facts(history)
    yield from record_facts(row, kafka, revealed=content is not None)
    yield from later_facts(history)
