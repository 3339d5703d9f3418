"""The request to CXone for one interaction."""

import re
import unicodedata
from urllib.parse import quote

from relay.http_client import HttpClient, HttpResult
from relay.settings import RelaySettings

_SEPARATORS = re.compile(r"[/\\%?#;]")


def is_one_segment(interaction: str) -> bool:
    """Whether an interaction's id is a single path segment, however often a server decodes it.

    Proxies and servers decode ``%2F`` and remove dot segments. So an id with separators or invisible characters, or
    of dots alone, could name another resource, which would be requested with our token.
    """
    name = unicodedata.normalize("NFKC", interaction)  # some servers turn look-alikes into a slash
    return name.isprintable() and not _SEPARATORS.search(name) and bool(name.strip(". "))


def request_interaction(interaction: str, client: HttpClient, settings: RelaySettings, token: str) -> HttpResult:
    """Request one interaction from ``CXONE_ENRICH_URL``."""
    url = (settings.cxone_enrich_url or "").replace("{interactionId}", quote(interaction, safe=""))
    return client.request("GET", url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
