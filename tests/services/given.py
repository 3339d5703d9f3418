"""A service that somebody else runs."""

from dataclasses import dataclass

from tests.services.postgres import create_database


@dataclass(frozen=True)
class Given:
    """A service that the environment provides: used, never started, stopped or killed."""

    url: str
    bootstrap_servers: str = ""
    username: str = ""
    password: str = ""

    def create_database(self, name: str, template: str | None = None) -> str:
        """As ``Postgres.create_database``."""
        return create_database(self.url, name, template)
