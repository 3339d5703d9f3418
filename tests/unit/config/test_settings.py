"""Settings: which values are accepted, which are refused, and that no secret is shown."""

import re
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr
from sqlalchemy import make_url

from config.setting_names import KNOWN_NAMES, SECRET_NAMES
from config.settings import (
    BaseSettings,
    PositiveInt,
    SettingsError,
    ValueFormat,
    load,
    unknown_names,
)


class Sample(BaseSettings):
    """Settings of a process that exists in these tests only."""

    relay_batch_size: PositiveInt = 5
    kafka_topic: Annotated[str, ValueFormat("a topic name")]
    inference_token: SecretStr | None = None
    inference_url: str | None = Field(default=None, pattern="^https?://")


GOOD = {"KAFKA_TOPIC": "t"}


def refusal(environ: dict[str, str]) -> list[str]:
    """The error message of settings that are refused, by line."""
    with pytest.raises(SettingsError) as caught:
        load(Sample, {**GOOD, **environ})
    return str(caught.value).splitlines()


def database(url: str, **environ: str) -> str:
    """The database URL that a process gets."""
    return load(Sample, {**GOOD, "DATABASE_URL": url, **environ}).database_url.get_secret_value()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_postgresql_scheme_means_psycopg_and_keeps_its_parameters(scheme: str) -> None:
    """Platforms write either scheme. TLS parameters and encoded passwords are kept."""
    rest = "u:p%40ss@db.example:5433/name?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem"
    assert database(f"{scheme}://{rest}") == f"postgresql+psycopg://{rest}"


def test_sqlite_is_the_default_and_refused_on_dynos() -> None:
    """Dynos share no disk: each process would have a database of its own."""
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
    """It may contain a password, even if it cannot be parsed."""
    (line,) = refusal({"DATABASE_URL": url})
    assert line.startswith("DATABASE_URL=***: expected ")
    assert "canary" not in line


@pytest.mark.parametrize("character", ["@", "#", "%", "/", "?", "%x", "@h/", "/?", "#@"])
def test_a_password_that_is_not_encoded_is_refused_with_a_remedy(character: str) -> None:
    """Parsed at the wrong place, a piece of it would be a host or database name, which errors quote."""
    (line,) = refusal({"DATABASE_URL": f"postgres://u:can{character}ary@h:5432/d?sslmode=require"})
    assert line.startswith("DATABASE_URL=***: expected ")
    assert "@ as %40, # as %23, % as %25, / as %2F" in line
    assert not re.search("can|ary", line)


def test_an_encoded_password_and_a_socket_are_accepted() -> None:
    """The driver gets the decoded password and the path of the socket."""
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
def test_several_servers_reach_the_driver_in_libpqs_format(hosts: str, names: str, ports: str) -> None:
    """Hosts and ports become comma-separated lists; the other parameters stay."""
    url = make_url(database(f"postgres://u:p%40@{hosts}/d?target_session_attrs=read-write"))
    _, given = url.get_dialect()().create_connect_args(url)
    assert (given["host"], given["port"]) == (names, ports)
    assert (given["password"], given["dbname"], given["target_session_attrs"]) == ("p@", "d", "read-write")


@pytest.mark.parametrize("hosts", ["h1:5432,", "h1:x,h2", "h1:0,h2", "h1:65536,h2", ",h2", "h 1,h2"])
def test_invalid_servers_are_refused_with_the_expected_format(hosts: str) -> None:
    """One line that quotes nothing of the URL."""
    (line,) = refusal({"DATABASE_URL": f"postgres://u:canary@{hosts}/d"})
    assert line.startswith("DATABASE_URL=***: expected ")
    assert "host1:5432,host2:5432" in line
    assert "canary" not in line


@pytest.mark.parametrize("around", ['"{}"', "'{}'", "{}\u200b", "\u00a0{}", "{}\x00", "{}\x1b[0m", "{}\nx", "{}\udcff"])
@pytest.mark.parametrize("name", ["INFERENCE_TOKEN", "KAFKA_TOPIC", "DATABASE_URL", "LOG_LEVEL"])
def test_quotes_and_invisible_characters_are_refused(name: str, around: str) -> None:
    """Every setting is checked: quotes would be part of the value, and an invisible character is hard to find."""
    (line,) = refusal({name: around.format("canary")})
    assert line.startswith(f"{name}=")
    assert line.endswith(("remove it", "remove them"))
    if name in SECRET_NAMES:
        assert "canary" not in line


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "\t{}\n\n", "\ufeff{}"])
@pytest.mark.parametrize("given_as", ["value", "file"])
def test_white_space_and_a_byte_order_mark_around_a_value_are_removed(
    around: str, given_as: str, tmp_path: Path
) -> None:
    """Mounted secrets end with a line break; files written on Windows start with a mark and end with CR LF."""
    file = tmp_path / "token"
    file.write_bytes(around.format("canary").encode())
    token = {"INFERENCE_TOKEN_FILE": str(file)} if given_as == "file" else {"INFERENCE_TOKEN": around.format("canary")}
    settings = load(Sample, {"KAFKA_TOPIC": around.format("t"), **token})
    assert settings.inference_token is not None
    assert (settings.inference_token.get_secret_value(), settings.kafka_topic) == ("canary", "t")


def test_a_blank_value_is_refused() -> None:
    """A blank token would let everybody in, so it does not count as unset."""
    (line,) = refusal({"INFERENCE_TOKEN": " \n"})
    assert line == "INFERENCE_TOKEN=***: blank value: set a value, or unset the variable"


def test_each_wrong_variable_has_a_line_of_its_own() -> None:
    """All wrong settings are reported at once: name, value, and what is expected."""
    lines = refusal({"RELAY_BATCH_SIZE": "many", "KAFKA_TOPIC": "", "LOG_LEVEL": "loud", "DATABASE_URL": "x"})
    assert len(lines) == 4
    assert any(line.startswith("RELAY_BATCH_SIZE='many': ") and "integer" in line for line in lines)
    assert "KAFKA_TOPIC is not set: expected a topic name" in lines
    assert any(line.startswith("LOG_LEVEL='loud': ") and "WARNING" in line for line in lines)


def test_the_query_of_a_wrong_url_is_masked() -> None:
    """Gateways accept API keys in it."""
    (line,) = refusal({"INFERENCE_URL": "ftp://host/score?code=canary&x=1"})
    assert line.startswith("INFERENCE_URL='ftp://host/score?***'"), line
    assert "canary" not in line


def test_the_login_in_a_wrong_url_is_masked() -> None:
    """The rest of the URL is shown."""
    (line,) = refusal({"INFERENCE_URL": "ftp://me:canary@host/path"})
    assert "ftp://***@host/path" in line
    assert "canary" not in line


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    """NAME_FILE works for every secret, without the file's last line break, and the value prints masked."""
    file = tmp_path / "token"
    file.write_bytes(b"canary\r\n")
    settings = load(Sample, {**GOOD, "INFERENCE_TOKEN_FILE": str(file)})
    assert settings.inference_token is not None
    assert settings.inference_token.get_secret_value() == "canary"
    assert "canary" not in repr(settings)
    file.write_bytes(b'"canary"\n')
    (line,) = refusal({"INFERENCE_TOKEN_FILE": str(file)})
    assert line.startswith(f"INFERENCE_TOKEN_FILE={file}: quotes around the value")
    file.write_text("postgres://u:p@h/d\n")
    assert database("", DATABASE_URL_FILE=str(file)) == "postgresql+psycopg://u:p@h/d"


def test_a_secret_can_be_read_again_from_its_file(tmp_path: Path) -> None:
    """A changed file gives the new value; one that is missing, empty or half written gives that of the start."""
    file = tmp_path / "token"
    file.write_text("first")
    settings = load(Sample, {**GOOD, "INFERENCE_TOKEN_FILE": str(file)})
    file.write_text("second\n")
    assert settings.current_secret("inference_token") == "second"
    file.write_text("")
    assert settings.current_secret("inference_token") == "first"
    file.unlink()
    assert settings.current_secret("inference_token") == "first"
    assert load(Sample, {**GOOD, "INFERENCE_TOKEN": "canary"}).current_secret("inference_token") == "canary"


def test_a_file_that_gives_no_secret_stops_the_start(tmp_path: Path) -> None:
    """Both variables, a missing file, an empty one, one that is not text: the message names the variable."""
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff")
    (line,) = refusal({"INFERENCE_TOKEN_FILE": f'"{empty}"'})
    assert "quotes around the value" in line
    utf16 = tmp_path / "utf16"  # as PowerShell writes
    utf16.write_bytes("canary".encode("utf-16"))
    (line,) = refusal({"INFERENCE_TOKEN_FILE": str(utf16)})
    assert "expected a text file in UTF-8" in line
    for path, problem in ((tmp_path / "none", "cannot be read"), (empty, "is empty"), (binary, "cannot be read")):
        (line,) = refusal({"INFERENCE_TOKEN_FILE": str(path)})
        assert line.startswith(f"INFERENCE_TOKEN_FILE={path} {problem}")
    (line,) = refusal({"INFERENCE_TOKEN": "canary", "INFERENCE_TOKEN_FILE": str(empty)})
    assert line == "INFERENCE_TOKEN and INFERENCE_TOKEN_FILE are both set: expected one of them"


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
def test_an_unknown_name_is_reported_with_the_nearest_known_one(name: str, nearest: str) -> None:
    """A misspelt setting would silently keep its default. Only secrets can be given as a file."""
    (warning,) = unknown_names({name: "1"})
    assert warning == f"unknown setting {name}; did you mean {nearest}?"


def test_known_and_injected_names_bring_no_warning() -> None:
    """Settings of another process, and variables that platforms inject, are not reported."""
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
