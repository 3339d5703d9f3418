"""The log lines as docs/logs.md and docs/log-schema.json describe them."""

import json
import re
from collections.abc import Iterable
from typing import Any

import jsonschema

from testkit import ROOT

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "log-schema.json").read_text())
_ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \| ([\w, ]+) \| .+ \| .+ \|$", re.MULTILINE)


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """The levels and the processes of each action, from docs/logs.md."""
    found = _ROW.findall((ROOT / "docs" / "logs.md").read_text())
    assert len({row[0] for row in found}) == len(found), "an action is listed twice"
    return {action: (set(levels.split(", ")), set(processes.split(", "))) for action, levels, processes in found}


def check_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Assert that each line has the schema and a documented action; return them parsed."""
    validator, actions, parsed = jsonschema.Draft202012Validator(SCHEMA), documented(), []
    for line in lines:
        assert line.startswith("{"), f"not JSON: {line}"
        parsed.append(entry := json.loads(line))
        problems = [error.message for error in validator.iter_errors(entry)]
        levels, processes = actions.get(entry.get("action"), (set(), set()))
        assert not problems, f"{problems}: {line}"
        assert (entry["level"] in levels, entry["process"] in processes) == (True, True), f"not as documented: {line}"
    return parsed
