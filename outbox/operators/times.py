"""Parse the times that operators type: ISO 8601, a time of day, a day, an age, or a number since 1970."""

import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

EXPECTED = (
    "expected ISO 8601 (2026-01-31T08:00, local unless it ends in Z, +01:00 or a zone such as Europe/Berlin), "
    "a time of day (21:00), today, yesterday, an age (30m, 1h30m, 2d, 1w), "
    "or seconds or milliseconds since 1970 (10 or 13 digits)"
)
MAX_DURATION_SECONDS = 52 * 7 * 86_400
"""A year. The end of what lasts longer could be a time that cannot be shown."""
_AGE_UNITS = {"w": 7 * 86_400, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_AGE = re.compile("(?=.)" + "".join(rf"(?:(\d{{1,6}}){unit})?" for unit in _AGE_UNITS), re.IGNORECASE)
_EPOCH = re.compile(r"(?P<seconds>\d{10})((?P<milliseconds>\d{3})|\.\d+)?")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
_DAYS_BACK = {"today": 0, "yesterday": 1}
_ZONE = re.compile(r"\s*\[?(?P<zone>UTC|GMT|[A-Za-z_]+/[A-Za-z0-9_+/-]+)\]?$")


def parse_age(age: str) -> float | None:
    """Seconds of an age such as ``90s``, ``1h30m``, ``2d`` or ``1w``, larger units first; None if it is malformed."""
    found = _AGE.fullmatch(age)
    if found is None:
        return None
    return float(sum(int(number or 0) * size for number, size in zip(found.groups(), _AGE_UNITS.values(), strict=True)))


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``1h30m`` or ``2d``, of at most ``MAX_DURATION_SECONDS``.

    Raises:
        ValueError: the text has another format, or the duration is zero or too long.
    """
    seconds = parse_age(text)
    if not seconds:
        raise ValueError(f"{text!r} is not a duration: expected one such as 90s, 30m, 1h30m or 2d")
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError(f"{text!r} is too long: at most 52w")
    return seconds


def parse_time(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Parse a time.

    Args:
        text: in a format of ``EXPECTED``; case does not matter, and an age may end in "ago".
        now: the local time with its offset. Ages and days count back from it; a time of day is the last one before it.
        zone: of times without an offset or a zone; None: this machine's.

    Raises:
        ValueError: the text has another format.
    """
    try:
        return _parse(text.strip(), now, zone)
    except (ZoneInfoNotFoundError, OverflowError) as error:
        raise ValueError(str(error)) from None


def _parse(text: str, now: datetime, zone: tzinfo | None) -> datetime:
    seconds = parse_age(re.sub(r"\s|ago$", "", text.lower()))
    if seconds is not None:
        return now - timedelta(seconds=seconds)
    if epoch := _EPOCH.fullmatch(text):
        return datetime.fromtimestamp(int(text) / 1000 if epoch["milliseconds"] else float(text), UTC)
    if text.lower() == "now":
        return now
    day, _, clock = text.partition(" ")
    if day.lower() in _DAYS_BACK:
        return _at(now, _DAYS_BACK[day.lower()], clock or "00:00", zone)
    if _TIME_OF_DAY.fullmatch(text):
        today = _at(now, 0, text, zone)
        return today if today <= now else _at(now, 1, text, zone)
    return _iso(text, zone)


def _at(now: datetime, days_back: int, clock: str, zone: tzinfo | None) -> datetime:
    """Return a time of day, that many days before today."""
    hour, _, rest = clock.partition(":")
    moment = time.fromisoformat(f"{hour:0>2}:{rest}")
    return _localized(datetime.combine(now.date() - timedelta(days=days_back), moment), zone)


def _iso(text: str, zone: tzinfo | None) -> datetime:
    named = _ZONE.search(text)
    if named is None:
        return _localized(datetime.fromisoformat(text), zone)
    moment = datetime.fromisoformat(text[: named.start()])
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(named["zone"]))


def _localized(moment: datetime, zone: tzinfo | None) -> datetime:
    """Add the offset of a zone, or of this machine, to a time without one."""
    if moment.tzinfo:
        return moment
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
