"""Settings: what is taken, what is refused, and that no secret is shown."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr
from sqlalchemy import make_url

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
    "url",
    [
        "mysql://u:canary@h/d",
        "postgres://host:canary",
        "canary",
        "postgres://u:canary@h:port/d",
        "://canary",
        "postgres://u:p@h:0/d",
        "postgres://u:p@h:65536/canary",
        "sqlite://canary.db",
    ],
)
def test_a_wrong_database_url_is_never_shown(url: str) -> None:
    """It may hold a password, also where it cannot be parsed."""
    (line,) = refusal({"DATABASE_URL": url})
    assert line.startswith("DATABASE_URL=***: takes ")
    assert "canary" not in line


@pytest.mark.parametrize("character", ["@", "#", "%", "/", "?", "%x", "@h/", "/?", "#@"])
def test_a_password_that_is_not_encoded_is_refused_with_the_cure(character: str) -> None:
    """Taken apart at the wrong place, pieces of it would be a host or a database, which errors quote."""
    (line,) = refusal({"DATABASE_URL": f"postgres://u:can{character}ary@h:5432/d?sslmode=require"})
    assert line.startswith("DATABASE_URL=***: takes ")
    assert "@ is written %40, # %23, % %25, / %2F" in line
    assert not re.search("can|ary", line)


def test_an_encoded_password_and_a_socket_are_taken() -> None:
    """What is encoded arrives as it was."""
    used = make_url(database("postgres://u:a%40b%23c%25d%2Fe%3F@h/d"))
    assert (used.password, used.host) == ("a@b#c%d/e?", "h")
    assert make_url(database("postgres://u@/d?host=/run/postgresql")).query["host"] == "/run/postgresql"


@pytest.mark.parametrize(
    ("hosts", "names", "ports"),
    [
        ("h1:5432,h2:5433", "h1,h2", "5432,5433"),
        ("h1,h2:5433", "h1,h2", ",5433"),
        ("[::1]:5432,h2", "::1,h2", "5432,"),
    ],
)
def test_several_servers_are_named_as_libpq_names_them(hosts: str, names: str, ports: str) -> None:
    """The driver gets them as libpq wants them, and survives a promotion."""
    url = make_url(database(f"postgres://u:p%40@{hosts}/d?target_session_attrs=read-write"))
    _, given = url.get_dialect()().create_connect_args(url)
    assert (given["host"], given["port"]) == (names, ports)
    assert (given["password"], given["dbname"], given["target_session_attrs"]) == ("p@", "d", "read-write")


@pytest.mark.parametrize("hosts", ["h1:5432,", "h1:x,h2", "h1:0,h2", "h1:65536,h2", ",h2", "h 1,h2"])
def test_servers_that_cannot_be_are_refused_with_the_form_that_works(hosts: str) -> None:
    """One line, and nothing of the URL in it."""
    (line,) = refusal({"DATABASE_URL": f"postgres://u:canary@{hosts}/d"})
    assert line.startswith("DATABASE_URL=***: takes ")
    assert "host1:5432,host2:5432" in line
    assert "canary" not in line


@pytest.mark.parametrize("around", ['"{}"', "'{}'", "{}\u200b", "\u00a0{}", "{}\x00", "{}\x1b[0m", "{}\nx", "{}\udcff"])
@pytest.mark.parametrize("name", ["INFERENCE_TOKEN", "KAFKA_TOPIC", "DATABASE_URL", "LOG_LEVEL"])
def test_what_an_env_file_left_around_a_value_is_named(name: str, around: str) -> None:
    """Quotes would be part of the value, and what cannot be seen could not be found: every setting alike."""
    (line,) = refusal({name: around.format("canary")})
    assert line.startswith(f"{name}=")
    assert line.endswith(("remove it", "remove them"))
    if name in SECRET_NAMES:
        assert "canary" not in line


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "\t{}\n\n", "\ufeff{}"])
@pytest.mark.parametrize("given_as", ["value", "file"])
def test_white_space_and_a_byte_order_mark_around_a_value_are_no_part_of_it(
    around: str, given_as: str, tmp_path: Path
) -> None:
    """Mounted secrets end with a line break; files of Windows begin with a mark and end with two characters."""
    file = tmp_path / "token"
    file.write_bytes(around.format("canary").encode())
    token = {"INFERENCE_TOKEN_FILE": str(file)} if given_as == "file" else {"INFERENCE_TOKEN": around.format("canary")}
    settings = load(Sample, {"KAFKA_TOPIC": around.format("t"), **token})
    assert settings.inference_token is not None
    assert (settings.inference_token.get_secret_value(), settings.kafka_topic) == ("canary", "t")


def test_nothing_but_white_space_is_no_value() -> None:
    """An empty token would let everybody in, so it does not count as one that is not set."""
    (line,) = refusal({"INFERENCE_TOKEN": " \n"})
    assert line == "INFERENCE_TOKEN=***: holds nothing but white space: set a value, or unset it"


def test_each_wrong_variable_has_a_line_of_its_own() -> None:
    """Name, what it got and what it takes; all of them at once."""
    lines = refusal({"RELAY_BATCH_SIZE": "many", "KAFKA_TOPIC": "", "LOG_LEVEL": "loud", "DATABASE_URL": "x"})
    assert len(lines) == 4
    assert any(line.startswith("RELAY_BATCH_SIZE='many': ") and "integer" in line for line in lines)
    assert "KAFKA_TOPIC is not set: takes a topic's name" in lines
    assert any(line.startswith("LOG_LEVEL='loud': ") and "WARNING" in line for line in lines)


def test_the_query_of_a_wrong_url_is_masked() -> None:
    """Gateways take keys in it."""
    (line,) = refusal({"INFERENCE_URL": "ftp://host/score?code=canary&x=1"})
    assert line.startswith("INFERENCE_URL='ftp://host/score?***'"), line
    assert "canary" not in line


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
    file.write_bytes(b'"canary"\n')
    (line,) = refusal({"INFERENCE_TOKEN_FILE": str(file)})
    assert line.startswith(f"INFERENCE_TOKEN_FILE={file}: is surrounded by quotes")
    file.write_text("postgres://u:p@h/d\n")
    assert database("", DATABASE_URL_FILE=str(file)) == "postgresql+psycopg://u:p@h/d"


def test_a_file_that_gives_no_secret_stops_the_start(tmp_path: Path) -> None:
    """Both variables, no such file, an empty one, one that is no text: each is told by name."""
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff")
    (line,) = refusal({"INFERENCE_TOKEN_FILE": f'"{empty}"'})
    assert "is surrounded by quotes" in line
    utf16 = tmp_path / "utf16"  # as PowerShell writes
    utf16.write_bytes("canary".encode("utf-16"))
    (line,) = refusal({"INFERENCE_TOKEN_FILE": str(utf16)})
    assert "takes a text file in UTF-8" in line
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
        ("WEB_KEEPALIVE_SECOND", "WEB_KEEPALIVE_SECONDS"),
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
        "WEB_PORT": "tcp://10.0.0.1:8000",
        "WEB_MEMORY": "512",
        "HOME": "/",
    }
    assert unknown_names({**ours, **injected}) == []


@pytest.mark.parametrize("kind", [WebSettings, RelaySettings, ReleaseSettings])
def test_every_setting_of_every_process_is_known(kind: Any) -> None:
    """A new field must be entered where all processes know it, a secret also among the secrets."""
    fields = {name.upper(): field for name, field in kind.model_fields.items()}
    own = {"DYNO", "PORT"}  # names of the platforms
    assert fields.keys() - own <= KNOWN_NAMES
    secret = {name for name, field in fields.items() if "SecretStr" in str(field.annotation)}
    assert secret == fields.keys() & SECRET_NAMES
