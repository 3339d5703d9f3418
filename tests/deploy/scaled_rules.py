"""The alerts, made quicker: what takes minutes in production takes seconds in tests."""

import re

from testkit import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
FACTOR = 30
"""By which every duration is divided: of ``for``, of windows, of offsets."""
WEEK_SECONDS = 120
"""What the offset of a week becomes."""
UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000}
THRESHOLDS = {
    "outbox_backlog_oldest_age_seconds) > 60)": "outbox_backlog_oldest_age_seconds) > 5)",
    "last_commit_timestamp_seconds) < 120)": "last_commit_timestamp_seconds) < 4)",
    '{stage="inference"}) > 300': '{stage="inference"}) > 10',
    "counted_timestamp_seconds) > 120": "counted_timestamp_seconds) > 15",
    "verified_until_timestamp_seconds) > 900": "verified_until_timestamp_seconds) > 30",
    "outbox_disk_free_bytes) < 20e9 and": "outbox_disk_free_bytes) < 0 and",
}
"""Thresholds in seconds, and what they become. That of the oldest row, and that of the time since the count, are not
divided by as much: web counts the backlog every ten seconds. Latencies, such as the 5 s of the objective, stay. How
fast the disk fills is not looked at, because tests share it with others."""


def scaled_rules(factor: int = FACTOR) -> str:
    """Return the text of the rules with every duration divided or replaced, and the thresholds replaced."""
    text = RULES.read_text()
    for old, new in THRESHOLDS.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)

    def divide(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2]) * UNIT_MS[match[3]] // factor}ms"

    text = re.sub(r"(\[|offset |for: )(\d+)([smh])\b", divide, text)
    return text.replace("offset 1w", f"offset {WEEK_SECONDS}s")
