"""docs/troubleshooting.md and the messages in the code agree.

A message is a string of the product, in which ``…`` stands for each part that is filled in. A text of the page quotes a
message if its pieces between ``…`` occur in it in this order.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache

from confluent_kafka import KafkaError

from outbox.db.errors import REMEDIES as DATABASE_REMEDIES
from relay.kafka.errors import REMEDIES as KAFKA_REMEDIES
from relay.kafka.schema_registry import EXPLANATIONS
from testkit import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
PACKAGES = ("config", "outbox", "app", "relay", "console")
FIRST_CELL = re.compile(r"^\| (?:\d+ )?`([^`|]+)`(?:<!--.*?-->)? \|", re.MULTILINE)
ELSEWHERE = re.compile(r"^\| `([^`|]+)`<!--", re.MULTILINE)
"""Texts of others that have a remedy here."""
LOG_ROW = re.compile(r"^\| `([^`|]+)` \| `(\w+)` \|", re.MULTILINE)
FILLED_IN = re.compile(r"%[sdr]|\{\w+\}")
REPORTS = {"warning", "error", "exception", "critical"}
FINDINGS = {"failure", "warning", "unknown", "problem"}
SELF_EXPLANATORY = {"ValueError", "TypeError", "UsageError", "UnauthorizedError", "StoppedError", "OperationalError"}
"""Values of settings and arguments, whose messages say what is expected; and errors that others replace."""
END = "\0"
"""Between two messages."""
MINIMUM = 6
"""A quoted text with fewer letters would fit anything."""


def text_of(node: ast.AST | None) -> str:
    """A string as it is written in the code, with ``…`` for each part that is filled in; empty: no string."""
    match node:
        case ast.Constant(value=str(value)):
            return FILLED_IN.sub("…", value)
        case ast.JoinedStr(values=values):
            return "".join(text_of(value) or "…" for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (text_of(left) or "…") + (text_of(right) or "…")
        case ast.IfExp(body=body, orelse=orelse):
            return text_of(body) or text_of(orelse)
    return ""


@cache
def trees() -> list[ast.AST]:
    """The modules of the product, without the demo."""
    files = [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "demo" not in str(path.relative_to(ROOT))
    ]
    return [ast.parse(path.read_text()) for path in files]


@cache
def strings() -> str:
    """Every string of the product except docstrings, the console's pages, and the names of Kafka's errors."""
    nodes = [node for tree in trees() for node in ast.walk(tree)]
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    found = {text_of(node) for node in nodes if node not in docstrings}
    pages = [path.read_text() for path in (ROOT / "console/templates").rglob("*.html")]
    return END.join([*found, *pages, *kafka_names()])


def kafka_names() -> list[str]:
    """The names of the errors that have a remedy."""
    return [str(KafkaError(code).name()) for code in KAFKA_REMEDIES]


def reported() -> Iterator[str]:
    """The messages that the product raises, logs as a warning or an error, or prints as a finding of a check."""
    for tree in trees():
        for node in ast.walk(tree):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            texts = [text_of(argument) for argument in call.args]
            if isinstance(node, ast.Raise) and name not in SELF_EXPLANATORY:
                yield from texts[-1:]
            elif isinstance(call.func, ast.Attribute) and name in REPORTS and text_of_owner(call) == "log":
                yield from texts[:1]
            elif isinstance(call.func, ast.Name) and name in FINDINGS:
                yield next((text for text in texts[1:] if has_words(text)), "")


def text_of_owner(call: ast.Call) -> str:
    """The name before the dot of a call."""
    return getattr(getattr(call.func, "value", None), "id", "")


def has_words(text: str) -> bool:
    """Whether a message has a constant part that can be searched for."""
    return any(len(piece.strip()) >= MINIMUM for piece in text.split("…"))


@cache
def quoted() -> tuple[str, ...]:
    """The texts that the page is indexed by."""
    return tuple(FIRST_CELL.findall(PAGE.read_text()))


def quotes(text: str, message: str) -> bool:
    """Whether the text quotes the message, or one of several."""
    return bool(pattern(text).search(message))


@cache
def pattern(text: str) -> re.Pattern[str]:
    """A pattern of the messages that a text quotes."""
    return re.compile(f"[^{END}]*".join(re.escape(piece) for piece in text.split("…")))


def test_each_quoted_text_is_in_the_code() -> None:
    """A text of the page that no message has is misquoted, or the message has changed."""
    others = set(ELSEWHERE.findall(PAGE.read_text()))
    assert [text for text in quoted() if text not in others and not quotes(text, strings())] == []


def test_each_message_has_a_place_on_the_page() -> None:
    """A message without one is new: add a row for it."""
    texts = [text for text in quoted() if len(text) >= MINIMUM]
    messages = {message for message in reported() if has_words(message)}
    assert sorted(each for each in messages if not any(quotes(text, each) for text in texts)) == []


def test_each_remedy_in_a_table_has_a_place_on_the_page() -> None:
    """The tables of Kafka's, PostgreSQL's and the registry's errors, row by row."""
    registry = [FILLED_IN.sub("…", what) for what, _ in EXPLANATIONS.values()]
    tables = [*kafka_names(), *DATABASE_REMEDIES.values(), *registry]
    assert [each for each in tables if not any(quotes(text, each) for text in quoted())] == []


def test_each_log_line_has_its_action() -> None:
    """The table of log lines names the ``action`` that the code gives them."""
    rows = LOG_ROW.findall(PAGE.read_text())
    for line, action in logged():
        named = {listed for text, listed in rows if quotes(text, line)}
        assert not named or action in named, line
    assert len(rows) > 20


def logged() -> set[tuple[str, str]]:
    """Each warning and error that is logged with a constant action, and that action."""
    calls = [node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    return {
        (text_of(call.args[0]), text_of(keyword.value))
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in REPORTS and text_of_owner(call) == "log"
        for keyword in call.keywords
        if keyword.arg == "action" and has_words(text_of(call.args[0]))
    }


def test_each_quoted_text_stands_once() -> None:
    """Two rows for one text would contradict each other some day."""
    assert sorted(text for text in set(quoted()) if quoted().count(text) > 1) == []
