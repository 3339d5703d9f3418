"""What the web process reads from the environment."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from app.authentication import parse_secrets
from config.settings import BaseSettings, HostToBind, Port, PositiveInt
from config.values import address


class WebSettings(BaseSettings):
    """Settings of the web process."""

    cxone_webhook_secrets: SecretStr | None = None
    cxone_webhook_secret: SecretStr | None = None
    """The same by its older name; one of the two is needed."""
    webhook_max_bytes: Annotated[int, Field(ge=1, le=64 * 2**20)] = 2**20
    webhook_rate_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Requests a second of this host's web service, shared evenly by its processes; None: no limit."""
    webhook_backlog_limit: PositiveInt | None = None
    """Rows pending from which on new interactions are refused; None: no limit."""
    metrics_token: SecretStr | None = None
    web_host: HostToBind = "0.0.0.0"  # noqa: S104 - a service that others reach
    """Address to listen on."""
    web_keepalive_seconds: Annotated[int, Field(ge=1, le=3600)] = 75
    """How long an idle connection is kept: longer than the usual balancers do (60 s), lest they use one that closes."""
    port: Port = 8000
    """Port to listen on, by the name that platforms use."""
    web_concurrency: Annotated[int, Field(ge=1, le=64)] | None = None
    """Number of web processes, by the name that platforms use; None: see ``processes``."""
    web_threads: Annotated[int, Field(ge=1, le=256)] = 16
    """Threads of a process: as many requests can share one commit."""

    @property
    def bind(self) -> str:
        """Address and port to listen on, as gunicorn takes them."""
        return address(self.web_host, self.port)

    @property
    def processes(self) -> int:
        """Number of web processes: 1 on SQLite, whose writers only wait for each other, else 2."""
        on_sqlite = self.database_url.get_secret_value().startswith("sqlite")
        return self.web_concurrency or (1 if on_sqlite else 2)

    @field_validator("cxone_webhook_secrets", "cxone_webhook_secret")
    @classmethod
    def _secrets_by_label(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_secrets(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _one_secret_at_least(self) -> Self:
        if (self.cxone_webhook_secrets is None) == (self.cxone_webhook_secret is None):
            given = "both are set" if self.cxone_webhook_secret else "neither is set"
            raise ValueError(f"CXONE_WEBHOOK_SECRETS or CXONE_WEBHOOK_SECRET: {given}, takes one of them")
        return self

    def secrets(self) -> dict[str, bytes]:
        """Label to live secret."""
        given = self.cxone_webhook_secrets or self.cxone_webhook_secret
        return parse_secrets(given.get_secret_value() if given else "")
