"""What the reference pages take from the code is up to date, and what they say by hand agrees with it."""

import json
import re
from pathlib import Path

import pytest

from app.factory import create_app
from app.settings import WebSettings
from config.settings import load
from relay.cli import COMMANDS
from relay.cli.output import ExitCode
from relay.kafka.record import OUTBOX_ID, RECEIVED_AT, REPLAY_OF, TRACEPARENT
from testkit.documentation.blocks import BLOCKS, DOCS, SCHEMAS, filled, names, pages
from testkit.documentation.command_line import commands
from testkit.documentation.settings import NAMES, names_module
from testkit.documentation.webhook import DOCUMENT, routes

STALE = "out of date: run make docs-reference"


def first_cells(page: str, section: str) -> list[str]:
    """The first cells of a section's first table, below the heading."""
    text = (DOCS / page).read_text().partition(f"\n## {section}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table
    return [line.split("|")[1].strip().strip("`") for line in table[0].splitlines()[2:]]


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: page.name)
def test_generated_blocks_are_up_to_date(page: Path) -> None:
    """Each block of a page is the one that follows from the code."""
    text = page.read_text()
    assert filled(text) == text, STALE


def test_every_block_is_in_one_page() -> None:
    """What is generated has a place to be read."""
    assert sorted(names(page.read_text() for page in pages())) == sorted(BLOCKS)


def test_the_list_of_setting_names_is_the_generated_one() -> None:
    """config/setting_names.py has the names that follow from the settings classes."""
    assert NAMES.read_text() == names_module(), STALE


def test_a_command_has_usage_options_defaults_and_examples() -> None:
    """The section of a command says what its help says; those within a group have one as well."""
    sections = dict(re.findall(r"^## `relay ([\w -]+)`\n(.*?)(?=^## |\Z)", commands(), re.MULTILINE | re.DOTALL))
    assert COMMANDS.keys() <= sections.keys()
    assert "inference retry" in sections
    assert "\nrelay demo [OPTIONS]\n" in sections["demo"]
    assert "| `--count NUMBER` | Post this many interactions, 10 to 5000. [default: 2000] |" in sections["demo"]
    assert "```\nrelay demo --count 5000\n" in sections["demo"]


def test_exit_codes_are_described() -> None:
    """The page has a line for each exit code."""
    assert first_cells("command-line.md", "Exit codes") == [str(code.value) for code in ExitCode]


def test_a_route_has_statuses_headers_and_bodies() -> None:
    """The section of a route has what the OpenAPI document says."""
    text = routes()
    status = "| 429 | Over the rate limit | `application/problem+json`, [Problem](#problem) | `Retry-After`: Seconds |"
    assert status in text
    assert "| `customer.email` | string or null |  | Address of the customer. At most 320 characters. |" in text
    assert "| `id` | string or integer | yes |" in text
    assert "| `errors[].pointer` | string | yes |" in text


def test_the_openapi_document_has_every_route(tmp_path: Path) -> None:
    """No route of the application is left out of it, and so of the page."""
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/outbox.db", "CXONE_WEBHOOK_SECRETS": "test=" + "s" * 32}
    app = create_app(load(WebSettings, environ))
    served = {
        (rule.rule, method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method[0] in "GP"
    }
    assert served == {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}


def test_headers_and_fields_of_records_are_described() -> None:
    """docs/kafka.md has each header, and each field of the schema."""
    record = json.loads((SCHEMAS / "interaction.avsc").read_text())
    assert first_cells("kafka.md", "Value") == [field["name"] for field in record["fields"]]
    text = (DOCS / "kafka.md").read_text()
    assert re.findall(r"^\| `([\w-]+-[\w]+|traceparent)` \|", text, re.MULTILINE) == [
        OUTBOX_ID,
        RECEIVED_AT,
        TRACEPARENT,
        REPLAY_OF,
    ]
