"""What is needed to ask the OAuth server for a token."""

from typing import Literal

from pydantic import SecretStr

from config.settings import BaseSettings


class OAuthSettings(BaseSettings):
    """Settings of enrichment that concern the token."""

    cxone_oauth_url: str | None = None
    cxone_client_id: str | None = None
    cxone_client_secret: SecretStr | None = None
    cxone_oauth_grant: Literal["client_credentials", "password"] = "client_credentials"
    cxone_access_key_id: str | None = None
    cxone_access_key_secret: SecretStr | None = None
    cxone_oauth_scope: str = "interaction:read"

    def form(self) -> dict[str, str]:
        """The request's fields."""
        fields = {"grant_type": self.cxone_oauth_grant, "scope": self.cxone_oauth_scope}
        if self.cxone_oauth_grant == "password":
            fields |= {"username": self.cxone_access_key_id or "", "password": _plain(self.cxone_access_key_secret)}
        return fields

    def login(self) -> tuple[str, str]:
        """Client id and secret."""
        return self.cxone_client_id or "", _plain(self.cxone_client_secret)


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""
