"""Log lines have one format, and contain no personal data."""

import json
import logging
import subprocess
import sys

import pytest
import structlog

from config.logging import configure_logging, frames
from config.settings import BaseSettings, load
from testkit import ROOT
from testkit.log_schema import check_lines


def fail() -> None:
    """Raise an error with personal data in a local variable and in the message."""
    mail = "canary-local"
    assert mail
    raise ValueError("canary-message")


def test_own_lines_and_those_of_libraries_have_one_format(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, one JSON object a line, with the arguments formatted into the sentence."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json"}), "relay")
    structlog.get_logger("ours").warning("%d rows wait for %s", 3, "Kafka", action="waiting")
    logging.getLogger("theirs").warning("listening at %s", "here")
    captured = capsys.readouterr()
    ours, theirs = map(json.loads, captured.err.splitlines())
    assert captured.out == ""
    assert (ours["event"], ours["action"], ours["level"]) == ("3 rows wait for Kafka", "waiting", "warning")
    assert (theirs["event"], theirs["logger"]) == ("listening at here", "theirs")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_neither_local_variables_nor_messages(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They may quote rows and secrets. The traceback shows the types of the errors and where they were raised."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": form}), "relay")
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


def test_debug_lines_of_libraries_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Even with LOG_LEVEL=DEBUG: they quote requests and rows."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json", "LOG_LEVEL": "debug"}), "relay")
    logging.getLogger("theirs.protocol").debug("GET /canary")
    structlog.get_logger("relay.shard.worker").debug("ours", action="looking")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "ours"


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """A message of a broker or database may contain line breaks and escape sequences, and imitate a log line."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "console"}), "relay")
    structlog.get_logger("relay").warning("%s waits", "a\nb\x1b[2J\u202e", action="degraded", reason="c\rd")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "a\\nb\\x1b[2J\\u202e waits" in written
    assert "\r" not in written


def test_the_level_applies_to_all_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL, in upper or lower case, suppresses lines below it."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json", "LOG_LEVEL": "warning"}), "relay")
    structlog.get_logger("ours").info("quiet", action="quiet")
    logging.getLogger("theirs").info("quiet")
    assert capsys.readouterr().err == ""


def test_libraries_that_quote_urls_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning of urllib3 about malformed headers contains the URL and the headers."""
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json", "LOG_LEVEL": "debug"}), "relay")
    logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=%s): %s", "canary", "canary")
    logging.getLogger("httpx").info("HTTP Request: GET %s", "canary")
    assert capsys.readouterr().err == ""


def test_frames_contain_places_and_no_values() -> None:
    """The innermost frame is the last; the message is not included."""
    try:
        fail()
    except ValueError as error:
        trace = frames(error)
    assert trace[-1].endswith(" fail")
    assert "canary" not in "".join(trace)


UNCAUGHT = """
import os, threading, warnings
from config.logging import configure_logging, log_uncaught
from config.settings import BaseSettings, load

configure_logging(load(BaseSettings, {"LOG_FORMAT": "json"}), "relay")
log_uncaught()
warnings.warn("an old way")
thread = threading.Thread(target=lambda: {}["canary"])
thread.start()
thread.join()
raise ValueError("canary")
"""


def test_uncaught_exceptions_and_warnings_are_log_lines() -> None:
    """In any thread, with kind and place, and without the message."""
    ended = subprocess.run([sys.executable, "-c", UNCAUGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    warned, *uncaught = check_lines(ended.stderr.splitlines())
    assert (warned["action"], warned["level"]) == ("library", "warning")
    assert [line["action"] for line in uncaught] == ["uncaught", "uncaught"]
    assert [line["exception"][0]["exc_type"] for line in uncaught] == ["builtins.KeyError", "builtins.ValueError"]
    assert "canary" not in ended.stderr
