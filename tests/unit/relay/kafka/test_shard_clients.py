"""The clients of a shard are created with the login as it is then."""

from pathlib import Path

from config.settings import load
from relay.kafka.shard_clients import ShardClients
from relay.settings import RelaySettings


def test_a_changed_password_is_used_by_the_next_client(tmp_path: Path) -> None:
    """The file is read again for each client, so no restart is needed."""
    file = tmp_path / "password"
    file.write_text("first")
    settings = load(
        RelaySettings,
        {
            "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": "relay",
            "KAFKA_SASL_PASSWORD_FILE": str(file),
            "SCHEMA_REGISTRY_URL": "http://localhost:8081",
        },
    )
    clients = ShardClients.from_settings(settings, "outbox")
    assert clients.client_config()["sasl.password"] == "first"
    file.write_text("second")
    assert clients.client_config()["sasl.password"] == "second"
    assert clients.producer_config()["sasl.password"] == "second"
