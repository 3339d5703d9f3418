"""docs/logs.md and docs/log-schema.json describe the log lines that are in the source."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import jsonschema

from testkit import ROOT
from testkit.log_schema import SCHEMA, documented

LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error",
          "critical": "critical"}  # fmt: skip
LOGGERS = {"log", "logger", "LIBRDKAFKA_LOG", "server.log"}
PASSED_ON = {"app/bounded_log.py", "app/gunicorn_worker.py"}
"""They log with an action that their caller chooses."""
OF_LIBRARIES = {"gunicorn", "kafka_client", "library"}
OF_EVERY_LINE = {"timestamp", "level", "event", "action", "process", "logger", "trace_id", "span_id", "exception"}
NO_FIELDS = {"exc_info", "extra"}
UNPACKED = {"relay/shard/recovery.py": {"shard", "epoch", "verdict", "marked"}}
"""Fields that a call takes from a dictionary."""


class Logged(NamedTuple):
    """A call that logs."""

    place: str
    level: str
    action: str | None
    """None: it has none; empty: its caller chooses it."""
    fields: set[str]


def logged() -> Iterator[Logged]:
    """Every call in the product that logs."""
    for package in ("app", "config", "console", "migrations", "outbox", "relay"):
        for path in sorted((ROOT / package).glob("**/*.py")):
            name = str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and (found := _logged(node, name)):
                    yield found


def _logged(call: ast.Call, file: str) -> Logged | None:
    function, place = ast.unparse(call.func), f"{file}:{call.lineno}"
    if function in ("EventKind", "self._log_limited"):
        return Logged(place, "warning", _text(call.args[0]), set())
    owner, _, method = function.rpartition(".")
    if owner not in LOGGERS or method not in LEVELS:
        return None
    keywords = {each.arg: each.value for each in call.keywords if each.arg}
    if isinstance(extra := keywords.get("extra"), ast.Dict):
        keywords |= {_text(key) or "": value for key, value in zip(extra.keys, extra.values, strict=True) if key}
    action = keywords.pop("action", None)
    known = _text(action) if action else None
    fields = {name for name in keywords if name not in NO_FIELDS}
    if None in {each.arg for each in call.keywords}:
        fields |= UNPACKED[file]
    return Logged(place, LEVELS[method], "" if action and file in PASSED_ON else known, fields)


def _text(node: ast.expr) -> str | None:
    return str(node.value) if isinstance(node, ast.Constant) else None


def test_every_line_has_an_action() -> None:
    """A line without one cannot be found again after its sentence has changed."""
    assert [each.place for each in logged() if each.action is None] == []


def test_the_page_lists_the_actions_and_levels_of_the_source() -> None:
    """Each action in the source is on the page, each on the page is in the source, with the same levels."""
    levels = defaultdict(set)
    for each in logged():
        if each.action:
            levels[each.action].add(each.level)
    on_page = {action: found for action, (found, _) in documented().items() if action not in OF_LIBRARIES}
    assert on_page == levels
    assert documented().keys() >= OF_LIBRARIES


def test_the_schema_has_the_fields_of_the_source() -> None:
    """Each field that a line has is in the schema, and each of the schema is a field of some line."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    fields = set().union(*(each.fields for each in logged()))
    assert fields | OF_EVERY_LINE == SCHEMA["properties"].keys()
