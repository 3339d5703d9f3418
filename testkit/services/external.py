"""A service that somebody else runs, named by environment variables."""

import os
from dataclasses import dataclass
from typing import Any

from testkit.services.postgres import create_database


@dataclass(frozen=True)
class ExternalService:
    """A service named by the environment: tests use it, and never start, stop or kill it."""

    url: str
    bootstrap_servers: str = ""
    username: str = ""
    password: str = ""

    @classmethod
    def kafka(cls) -> "ExternalService | None":
        """Return the broker in ``KAFKA_BOOTSTRAP_SERVERS``, or None if that is not set."""
        servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        return cls("", servers) if servers else None

    @classmethod
    def registry(cls) -> "ExternalService | None":
        """Return the Schema Registry in ``SCHEMA_REGISTRY_URL``, or None if that is not set."""
        url = os.environ.get("SCHEMA_REGISTRY_URL")
        login = os.environ.get("SCHEMA_REGISTRY_USERNAME", ""), os.environ.get("SCHEMA_REGISTRY_PASSWORD", "")
        return cls(url, "", *login) if url else None

    @classmethod
    def postgres(cls) -> "ExternalService | None":
        """Return the PostgreSQL server in ``TEST_POSTGRES_URL``, or None if that is not set."""
        url = os.environ.get("TEST_POSTGRES_URL")
        return cls(url) if url else None

    @property
    def client_config(self) -> dict[str, Any]:
        """Configuration of a Kafka client of this broker."""
        return {"bootstrap.servers": self.bootstrap_servers}

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database and return its URL; see ``testkit.services.postgres.create_database``."""
        return create_database(self.url, name, template)
