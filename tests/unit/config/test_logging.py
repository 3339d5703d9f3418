"""Log lines: one format for all, nothing personal in a traceback."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from config.logging import OURS, configure_logging, frames
from config.settings import BaseSettings, load


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def fail() -> None:
    """Fail with personal data in a local variable, and in the message."""
    mail = "canary-local"
    assert mail
    raise ValueError("canary-message")


def test_ours_and_the_libraries_lines_share_one_format(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, one object a line, on stderr, with arguments put into the sentence."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json"}))
    structlog.get_logger("ours").warning("%d rows wait for %s", 3, "Kafka", action="waiting")
    logging.getLogger("theirs").warning("listening at %s", "here")
    captured = capsys.readouterr()
    ours, theirs = map(json.loads, captured.err.splitlines())
    assert captured.out == ""
    assert (ours["event"], ours["action"], ours["level"]) == ("3 rows wait for Kafka", "waiting", "warning")
    assert (theirs["event"], theirs["logger"]) == ("listening at here", "theirs")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_neither_local_variables_nor_messages(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They hold rows and secrets: a database quotes the row that it refuses. Where it failed, and as what, is shown."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": form}))
    try:
        try:
            fail()
        except ValueError as error:
            raise LookupError("canary-outer") from error
    except LookupError:
        structlog.get_logger("ours").exception("it failed", action="failed")
        logging.getLogger("theirs").exception("it failed")
    written = capsys.readouterr().err
    assert written.count(" fail") >= 2
    assert written.count("builtins.ValueError") == written.count("builtins.LookupError") == 2
    assert "canary" not in written
    if form == "json":
        assert [json.loads(line)["level"] for line in written.splitlines()] == ["error", "error"]


def test_debug_is_for_our_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL=DEBUG: what libraries tell their developers quotes requests and rows, and is not shown."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json", "LOG_LEVEL": "debug"}))
    logging.getLogger("theirs.protocol").debug("GET /canary")
    structlog.get_logger("relay.shard.worker").debug("ours", action="looking")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "ours"


def test_a_line_stays_a_line_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a broker or a database answers may hold line ends and escapes, and look like a line of ours."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "console"}))
    structlog.get_logger("relay").warning("%s waits", "a\nb\x1b[2J\u202e", action="degraded", reason="c\rd")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "a\\nb\\x1b[2J\\u202e waits" in written
    assert "\r" not in written


def test_the_level_holds_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL, in any case, silences what is below it."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json", "LOG_LEVEL": "warning"}))
    structlog.get_logger("ours").info("quiet", action="quiet")
    logging.getLogger("theirs").info("quiet")
    assert capsys.readouterr().err == ""


def test_a_library_that_quotes_urls_and_answers_is_not_heard(capsys: pytest.CaptureFixture[str]) -> None:
    """What urllib3 says of an answer whose head is garbled holds the URL, with the interaction, and the head."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json", "LOG_LEVEL": "debug"}))
    logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=%s): %s", "canary", "canary")
    logging.getLogger("httpx").info("HTTP Request: GET %s", "canary")
    assert capsys.readouterr().err == ""


def test_frames_tell_where_and_not_what() -> None:
    """For errors whose message may quote what somebody sent."""
    try:
        fail()
    except ValueError as error:
        told = frames(error)
    assert told[-1].endswith(" fail")
    assert "canary" not in "".join(told)
