"""Settings that concern operators: how long rows are kept, and where replays may go."""

import pytest

from config.settings import SettingsError, load
from relay.cli.options import OperatorSettings
from relay.cli.output import told_age
from relay.settings import RelaySettings

NEEDED = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "SCHEMA_REGISTRY_URL": "http://localhost:2"}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7d", 604_800),
        ("12h", 43_200),
        ("90m", 5_400),
        ("60s", 60),
        ("1w", 604_800),
        ("1h30m", 5_400),
        ("1W2D", 777_600),
        ("off", None),
        ("OFF", None),
    ],
)
def test_an_age_has_a_unit(given: str, seconds: float | None) -> None:
    """Seconds, minutes, hours or days; off means never; a week unless set."""
    assert load(RelaySettings, {**NEEDED, "OUTBOX_RETENTION": given}).outbox_retention == seconds
    assert load(OperatorSettings, {"OUTBOX_RETENTION": given}).outbox_retention == seconds
    assert load(RelaySettings, NEEDED).outbox_retention == 604_800


@pytest.mark.parametrize("given", ["7", "0", "0d", "59s", "-1d", "7 d", "1y", "30m1h", "soon"])
def test_an_age_that_may_be_meant_otherwise_is_refused(given: str) -> None:
    """A number alone, less than a minute, another unit."""
    with pytest.raises(SettingsError, match=r"OUTBOX_RETENTION=.*expected an age of a minute or more"):
        load(RelaySettings, {**NEEDED, "OUTBOX_RETENTION": given})


def test_replay_topics_are_names() -> None:
    """Separated by commas; the progress topic is none of them."""
    assert load(RelaySettings, {**NEEDED, "KAFKA_REPLAY_TOPICS": "a, b.c"}).kafka_replay_topics == ("a", "b.c")
    assert load(RelaySettings, NEEDED).kafka_replay_topics == ()
    with pytest.raises(SettingsError, match="KAFKA_REPLAY_TOPICS='a,,b'"):
        load(RelaySettings, {**NEEDED, "KAFKA_REPLAY_TOPICS": "a,,b"})
    with pytest.raises(SettingsError, match="KAFKA_REPLAY_TOPICS: must not contain KAFKA_PROGRESS_TOPIC"):
        load(RelaySettings, {**NEEDED, "KAFKA_REPLAY_TOPICS": "p", "KAFKA_PROGRESS_TOPIC": "p"})


@pytest.mark.parametrize(
    ("age_ms", "told"), [(0, "0s"), (59_999, "59s"), (61_000, "1m 1s"), (3_600_000, "1h 0m"), (90_000_000, "1d 1h")]
)
def test_an_age_is_told_in_its_two_largest_units(age_ms: int, told: str) -> None:
    """Enough to see whether it is minutes or days."""
    assert told_age(age_ms) == told
