"""Settings of operators: who acts, where replays may go, and how long rows are kept."""

from pydantic import SecretStr, field_validator

from config.settings import BaseSettings
from relay.settings import DAY_SECONDS, Retention, Topics

MIN_KEY_BYTES = 16


class OperatorSettings(BaseSettings):
    """Settings of the commands that read and change rows."""

    relay_actor: str | None = None
    """Name recorded in the audit as the actor. Unset: the OS user."""
    audit_pseudonym_key: SecretStr | None = None
    """Key that turns ids and addresses in recorded filters into pseudonyms, 16 bytes or more; see
    [AUDIT_PSEUDONYM_KEY](#audit_pseudonym_key). Unset: they are not recorded."""
    kafka_replay_topics: Topics = ()
    outbox_retention: Retention = 7 * DAY_SECONDS

    @field_validator("audit_pseudonym_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < MIN_KEY_BYTES:
            raise ValueError(f"expected {MIN_KEY_BYTES} bytes or more; generate it with openssl rand -hex 32")
        return value

    @property
    def pseudonym_key(self) -> bytes | None:
        """The key as bytes."""
        return self.audit_pseudonym_key.get_secret_value().encode() if self.audit_pseudonym_key else None
