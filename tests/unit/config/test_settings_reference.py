"""What is generated from the settings classes."""

from app.settings import WebSettings
from config.setting_names import KNOWN_NAMES, SECRET_NAMES
from relay.settings import RelaySettings
from testkit.documentation.settings import SECTIONS, tables


def test_names_and_secrets_are_those_of_the_fields() -> None:
    """Each field is a known name; those whose type is a secret can be given as a file."""
    fields = {**WebSettings.model_fields, **RelaySettings.model_fields}
    assert {name.upper() for name in fields} <= KNOWN_NAMES
    secrets = {name.upper() for name, field in fields.items() if "SecretStr" in str(field.annotation)}
    assert secrets == SECRET_NAMES & {name.upper() for name in fields}


def test_every_setting_has_a_description() -> None:
    """A setting without an attribute docstring would have an empty cell in the page."""
    fields = [item for section in SECTIONS for item in section.settings.model_fields.items()]
    described = {name for name, field in fields if field.description}
    assert [name for name, _ in fields if name not in described] == []


def test_defaults_values_and_secrets_are_shown() -> None:
    """A row shows the default as an operator writes it, the bounds of a number, and whether the value is a secret."""
    rows = {line.split("`")[1]: line for line in tables().splitlines() if line.startswith("| `")}
    assert rows["OUTBOX_RETENTION"].startswith("| `OUTBOX_RETENTION` | `7d` | age such as `7d`"), rows[
        "OUTBOX_RETENTION"
    ]
    assert rows["CXONE_ENRICH_RATE"].startswith("| `CXONE_ENRICH_RATE` | `10` | number above 0, at most 33 |")
    assert rows["INFERENCE_TOKEN"].startswith("| `INFERENCE_TOKEN` (secret) | unset | text |")
    assert rows["KAFKA_BOOTSTRAP_SERVERS"].startswith("| `KAFKA_BOOTSTRAP_SERVERS` | required |")
