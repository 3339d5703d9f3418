"""Tokens of CXone: fetched once for all threads, kept until shortly before they expire, and said clearly if refused."""

import threading
from random import Random
from time import monotonic
from urllib.parse import quote_plus

from relay.backoff import Backoff
from relay.errors import UnavailableError
from relay.http_client import Client, HttpResult, Outcome, classify, json_of
from relay.metrics import RelayMetrics
from relay.settings import RelaySettings

EARLY_SECONDS = 60.0
"""A token is renewed this long before it expires, or after half of its time if that is later."""
EXPIRES_SECONDS = 3600.0
"""For a token that does not tell."""
BACKOFF_CAP_SECONDS = 60.0


class TokenError(UnavailableError):
    """CXone gives no token. The message tells why and what to do; nothing of the answer or a secret is in it.

    Attributes:
        outcome: ``invalid_credentials``, ``lacks_scope``, ``throttled``, ``refused`` or ``unavailable``.
    """

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class Tokens:
    """The access token of one client. Safe to use from many threads; one of them fetches, the others wait for it.

    Args:
        settings: of the relay; ``CXONE_OAUTH_URL`` and the client are given.
        random: source of the jitter.
        metrics: of the relay; None where nobody counts.
    """

    def __init__(self, settings: RelaySettings, random: Random, metrics: RelayMetrics | None = None) -> None:
        self._settings, self._metrics = settings, metrics
        self._client = Client(1, ca_location=settings.http_ca_location)
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0
        self._backoff = Backoff(random, base_seconds=1.0, cap_seconds=BACKOFF_CAP_SECONDS)
        self._refused: TokenError | None = None
        self._ask_at = 0.0

    def get(self, stale: str | None = None) -> str:
        """A token that is valid as far as we know.

        Args:
            stale: a token that was refused: another one is fetched, unless that has happened already.

        Raises:
            TokenError: there is none; raised again, without asking, until the pause after a failure is over.
        """
        with self._lock:
            if self._token and self._token != stale and monotonic() < self._renew_at:
                return self._token
            if self._refused is not None and monotonic() < self._ask_at:
                raise self._refused
            self._fetch()
            return self._token

    def _fetch(self) -> None:
        answer = ask_for_token(self._client, self._settings)
        try:
            self._token, seconds = _token_of(answer, self._settings)
        except TokenError as error:
            self._count(error.outcome)
            self._token, self._refused = "", error
            self._ask_at = monotonic() + max(self._backoff.failed(), answer.retry_after_seconds or 0.0)
            raise
        self._renew_at = monotonic() + max(seconds - EARLY_SECONDS, seconds / 2)
        self._refused = None
        self._backoff.succeeded()
        self._count("ok")

    def _count(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.token_refreshes.labels(outcome).inc()


def ask_for_token(client: Client, settings: RelaySettings) -> HttpResult:
    """One request to the token endpoint, with ``client_secret_basic``."""
    form = {"grant_type": settings.cxone_oauth_grant, "scope": settings.cxone_oauth_scope}
    if settings.cxone_oauth_grant == "password" and settings.cxone_access_key_secret:
        form["username"] = settings.cxone_access_key_id or ""
        form["password"] = settings.cxone_access_key_secret.get_secret_value()
    secret = settings.cxone_client_secret.get_secret_value() if settings.cxone_client_secret else ""
    # Encoded as in a form (RFC 6749, 2.3.1): secrets of CXone end in =, and hold / and +.
    login = (quote_plus(settings.cxone_client_id or ""), quote_plus(secret))
    return client.request("POST", settings.cxone_oauth_url or "", data=form, auth=login)


def fetch_token(settings: RelaySettings) -> str:
    """A token, asked for once, for a diagnosis.

    Raises:
        TokenError: there is none.
    """
    return _token_of(ask_for_token(Client(1, ca_location=settings.http_ca_location), settings), settings)[0]


def lacks_scope(settings: RelaySettings) -> TokenError:
    """The same words wherever CXone answers 403."""
    return TokenError(
        "lacks_scope",
        f"CXone answers 403: the client lacks scope {settings.cxone_oauth_scope}. Grant it to the client in CXone, "
        "or set CXONE_OAUTH_SCOPE to one that it has",
    )


def _token_of(answer: HttpResult, settings: RelaySettings) -> tuple[str, float]:
    """The token and its seconds to live."""
    if classify(answer) is not Outcome.DONE:
        raise _refusal(answer, settings)
    try:
        told = json_of(answer)
        token, seconds = told["access_token"], told.get("expires_in")
        seconds = EXPIRES_SECONDS if seconds is None else float(seconds)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise TokenError(
            "refused", "CXONE_OAUTH_URL answers without an access_token: check that it is the token endpoint"
        ) from None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise TokenError("refused", "CXONE_OAUTH_URL gives a token that no header can hold")
    return token, max(0.0, seconds)


def _refusal(answer: HttpResult, settings: RelaySettings) -> TokenError:
    status, keys = answer.status, "CXONE_CLIENT_ID and CXONE_CLIENT_SECRET"
    if settings.cxone_oauth_grant == "password":
        keys += ", CXONE_ACCESS_KEY_ID and CXONE_ACCESS_KEY_SECRET"
    error = _error_code(answer)
    if status == 403 or error == "invalid_scope":
        return lacks_scope(settings)
    if status == 401 or error in ("invalid_client", "invalid_grant"):
        return TokenError(
            "invalid_credentials", f"CXone answers {status}: the credentials are invalid or expired: check {keys}"
        )
    if status == 429:
        return TokenError("throttled", "CXone answers 429 to the request for a token: asked again later")
    if classify(answer) is Outcome.REFUSED:
        return TokenError(
            "refused", f"CXONE_OAUTH_URL answers {status}: check that it is the token endpoint, and CXONE_OAUTH_GRANT"
        )
    return TokenError("unavailable", f"CXONE_OAUTH_URL does not give a token ({answer.error}): asked again later")


def _error_code(answer: HttpResult) -> str:
    """The ``error`` of RFC 6749, which comes with 400."""
    try:
        code = json_of(answer)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) else ""
