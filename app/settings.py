"""Settings of the web process."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from app.authentication import parse_secrets
from config.settings import BaseSettings, BindHost, Port, PositiveInt, ValueFormat
from config.values import join_host_port

Secrets = Annotated[SecretStr, ValueFormat("one secret of 16 bytes or more, or `label=secret,label=secret`")]


class WebSettings(BaseSettings):
    """Settings of the web process."""

    cxone_webhook_secrets: Secrets | None = None
    """Live secrets, one of which CXone sends in `X-CXone-Webhook-Secret`. Required, under one of the two names."""
    cxone_webhook_secret: Secrets | None = None
    """The same under its older name."""
    webhook_max_bytes: Annotated[int, Field(ge=1, le=64 * 2**20)] = 2**20
    """Largest request body that is accepted, in bytes."""
    webhook_rate_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Requests a second that this host accepts, shared evenly by its web processes. Unset: no limit."""
    webhook_backlog_limit: PositiveInt | None = None
    """Number of pending rows from which new interactions are refused with 503. Unset: no limit."""
    metrics_token: SecretStr | None = None
    """Bearer token required for `/metrics`, and for the reasons on `/readyz`. Unset: anybody may read them."""
    web_host: BindHost = "0.0.0.0"  # noqa: S104 - a service that others reach
    """Address to listen on; `::` for IPv6."""
    web_keepalive_seconds: Annotated[int, Field(ge=1, le=3600)] = 75
    """How long an idle connection is kept open: longer than the load balancer does, see
    [WEB_KEEPALIVE_SECONDS](#web_keepalive_seconds)."""
    port: Port = 8000
    """Port to listen on."""
    web_concurrency: Annotated[int, Field(ge=1, le=64)] | None = None
    """Number of web processes. Unset: 1 on SQLite, whose writers would only wait for each other, 2 on PostgreSQL."""
    web_threads: Annotated[int, Field(ge=1, le=256)] = 16
    """Request threads in each web process; the most requests that can share one commit."""

    @property
    def bind(self) -> str:
        """Address and port to listen on, in gunicorn's format."""
        return join_host_port(self.web_host, self.port)

    @property
    def processes(self) -> int:
        """Number of web processes."""
        on_sqlite = self.database_url.get_secret_value().startswith("sqlite")
        return self.web_concurrency or (1 if on_sqlite else 2)

    @field_validator("cxone_webhook_secrets", "cxone_webhook_secret")
    @classmethod
    def _check_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_secrets(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _require_secret(self) -> Self:
        if (self.cxone_webhook_secrets is None) == (self.cxone_webhook_secret is None):
            given = "both are set" if self.cxone_webhook_secret else "neither is set"
            raise ValueError(f"CXONE_WEBHOOK_SECRETS or CXONE_WEBHOOK_SECRET: {given}, expected one of them")
        return self

    def secrets(self) -> dict[str, bytes]:
        """The live secrets by label."""
        given = self.cxone_webhook_secrets or self.cxone_webhook_secret
        return parse_secrets(given.get_secret_value() if given else "")
