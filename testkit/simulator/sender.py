"""Posts to the webhook as CXone does: JSON under a form content type, each interaction up to three times."""

import json
from collections.abc import Mapping
from typing import Any

import requests

DELIVERIES = 3


def deliver(url: str, secret: str, body: Mapping[str, Any], deliveries: int = DELIVERIES) -> list[requests.Response]:
    """Post one interaction, the same bytes each time; return the response to each delivery."""
    headers = {"X-CXone-Webhook-Secret": secret, "Content-Type": "application/x-www-form-urlencoded"}
    raw = json.dumps(body).encode()
    return [requests.post(url, data=raw, headers=headers, timeout=10) for _ in range(deliveries)]
