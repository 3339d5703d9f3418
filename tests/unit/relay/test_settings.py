"""The relay's settings: what would break the promise is refused before anything is done."""

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
def test_what_would_break_the_promise_is_refused_by_name(name: str) -> None:
    """KAFKA_CONFIG may not change what exactly-once rests on, nor bring code; its value is not shown."""
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
    """Verification that KAFKA_CONFIG switches off is refused by name, with the cure."""
    given = {**NEEDED, "KAFKA_CONFIG": json.dumps({name: value})}
    load(RelaySettings, {**given, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092,localhost:9092,[::1]:9092"})
    with pytest.raises(SettingsError, match=rf"{name}=.* KAFKA_SSL_CA_LOCATION"):
        load(RelaySettings, {**given, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092,broker.example:9092"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With its variable, at the start; a folder of authorities is fine."""
    load(RelaySettings, {**NEEDED, "KAFKA_SSL_CA_LOCATION": str(tmp_path)})
    for name in ("KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"):
        with pytest.raises(SettingsError, match=f"{name}.*none.pem.*No such file"):
            load(RelaySettings, {**NEEDED, name: str(tmp_path / "none.pem")})


def test_no_client_makes_a_broker_create_topics() -> None:
    """A broker creates a topic that a client asks about with its own defaults, unless the client forbids it."""
    settings = load(RelaySettings, NEEDED)
    assert kafka_client_config(settings)["allow.auto.create.topics"] is False
    assert kafka_producer_config(settings)["allow.auto.create.topics"] is False


@pytest.mark.parametrize("given", ["[]", "{", "7", '{"a": {"b": 1}}', '{"a": [1]}', "null"])
def test_kafka_config_is_an_object_of_plain_values(given: str) -> None:
    """Anything but a JSON object of plain values is refused, with an example."""
    with pytest.raises(SettingsError, match="takes a JSON object"):
        load(RelaySettings, {**NEEDED, "KAFKA_CONFIG": given})


def test_further_settings_reach_every_client_and_beat_the_defaults() -> None:
    """How to reach the brokers concerns all clients; what is ours by default may be changed."""
    settings = load(RelaySettings, {**NEEDED, "KAFKA_CONFIG": '{"broker.address.family": "v4", "linger.ms": 50}'})
    assert kafka_client_config(settings)["broker.address.family"] == "v4"
    assert kafka_producer_config(settings)["linger.ms"] == 50


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"KAFKA_SASL_USERNAME": "u"}, "takes both or neither"),
        ({"KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"}, "takes SASL_SSL"),
        ({"KAFKA_TOPIC": "same", "KAFKA_PROGRESS_TOPIC": "same"}, "takes another topic"),
        ({"INFERENCE_URL": "http://user:canary@host/score"}, "INFERENCE_TOKEN"),
        ({"INFERENCE_URL": "http://:canary@host/score"}, "INFERENCE_TOKEN"),
        ({"INFERENCE_URL": "ftp://host/score"}, "INFERENCE_URL"),
        ({"INFERENCE_URL": "http:///score"}, "takes a URL with a host"),
        ({"INFERENCE_URL": "http://host:99999/score"}, "Port out of range"),
        ({"INFERENCE_URL": "http://me:can/ary@host/score"}, "INFERENCE_URL='http://***@host/score'"),
        ({"INFERENCE_URL": "http://me:can#ary@host/score"}, "INFERENCE_URL='http://***@host/score'"),
        ({"SCHEMA_REGISTRY_URL": "http://key:canary@host"}, "SCHEMA_REGISTRY_USERNAME"),
        ({"SCHEMA_REGISTRY_URL": "localhost:8081"}, "takes a URL with a host"),
        ({"SCHEMA_REGISTRY_URL": "http://"}, "takes a URL with a host"),
        ({"CXONE_OAUTH_URL": "https://host:port/token"}, "takes a URL with a host"),
        ({"INFERENCE_TOKEN": "canary of two lines\n"}, "INFERENCE_TOKEN"),
        ({"INFERENCE_TOKEN": "canary-ü"}, "INFERENCE_TOKEN"),
    ],
)
def test_settings_that_contradict_each_other_are_named(given: dict[str, str], told: str) -> None:
    """One line says which variables do not fit, and what they take; logins are masked."""
    with pytest.raises(SettingsError) as refused:
        load(RelaySettings, {**NEEDED, **given})
    assert told in str(refused.value)
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
    """Spaces after commas, which people write, are not part of a name."""
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
def test_what_names_no_broker_is_refused(given: str) -> None:
    """One line, with the form that works."""
    with pytest.raises(SettingsError, match=r"\AKAFKA_BOOTSTRAP_SERVERS=.*takes host:port,host:port") as refused:
        load(RelaySettings, {**NEEDED, "KAFKA_BOOTSTRAP_SERVERS": given})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("name", ["KAFKA_TOPIC", "KAFKA_PROGRESS_TOPIC"])
@pytest.mark.parametrize("given", ["two words", "..", "x" * 250, "a/b"])
def test_a_topic_has_a_name_that_kafka_takes(name: str, given: str) -> None:
    """Each by itself, before anything is asked of a broker."""
    with pytest.raises(SettingsError, match=rf"\A{name}=.*takes a topic's name"):
        load(RelaySettings, {**NEEDED, name: given})


@pytest.mark.parametrize(
    ("given", "host"), [("::", "::"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0"), ("localhost", "localhost")]
)
def test_metrics_are_served_on_an_address(given: str, host: str) -> None:
    """Of either kind; on this machine alone unless set."""
    assert load(RelaySettings, {**NEEDED, "RELAY_METRICS_HOST": given}).relay_metrics_host == host
    assert load(RelaySettings, NEEDED).relay_metrics_host == "127.0.0.1"


def test_the_token_of_the_metrics_holds_for_the_relay_too() -> None:
    """The same variable as the web process's."""
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
def test_a_host_is_allowed_whatever_its_port_and_case(url: str, allowed: str | None) -> None:
    """INFERENCE_ALLOWED_HOSTS holds names or addresses, nothing else."""
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
def test_nothing_but_an_allowed_host_is_let_through(url: str) -> None:
    """However the URL tries to look like one, and by whatever way it is refused."""
    with pytest.raises((SettingsError, MisconfiguredError)):
        require_allowed_host(
            load(RelaySettings, {**NEEDED, "INFERENCE_URL": url}).inference_url or "", "scoring.example,127.0.0.1"
        )


def test_a_list_of_nothing_allows_nobody() -> None:
    """As a list that somebody emptied by half."""
    with pytest.raises(MisconfiguredError):
        require_allowed_host("http://scoring.example/", " , ")
