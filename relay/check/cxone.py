"""CXone: its OAuth server issues a token, and its API accepts it."""

from urllib.parse import urlsplit

from relay.check.finding import Finding, failure, ok, warning
from relay.enrichment.oauth import TokenError, fetch_token
from relay.enrichment.request import request_interaction
from relay.enrichment.response import ThrottledError, read_fields
from relay.errors import UnavailableError
from relay.http_client import HttpClient
from relay.settings import RelaySettings

NO_INTERACTION = "0"
"""Id of an interaction that does not exist: the request shows the client's rights without reading personal data."""


def check_oauth(settings: RelaySettings) -> list[Finding]:
    """Check whether the OAuth server issues a token and CXone accepts it. The token is discarded."""
    if settings.cxone_enrich_url is None:
        return [ok("oauth", "CXONE_ENRICH_URL is not set: no requests are made to CXone")]
    host = urlsplit(settings.cxone_oauth_url or "").hostname or ""
    try:
        token = fetch_token(settings)
    except TokenError as error:
        finding = warning if error.outcome == "throttled" else failure
        return [finding("oauth", f"{host} issues no token", str(error))]
    return [ok("oauth", f"{host} issues a token"), _check_enrichment(settings, token)]


def _check_enrichment(settings: RelaySettings, token: str) -> Finding:
    host = urlsplit(settings.cxone_enrich_url or "").hostname or ""
    answer = request_interaction(NO_INTERACTION, HttpClient(1, ca_location=settings.http_ca_location), settings, token)
    detail = f"{host} answers {answer.status}" if answer.status else f"{host} does not answer ({answer.error})"
    try:
        read_fields(answer, settings)
    except UnavailableError as error:
        finding = warning if isinstance(error, ThrottledError) else failure
        return finding("enrichment", detail, str(error))
    return ok("enrichment", f"{host} accepts the token: it answers {answer.status} for interaction {NO_INTERACTION}")
