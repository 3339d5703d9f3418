"""The relay's settings: which values are refused at start."""

import json
from pathlib import Path

import pytest

from config.settings import SettingsError, load
from relay.errors import MisconfiguredError
from relay.inference.policy import require_allowed_host
from relay.settings import RelaySettings, kafka_client_config, kafka_producer_config

NEEDED = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092", "SCHEMA_REGISTRY_URL": "http://localhost:8081"}


@pytest.mark.parametrize(
    "name",
    [
        "acks",
        "enable.idempotence",
        "transactional.id",
        "partitioner",
        "group.id",
        "isolation.level",
        "test.mock.num.brokers",
        "plugin.library.paths",
        "error_cb",
        "on_delivery",
        "logger",
        "allow.auto.create.topics",
        "sasl.kerberos.kinit.cmd",
        "sasl.kerberos.principal",
        "offset.store.path",
        "ssl.engine.location",
    ],
)
def test_librdkafka_settings_that_would_break_delivery_are_refused(name: str) -> None:
    """KAFKA_CONFIG must not override what exactly-once delivery requires, nor load code. Its value is not shown."""
    given = json.dumps({name: "canary", "linger.ms": 1})
    with pytest.raises(SettingsError) as refused:
        load(RelaySettings, {**NEEDED, "KAFKA_CONFIG": given})
    assert name in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.ssl.certificate.verification", False),
        ("enable.ssl.certificate.verification", "false"),
        ("enable.ssl.certificate.verification", 0),
        ("ssl.endpoint.identification.algorithm", "none"),
        ("ssl.endpoint.identification.algorithm", "NONE"),
    ],
)
def test_brokers_are_verified_unless_they_are_on_this_machine(name: str, value: object) -> None:
    """KAFKA_CONFIG may disable verification for brokers on loopback only; the message names the remedy."""
    given = {**NEEDED, "KAFKA_CONFIG": json.dumps({name: value})}
    load(RelaySettings, {**given, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092,localhost:9092,[::1]:9092"})
    with pytest.raises(SettingsError, match=rf"{name}=.* KAFKA_SSL_CA_LOCATION"):
        load(RelaySettings, {**given, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092,broker.example:9092"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The message names the setting, the path and the reason; a directory of certificates is accepted."""
    load(RelaySettings, {**NEEDED, "KAFKA_SSL_CA_LOCATION": str(tmp_path)})
    for name in ("KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"):
        with pytest.raises(SettingsError, match=f"{name}.*none.pem.*No such file"):
            load(RelaySettings, {**NEEDED, name: str(tmp_path / "none.pem")})


def test_no_client_makes_a_broker_create_topics() -> None:
    """A broker creates a topic that a client asks about, with default settings, unless the client forbids it."""
    settings = load(RelaySettings, NEEDED)
    assert kafka_client_config(settings)["allow.auto.create.topics"] is False
    assert kafka_producer_config(settings)["allow.auto.create.topics"] is False


@pytest.mark.parametrize("given", ["[]", "{", "7", '{"a": {"b": 1}}', '{"a": [1]}', "null"])
def test_kafka_config_is_an_object_of_plain_values(given: str) -> None:
    """Anything but a JSON object of plain values is refused; the message shows an example."""
    with pytest.raises(SettingsError, match="expected a JSON object"):
        load(RelaySettings, {**NEEDED, "KAFKA_CONFIG": given})


def test_kafka_config_reaches_every_client_and_overrides_the_defaults() -> None:
    """Each client's configuration contains the given settings."""
    settings = load(RelaySettings, {**NEEDED, "KAFKA_CONFIG": '{"broker.address.family": "v4", "linger.ms": 50}'})
    assert kafka_client_config(settings)["broker.address.family"] == "v4"
    assert kafka_producer_config(settings)["linger.ms"] == 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"KAFKA_SASL_USERNAME": "u"}, "expected both or neither"),
        ({"KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"}, "expected SASL_SSL"),
        ({"KAFKA_TOPIC": "same", "KAFKA_PROGRESS_TOPIC": "same"}, "must differ from KAFKA_TOPIC"),
        ({"INFERENCE_URL": "http://user:canary@host/score"}, "INFERENCE_TOKEN"),
        ({"INFERENCE_URL": "http://:canary@host/score"}, "INFERENCE_TOKEN"),
        ({"INFERENCE_URL": "ftp://host/score"}, "INFERENCE_URL"),
        ({"INFERENCE_URL": "http:///score"}, "URL with a host"),
        ({"INFERENCE_URL": "http://host:99999/score"}, "port out of range"),
        ({"INFERENCE_URL": "http://me:can/ary@host/score"}, "INFERENCE_URL='http://***@host/score'"),
        ({"INFERENCE_URL": "http://me:can#ary@host/score"}, "INFERENCE_URL='http://***@host/score'"),
        ({"SCHEMA_REGISTRY_URL": "http://key:canary@host"}, "SCHEMA_REGISTRY_USERNAME"),
        ({"SCHEMA_REGISTRY_URL": "localhost:8081"}, "URL with a host"),
        ({"SCHEMA_REGISTRY_URL": "http://"}, "URL with a host"),
        ({"CXONE_OAUTH_URL": "https://host:port/token"}, "URL with a host"),
        ({"INFERENCE_TOKEN": "canary of two lines\n"}, "INFERENCE_TOKEN"),
        ({"INFERENCE_TOKEN": "canary-ü"}, "INFERENCE_TOKEN"),
    ],
)
def test_settings_that_contradict_each_other_are_named(given: dict[str, str], message: str) -> None:
    """The message names the settings and what is expected; logins are masked."""
    with pytest.raises(SettingsError) as refused:
        load(RelaySettings, {**NEEDED, **given})
    assert message in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("a:9092,b:9092", "a:9092,b:9092"),
        (" a:9092, b:9092 ,", "a:9092,b:9092"),
        ("[::1]:9092", "[::1]:9092"),
        ("a.example", "a.example"),
    ],
)
def test_brokers_are_named_by_host_and_port(given: str, used: str) -> None:
    """Spaces and empty parts are dropped."""
    assert load(RelaySettings, {**NEEDED, "KAFKA_BOOTSTRAP_SERVERS": given}).kafka_bootstrap_servers == used


@pytest.mark.parametrize(
    "given",
    [
        "SASL_SSL://a:9092",
        "https://a:9092",
        "me:canary@a:9092",
        "a:0",
        "a:65536",
        "a:nine",
        "a:",
        "::1:9092",
        "[::g]:9092",
        "a b:9092",
        ",",
        "a:9092/topic",
    ],
)
def test_invalid_bootstrap_servers_are_refused(given: str) -> None:
    """The message shows the expected format, and no login."""
    with pytest.raises(SettingsError, match=r"\AKAFKA_BOOTSTRAP_SERVERS=.*expected host:port,host:port") as refused:
        load(RelaySettings, {**NEEDED, "KAFKA_BOOTSTRAP_SERVERS": given})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC"])
@pytest.mark.parametrize("given", ["two words", "..", "x" * 250, "a/b"])
def test_invalid_topic_names_are_refused(name: str, given: str) -> None:
    """A name that Kafka does not allow is refused before any broker is contacted."""
    with pytest.raises(SettingsError, match=rf"\A{name}=.*expected a topic name"):
        load(RelaySettings, {**NEEDED, name: given})


@pytest.mark.parametrize(
    ("given", "host"), [("::", "::"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0"), ("localhost", "localhost")]
)
def test_metrics_are_served_on_ipv4_or_ipv6(given: str, host: str) -> None:
    """The default is this machine only."""
    assert load(RelaySettings, {**NEEDED, "RELAY_METRICS_HOST": given}).relay_metrics_host == host
    assert load(RelaySettings, NEEDED).relay_metrics_host == "127.0.0.1"


def test_the_relay_reads_the_metrics_token() -> None:
    """It is the same setting as the web process's."""
    token = load(RelaySettings, {**NEEDED, "METRICS_TOKEN": "canary\n"}).metrics_token
    assert token is not None
    assert token.get_secret_value() == "canary"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://SCORING.example:8443/x", "other, Scoring.Example"),
        ("http://[::1]:80/x", "::1"),
        ("http://anywhere/x", None),
    ],
)
def test_a_host_is_allowed_with_any_port_and_case(url: str, allowed: str | None) -> None:
    """INFERENCE_ALLOWED_HOSTS contains host names or addresses without a port."""
    require_allowed_host(load(RelaySettings, {**NEEDED, "INFERENCE_URL": url}).inference_url or "", allowed)


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere/",
        "http://scoring.example@elsewhere/",
        "http://elsewhere\\@scoring.example/",
        "http://elsewhere#@scoring.example/",
        "http://elsewhere/?@scoring.example",
        "http://elsewhere\\.scoring.example/",
        "http://scoring.example.elsewhere/",
        "http://scoring.example./",
        "http://[::ffff:127.0.0.1]/",
        "file://scoring.example/etc/passwd",
    ],
)
def test_a_host_that_is_not_allowed_is_refused(url: str) -> None:
    """No spelling of a URL passes for an allowed host."""
    with pytest.raises((SettingsError, MisconfiguredError)):
        require_allowed_host(
            load(RelaySettings, {**NEEDED, "INFERENCE_URL": url}).inference_url or "", "scoring.example,127.0.0.1"
        )


def test_an_empty_list_of_hosts_allows_none() -> None:
    """A list that contains only a comma does not fall back to the default."""
    with pytest.raises(MisconfiguredError):
        require_allowed_host("http://scoring.example/", " , ")
