"""A service that somebody else runs."""

import os
from dataclasses import dataclass

from testkit.services.postgres import create_database


@dataclass(frozen=True)
class Given:
    """A service that the environment provides: used, never started, stopped or killed."""

    url: str
    bootstrap_servers: str = ""
    username: str = ""
    password: str = ""

    @classmethod
    def kafka(cls) -> "Given | None":
        """The broker that the environment names, if it does."""
        servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        return cls("", servers) if servers else None

    @classmethod
    def registry(cls) -> "Given | None":
        """The Schema Registry that the environment names, if it does."""
        url = os.environ.get("SCHEMA_REGISTRY_URL")
        login = os.environ.get("SCHEMA_REGISTRY_USERNAME", ""), os.environ.get("SCHEMA_REGISTRY_PASSWORD", "")
        return cls(url, "", *login) if url else None

    @classmethod
    def postgres(cls) -> "Given | None":
        """The PostgreSQL server that the environment names, if it does."""
        url = os.environ.get("TEST_POSTGRES_URL")
        return cls(url) if url else None

    def create_database(self, name: str, template: str | None = None) -> str:
        """As ``Postgres.create_database``."""
        return create_database(self.url, name, template)
