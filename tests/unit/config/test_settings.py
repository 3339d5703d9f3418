"""Settings: what is taken, what is refused, and that no secret is shown."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from app.settings import WebSettings
from config.settings import (
    KNOWN_NAMES,
    SECRET_NAMES,
    BaseSettings,
    PositiveInt,
    SettingsError,
    load,
    unknown_names,
)
from migrations.settings import ReleaseSettings
from relay.settings import RelaySettings


class Sample(BaseSettings):
    """Settings of an imagined process."""

    relay_batch_size: PositiveInt = 5
    kafka_topic: str = Field(description="a topic's name")
    inference_token: SecretStr | None = None
    inference_url: str | None = Field(default=None, pattern="^https?://")


GOOD = {"KAFKA_TOPIC": "t"}


def refusal(environ: dict[str, str]) -> list[str]:
    """The lines that stop the start."""
    with pytest.raises(SettingsError) as caught:
        load(Sample, {**GOOD, **environ})
    return str(caught.value).splitlines()


def database(url: str, **environ: str) -> str:
    """The database as the process will use it."""
    return load(Sample, {**GOOD, "DATABASE_URL": url, **environ}).database_url.get_secret_value()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_postgresql_scheme_means_psycopg_and_keeps_its_parameters(scheme: str) -> None:
    """Platforms write either scheme; TLS parameters and passwords with odd characters stay."""
    rest = "u:p%40ss@db.example:5433/name?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem"
    assert database(f"{scheme}://{rest}") == f"postgresql+psycopg://{rest}"


def test_sqlite_is_the_default_and_refused_on_dynos() -> None:
    """Dynos share no disk: a file there would be a database for one process alone."""
    assert database("") == "sqlite:///outbox.db"
    (line,) = refusal({"DYNO": "web.1"})
    assert "DATABASE_URL" in line
    assert database("postgres://u@h/d", DYNO="web.1").startswith("postgresql+psycopg")


@pytest.mark.parametrize(
    "url", ["mysql://u:canary@h/d", "postgres://host:canary", "canary", "postgres://u:canary@h:port/d", "://canary"]
)
def test_a_wrong_database_url_is_never_shown(url: str) -> None:
    """It may hold a password, also where it cannot be parsed."""
    (line,) = refusal({"DATABASE_URL": url})
    assert line.startswith("DATABASE_URL=***: takes ")
    assert "canary" not in line


def test_each_wrong_variable_has_a_line_of_its_own() -> None:
    """Name, what it got and what it takes; all of them at once."""
    lines = refusal({"RELAY_BATCH_SIZE": "many", "KAFKA_TOPIC": "", "LOG_LEVEL": "loud", "DATABASE_URL": "x"})
    assert len(lines) == 4
    assert any(line.startswith("RELAY_BATCH_SIZE='many': ") and "integer" in line for line in lines)
    assert "KAFKA_TOPIC is not set: takes a topic's name" in lines
    assert any(line.startswith("LOG_LEVEL='loud': ") and "WARNING" in line for line in lines)


def test_the_login_in_a_wrong_url_is_masked() -> None:
    """A URL is no secret, the login in it is."""
    (line,) = refusal({"INFERENCE_URL": "ftp://me:canary@host/path"})
    assert "ftp://***@host/path" in line
    assert "canary" not in line


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    """NAME_FILE works for every secret, its line end is not part of it, and the value prints masked."""
    file = tmp_path / "token"
    file.write_bytes(b"canary\r\n")
    settings = load(Sample, {**GOOD, "INFERENCE_TOKEN_FILE": str(file)})
    assert settings.inference_token is not None
    assert settings.inference_token.get_secret_value() == "canary"
    assert "canary" not in repr(settings)
    file.write_text("postgres://u:p@h/d\n")
    assert database("", DATABASE_URL_FILE=str(file)) == "postgresql+psycopg://u:p@h/d"


def test_a_file_that_gives_no_secret_stops_the_start(tmp_path: Path) -> None:
    """Both variables, no such file, an empty one, one that is no text: each is told by name."""
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff")
    for path, told in ((tmp_path / "none", "cannot be read"), (empty, "is empty"), (binary, "cannot be read")):
        (line,) = refusal({"INFERENCE_TOKEN_FILE": str(path)})
        assert line.startswith(f"INFERENCE_TOKEN_FILE={path} {told}")
    (line,) = refusal({"INFERENCE_TOKEN": "canary", "INFERENCE_TOKEN_FILE": str(empty)})
    assert line == "INFERENCE_TOKEN and INFERENCE_TOKEN_FILE are both set: takes one of them"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("RELAY_METRIC_PORT", "RELAY_METRICS_PORT"),
        ("WEBHOOK_MAX_BYTE", "WEBHOOK_MAX_BYTES"),
        ("KAFKA_TOPIC_FILE", "KAFKA_TOPIC"),
        ("CXONE_WEBHOOK_SECRETS_FILES", "CXONE_WEBHOOK_SECRETS"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_known_one(name: str, nearest: str) -> None:
    """A typing error would otherwise be a default in silence; a file is for secrets only."""
    (warning,) = unknown_names({name: "1"})
    assert warning == f"{name} is set, but is no setting of this product: the nearest is {nearest}"


def test_known_and_injected_names_are_no_typing_errors() -> None:
    """Settings of the other process, and what platforms put beside ours, bring no warning."""
    ours = dict.fromkeys([*KNOWN_NAMES, *(f"{name}_FILE" for name in SECRET_NAMES)], "1")
    injected = {
        "KAFKA_URL": "kafka+ssl://h",
        "KAFKA_PORT": "9092",
        "KAFKA_PORT_9092_TCP": "tcp://10.0.0.1:9092",
        "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1",
        "KAFKA_TRUSTED_CERT": "x",
        "KAFKA_CLIENT_CERT_KEY": "x",
        "SCHEMA_REGISTRY_SERVICE_HOST": "10.0.0.1",
        "SCHEMA_REGISTRY_SERVICE_PORT_HTTP": "8081",
        "INFERENCE_PORT": "tcp://10.0.0.1:80",
        "HOME": "/",
    }
    assert unknown_names({**ours, **injected}) == []


@pytest.mark.parametrize("kind", [WebSettings, RelaySettings, ReleaseSettings])
def test_every_setting_of_every_process_is_known(kind: Any) -> None:
    """A new field must be entered where all processes know it, a secret also among the secrets."""
    fields = {name.upper(): field for name, field in kind.model_fields.items()}
    own = {"DYNO", "PORT", "WEB_HOST", "WEB_CONCURRENCY", "WEB_THREADS"}  # without a prefix of ours
    assert fields.keys() - own <= KNOWN_NAMES
    secret = {name for name, field in fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == fields.keys() & SECRET_NAMES
