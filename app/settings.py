"""What the web process reads from the environment."""

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from app.secrets import parse_secrets
from config.settings import BaseSettings


class WebSettings(BaseSettings):
    """Settings of the web process."""

    cxone_webhook_secrets: SecretStr | None = None
    cxone_webhook_secret: SecretStr | None = None
    """The same by its older name; one of the two is needed."""
    webhook_max_bytes: Annotated[int, Field(ge=1, le=64 * 2**20)] = 2**20
    webhook_rate_limit: Annotated[float, Field(gt=0)] | None = None
    """Requests a second of this host's web service, shared evenly by its processes; None: no limit."""
    webhook_backlog_limit: Annotated[int, Field(ge=1)] | None = None
    """Rows pending beyond which new interactions are refused; None: no limit."""
    metrics_token: SecretStr | None = None
    web_concurrency: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of web processes, by the name that platforms use."""

    @model_validator(mode="after")
    def _one_secret_at_least(self) -> "WebSettings":
        if (self.cxone_webhook_secrets is None) == (self.cxone_webhook_secret is None):
            given = "both are set" if self.cxone_webhook_secret else "neither is set"
            raise ValueError(f"CXONE_WEBHOOK_SECRETS or CXONE_WEBHOOK_SECRET: {given}, takes one of them")
        self.secrets()
        return self

    def secrets(self) -> dict[str, bytes]:
        """Label to live secret."""
        given = self.cxone_webhook_secrets or self.cxone_webhook_secret
        return parse_secrets(given.get_secret_value() if given else "")
