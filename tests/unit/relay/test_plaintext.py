"""Credentials over unencrypted connections are refused at start, unless a setting allows them."""

import json

import pytest

from config.settings import SettingsError, load
from relay.check.finding import Status
from relay.check.transport import check_http_transport
from relay.settings import RelaySettings

NEEDED = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092", "SCHEMA_REGISTRY_URL": "https://registry.example"}
OAUTH = {
    "CXONE_ENRICH_URL": "https://api.example/contacts/{interactionId}",
    "CXONE_OAUTH_URL": "https://cxone.example/token",
    "CXONE_CLIENT_ID": "id",
    "CXONE_CLIENT_SECRET": "canary",
}
SASL = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_USERNAME": "user",
    "KAFKA_SASL_PASSWORD": "canary",
}
REGISTRY = {"SCHEMA_REGISTRY_USERNAME": "user", "SCHEMA_REGISTRY_PASSWORD": "canary"}
PLAIN = [
    ("INFERENCE_URL", {"INFERENCE_URL": "http://scoring.example/score", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://localhost.example/", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://127.0.0.1.example/", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://2130706433/", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://0.0.0.0/", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://[::ffff:10.0.0.1]/", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://scoring.example#@127.0.0.1/", "INFERENCE_TOKEN": "canary"}),
    ("INFERENCE_URL", {"INFERENCE_URL": "http://scoring.example\\@127.0.0.1/", "INFERENCE_TOKEN": "canary"}),
    ("CXONE_OAUTH_URL", {**OAUTH, "CXONE_OAUTH_URL": "http://cxone.example/token"}),
    ("CXONE_ENRICH_URL", {**OAUTH, "CXONE_ENRICH_URL": "http://api.example/{interactionId}"}),
    ("SCHEMA_REGISTRY_URL", {**REGISTRY, "SCHEMA_REGISTRY_URL": "http://registry.example"}),
    ("KAFKA_SECURITY_PROTOCOL", {**SASL, "KAFKA_BOOTSTRAP_SERVERS": "broker.example:9092"}),
    ("KAFKA_SECURITY_PROTOCOL", {**SASL, "KAFKA_BOOTSTRAP_SERVERS": "broker.example"}),
    ("KAFKA_SECURITY_PROTOCOL", {**SASL, "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092,[2001:db8::1]:9092"}),
    (
        "KAFKA_CONFIG",
        {"KAFKA_CONFIG": json.dumps({"sasl.oauthbearer.token.endpoint.url": "http://sso.example/canary"})},
    ),
]


@pytest.mark.parametrize(("name", "given"), PLAIN)
def test_credentials_sent_unencrypted_are_refused(name: str, given: dict[str, str]) -> None:
    """One line names the setting and what is expected; no spelling of a host passes for this machine."""
    with pytest.raises(SettingsError) as refused:
        load(RelaySettings, {**NEEDED, **given})
    (line,) = str(refused.value).splitlines()
    assert line.startswith(name)
    assert "expected" in line
    assert "canary" not in line


def test_each_registry_of_several_is_checked() -> None:
    """A registry on another machine counts, even beside one on this machine."""
    urls = ["http://localhost:8081", "http://registry.example:8081"]
    settings = RelaySettings(
        kafka_bootstrap_servers="localhost:9092",
        schema_registry_url="https://registry.example",
        schema_registry_username="user",
    ).model_copy(update={"schema_registry_url": ",".join(urls)})
    ((problem, _),) = settings.plaintext_credentials()
    assert "registry.example" in problem


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_services_on_this_machine_need_no_encryption(host: str) -> None:
    """A sidecar or a tunnel: the credentials do not leave the machine."""
    given = {
        **OAUTH,
        **SASL,
        **REGISTRY,
        "CXONE_OAUTH_URL": f"http://{host}:8080/token",
        "CXONE_ENRICH_URL": f"http://{host}:8080/{{interactionId}}",
        "INFERENCE_URL": f"http://{host}/score?of=a,b",
        "INFERENCE_TOKEN": "t",
        "SCHEMA_REGISTRY_URL": f"http://{host}:8081",
        "KAFKA_BOOTSTRAP_SERVERS": f"{host}:9092,{host}:9093",
    }
    settings = load(RelaySettings, {**NEEDED, **given})
    assert [finding.status for finding in check_http_transport(settings)] == [Status.OK]


def test_plain_http_without_credentials_brings_a_warning() -> None:
    """It is not refused: a registry inside a cluster often has neither login nor TLS."""
    plain = {"SCHEMA_REGISTRY_URL": "http://registry:8081", "INFERENCE_URL": "http://scoring/score"}
    findings = check_http_transport(load(RelaySettings, {**NEEDED, **plain}))
    assert [(f.status, f.detail.split(":")[0]) for f in findings] == [
        (Status.WARNING, "SCHEMA_REGISTRY_URL"),
        (Status.WARNING, "INFERENCE_URL"),
    ]


@pytest.mark.parametrize(("name", "given"), [case for case in PLAIN if "@" not in str(case)])
def test_allowed_plaintext_credentials_bring_a_warning(name: str, given: dict[str, str]) -> None:
    """With ALLOW_PLAINTEXT_CREDENTIALS=true relay check warns, without showing the secret."""
    settings = load(RelaySettings, {**NEEDED, **given, "ALLOW_PLAINTEXT_CREDENTIALS": "true"})
    first, *_ = check_http_transport(settings)
    assert (first.status, first.subject) == (Status.WARNING, "unencrypted login")
    assert first.detail.startswith(name)
    assert "canary" not in str(first)


def test_encrypted_credentials_are_accepted() -> None:
    """TLS to every service on another machine."""
    given = {
        **OAUTH,
        **REGISTRY,
        **SASL,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_BOOTSTRAP_SERVERS": "broker.example:9092",
        "INFERENCE_URL": "https://scoring.example/",
        "INFERENCE_TOKEN": "t",
    }
    assert load(RelaySettings, {**NEEDED, **given}).plaintext_credentials() == []


@pytest.mark.parametrize("content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_without_certificates_stops_the_start(
    content: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file in HTTP_CA_LOCATION that is missing or contains no certificate is refused before any call."""
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"HTTP_CA_LOCATION=.*expected a file of PEM certificates"):
        load(RelaySettings, {**NEEDED, "HTTP_CA_LOCATION": str(file)})


@pytest.mark.parametrize(
    "url",
    [
        "https://{interactionId}.example/{interactionId}",
        "https://{interactionId}/{interactionId}",
        "https://api.example/?id={interactionId}",
        "https://api.example/{interactionId}?id={interactionId}",
    ],
)
def test_an_interaction_cannot_choose_the_host(url: str) -> None:
    """``{interactionId}`` is allowed exactly once, in the path: a sender influences no other part of the URL."""
    with pytest.raises(SettingsError, match="once, in its path"):
        load(RelaySettings, {**NEEDED, **OAUTH, "CXONE_ENRICH_URL": url})
