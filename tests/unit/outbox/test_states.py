"""The states, their transitions, and what the documentation says of them."""

import re

from outbox.states import TRANSITIONS, UNSENT, RowState
from testkit import ROOT


def test_the_documentation_names_every_transition_and_no_other() -> None:
    """docs/delivery.md and the code tell of the same states."""
    section = (ROOT / "docs/delivery.md").read_text().split("## States", 1)[1]
    sentence = re.search(r"`(\w+)` or `(\w+) → sent`", section)
    assert sentence is not None
    told = set(re.findall(r"`(\w+) → (\w+)`", section)) | {(sentence[1], "sent")}
    assert told == {(start.value, end.value) for start, ends in TRANSITIONS.items() for end in ends}


def test_what_is_sent_stays_sent_unless_kafka_has_lost_it() -> None:
    """Nothing else rewrites history, and every other state can be found to be in Kafka already."""
    assert TRANSITIONS[RowState.SENT] == {RowState.PENDING}
    assert set(UNSENT) == set(RowState) - {RowState.SENT}
