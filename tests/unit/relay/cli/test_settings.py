"""Settings of operators: how long rows are kept, and where replays may go."""

import pytest

from config.settings import SettingsError, load
from relay.operator_settings import OperatorSettings
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
def test_a_retention_has_a_unit(given: str, seconds: float | None) -> None:
    """Seconds, minutes, hours, days or weeks; "off" keeps rows forever; the default is a week."""
    assert load(RelaySettings, {**NEEDED, "OUTBOX_RETENTION": given}).outbox_retention == seconds
    assert load(OperatorSettings, {"OUTBOX_RETENTION": given}).outbox_retention == seconds
    assert load(RelaySettings, NEEDED).outbox_retention == 604_800


@pytest.mark.parametrize("given", ["7", "0", "0d", "59s", "-1d", "7 d", "1y", "30m1h", "soon"])
def test_an_ambiguous_retention_is_refused(given: str) -> None:
    """A number without a unit, less than a minute, an unknown unit."""
    with pytest.raises(SettingsError, match=r"OUTBOX_RETENTION=.*expected an age of a minute or more"):
        load(RelaySettings, {**NEEDED, "OUTBOX_RETENTION": given})


def test_replay_topics_are_names() -> None:
    """They are separated by commas and do not include the progress topic."""
    assert load(RelaySettings, {**NEEDED, "KAFKA_REPLAY_TOPICS": "a, b.c"}).kafka_replay_topics == ("a", "b.c")
    assert load(RelaySettings, NEEDED).kafka_replay_topics == ()
    with pytest.raises(SettingsError, match="KAFKA_REPLAY_TOPICS='a,,b'"):
        load(RelaySettings, {**NEEDED, "KAFKA_REPLAY_TOPICS": "a,,b"})
    with pytest.raises(SettingsError, match="KAFKA_REPLAY_TOPICS: must not contain KAFKA_PROGRESS_TOPIC"):
        load(RelaySettings, {**NEEDED, "KAFKA_REPLAY_TOPICS": "p", "KAFKA_PROGRESS_TOPIC": "p"})
