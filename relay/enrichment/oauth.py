"""Access tokens for CXone: fetched once for all threads, and kept until shortly before they expire."""

import threading
from http import HTTPStatus
from random import Random
from time import monotonic
from typing import NamedTuple
from urllib.parse import quote_plus

from relay.backoff import Backoff
from relay.errors import UnavailableError
from relay.http_client import HttpClient, HttpResult, Outcome, classify, parse_json
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings

RENEW_EARLY_SECONDS = 60.0
"""A token is renewed this long before it expires, or after half of its lifetime if that is later."""
DEFAULT_LIFETIME_SECONDS = 3600.0
"""Of a token without ``expires_in``."""
MAX_BACKOFF_SECONDS = 60.0


class TokenError(UnavailableError):
    """CXone issues no token, or rejects the one it issued. The message quotes neither the response nor a secret.

    Attributes:
        outcome: ``invalid_credentials``, ``lacks_scope``, ``throttled``, ``refused`` or ``unavailable``.
    """

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class Token(NamedTuple):
    """An access token as CXone issued it."""

    value: str
    lifetime_seconds: float


class TokenSource:
    """Gives the current access token. Safe to use from many threads: one fetches it while the others wait.

    Args:
        settings: name the token endpoint, the client and the grant.
        random: source of jitter.
        metrics: count the requests; None if nobody reads them.
    """

    def __init__(self, settings: RelaySettings, random: Random, metrics: RelayMetrics | None = None) -> None:
        self._settings, self._metrics = settings, metrics
        self._client = HttpClient(1, ca_location=settings.http_ca_location)
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0
        self._backoff = Backoff(random, base_seconds=1.0, cap_seconds=MAX_BACKOFF_SECONDS)
        self._last_error: TokenError | None = None
        self._retry_at = 0.0

    def get(self, rejected: str | None = None) -> str:
        """Return a token that is valid as far as known.

        Args:
            rejected: a token that CXone rejected. It is replaced, unless another thread already did so.

        Raises:
            TokenError: there is none. The error is raised again, without a request, until the backoff is over.
        """
        with self._lock:
            if self._token and self._token != rejected and monotonic() < self._renew_at:
                return self._token
            if self._last_error is not None and monotonic() < self._retry_at:
                raise self._last_error
            self._fetch()
            return self._token

    def _fetch(self) -> None:
        result = request_token(self._client, self._settings)
        try:
            self._token, lifetime = parse_token(result, self._settings)
        except TokenError as error:
            self._count(error.outcome)
            self._token, self._last_error = "", error
            self._retry_at = monotonic() + max(self._backoff.failed(), result.retry_after_seconds or 0.0)
            raise
        self._renew_at = monotonic() + max(lifetime - RENEW_EARLY_SECONDS, lifetime / 2)
        self._last_error = None
        self._backoff.succeeded()
        self._count("ok")

    def _count(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.token_refreshes.labels(outcome).inc()


def request_token(client: HttpClient, settings: RelaySettings) -> HttpResult:
    """Send one request to the token endpoint, authenticated with ``client_secret_basic``."""
    form = {"grant_type": settings.cxone_oauth_grant, "scope": settings.cxone_oauth_scope}
    if settings.cxone_oauth_grant == "password" and settings.cxone_access_key_secret:
        form["username"] = settings.cxone_access_key_id or ""
        form["password"] = settings.cxone_access_key_secret.get_secret_value()
    secret = settings.cxone_client_secret.get_secret_value() if settings.cxone_client_secret else ""
    # RFC 6749, 2.3.1 asks for form encoding, and secrets of CXone contain =, / and +.
    auth = (quote_plus(settings.cxone_client_id or ""), quote_plus(secret))
    return client.request("POST", settings.cxone_oauth_url or "", data=form, auth=auth)


def fetch_token(settings: RelaySettings) -> str:
    """Fetch a token with a single request, as a diagnosis.

    Raises:
        TokenError: there is none.
    """
    client = HttpClient(1, ca_location=settings.http_ca_location)
    return parse_token(request_token(client, settings), settings).value


def missing_scope(settings: RelaySettings) -> TokenError:
    """The error for a 403, from the token endpoint or the API."""
    return TokenError(
        "lacks_scope",
        f"CXone returned 403: the client lacks scope {settings.cxone_oauth_scope}; grant it to the client in CXone, "
        "or set CXONE_OAUTH_SCOPE to one that it has",
    )


def parse_token(result: HttpResult, settings: RelaySettings) -> Token:
    """Read the token from a response of the token endpoint.

    Raises:
        TokenError: there is none.
    """
    if classify(result) is not Outcome.SUCCESS:
        raise _refusal(result, settings)
    try:
        document = parse_json(result)
        value, expires_in = document["access_token"], document.get("expires_in")
        lifetime = DEFAULT_LIFETIME_SECONDS if expires_in is None else float(expires_in)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise TokenError(
            "refused", "CXONE_OAUTH_URL returned no access_token: check that it is the token endpoint"
        ) from None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise TokenError("refused", "CXONE_OAUTH_URL returned a token that does not fit into a header")
    return Token(value, max(0.0, lifetime))


def _refusal(result: HttpResult, settings: RelaySettings) -> TokenError:
    status, error = result.status, _error_code(result)
    if status == HTTPStatus.FORBIDDEN or error == "invalid_scope":
        return missing_scope(settings)
    if status == HTTPStatus.UNAUTHORIZED or error in ("invalid_client", "invalid_grant"):
        names = "CXONE_CLIENT_ID and CXONE_CLIENT_SECRET"
        if settings.cxone_oauth_grant == "password":
            names += ", CXONE_ACCESS_KEY_ID and CXONE_ACCESS_KEY_SECRET"
        return TokenError(
            "invalid_credentials", f"CXone returned {status}: the credentials are invalid or expired: check {names}"
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TokenError("throttled", "CXone limits the rate of token requests (429); the relay retries")
    if classify(result) is Outcome.REJECTED:
        return TokenError(
            "refused", f"CXONE_OAUTH_URL returned {status}: check that it is the token endpoint, and CXONE_OAUTH_GRANT"
        )
    return TokenError("unavailable", f"the request to CXONE_OAUTH_URL failed ({result.error}); the relay retries")


def _error_code(result: HttpResult) -> str:
    """The ``error`` of RFC 6749, 5.2, which comes with 400."""
    try:
        code = parse_json(result)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) else ""
