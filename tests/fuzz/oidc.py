"""What an OpenID provider of the console says: ``discovery``, ``keys`` and ``token`` are bodies of its answers,
``claims`` and ``header`` are parts of an ID token that it signs.

Whatever it is, nobody but its user is signed in, the page is a refusal of the console's, and neither page nor log
quotes anything of it. As soon as it answers properly, its user can sign in.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from flask import Flask, Response
from werkzeug.test import TestResponse

from console.oidc_provider import CACHE_SECONDS, LEEWAY_SECONDS
from testkit.clock import ManualClock
from testkit.console import is_signed_in, start_console
from testkit.databases import migrate
from testkit.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    OidcProvider,
    come_back,
    oidc_environ,
    start_provider,
)
from tests.fuzz.corpus import Input
from tests.fuzz.log import CapturedLog

CANARY, SUBJECT = "canary-5f1d", "248289761001"
PATHS = {"discovery": "/.well-known/openid-configuration", "keys": "/keys"}
STATUSES = frozenset({200, 303, 400, 403, 503})
"""Of the console's pages while somebody signs in."""
TOKEN_ANSWER = b'{"access_token": "a", "id_token": "{id_token}"}'
HEADER = b'{"alg": "RS256", "kid": "{kid}"}'


class OidcAnswers:
    """A console whose users the provider signs in.

    Args:
        app: the console.
        provider: its provider.
        clock: of both.
        log: of this process.
    """

    def __init__(self, app: Flask, provider: OidcProvider, clock: ManualClock, log: CapturedLog) -> None:
        self._app, self._provider, self._clock, self._log = app, provider, clock, log
        self._claims = json.dumps(
            {"iss": "{issuer}", "aud": CLIENT_ID, "sub": SUBJECT, "nonce": "{nonce}", "iat": 0, "exp": 10**12}
        ).encode()

    def check(self, given: Input) -> None:
        """Let its user sign in while it says this, and again when it answers properly."""
        if given.part in ("discovery", "keys"):
            self._clock.now += CACHE_SECONDS + 1
            body = given.data.replace(b"{issuer}", self._provider.issuer.encode())
            body = body.replace(b"{kid}", str(self._provider.published.kid).encode())
            body = body.replace(b"{key}", json.dumps(self._provider.published.as_dict(private=False)).encode())
            self._provider.answers[PATHS[given.part]] = Response(body, content_type="application/json")
        has_signed_in = self._sign_in(given)
        self._log.check()
        self._provider.answers.clear()
        if not has_signed_in:
            assert self._sign_in(Input("", b"")), "its user cannot sign in although it answers properly again"

    def finish(self) -> None:
        """Nothing is left to check."""

    def _sign_in(self, given: Input) -> bool:
        """Sign in as a browser does; return whether a session has begun."""
        client = self._app.test_client()
        started = client.get("/login/start")
        self._check_page(started)
        if started.status_code != 303:
            return False
        location = started.headers["Location"]
        if not location.startswith(f"{self._provider.issuer}/authorize?"):
            self._clock.now += CACHE_SECONDS + 1  # the console cannot know that this leads astray
            return False
        query = parse_qs(urlsplit(location).query)
        nonce, state = query["nonce"][-1], query["state"][-1]
        token = self._id_token(given, nonce)
        template = given.data if given.part == "token" else TOKEN_ANSWER
        body = template.replace(b"{id_token}", token)
        self._provider.answers["/token"] = Response(body, content_type="application/json")
        response = come_back(client, f"/login/callback?code=code&state={state}")
        self._check_page(response)
        if response.status_code != 200:
            return False
        assert is_signed_in(client)
        self._check_token(given, nonce, token)
        return True

    def _check_page(self, response: TestResponse) -> None:
        assert response.status_code in STATUSES, response.get_data(as_text=True)
        shown = response.get_data(as_text=True)
        if response.status_code not in (303, 403):  # where it leads; the user's own subject
            assert CANARY not in shown, shown
        assert CLIENT_SECRET not in shown + repr(response.headers)

    def _id_token(self, given: Input, nonce: str) -> bytes:
        """An ID token with a valid signature, with the claims or the header of the input."""
        header = given.data if given.part == "header" else HEADER
        claims = given.data if given.part == "claims" else self._claims
        key = self._provider.published
        header = header.replace(b"{kid}", str(key.kid).encode())
        for name, value in {b"{issuer}": self._provider.issuer, b"{nonce}": nonce}.items():
            claims = claims.replace(name, value.encode())
        signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
        signature = key.private_key.sign(signed, PKCS1v15(), SHA256())  # type: ignore[union-attr] # it is private
        return signed + b"." + urlsafe_b64encode(signature).rstrip(b"=")

    def _check_token(self, given: Input, nonce: str, token: bytes) -> None:
        """Assert that a token with which a session has begun names the provider's user."""
        if given.part == "token":
            got = json.loads(given.data.replace(b"{id_token}", token))["id_token"]
            assert got.split(".")[1] == token.decode().split(".")[1], "not the claims that the provider signed"
        if given.part == "header":
            assert json.loads(given.data.replace(b"{kid}", b""))["alg"] == "RS256"
        if given.part == "claims":
            self._check_claims(_decode(token), nonce)

    def _check_claims(self, claims: dict[str, Any], nonce: str) -> None:
        now = self._clock.now
        assert claims["iss"] == self._provider.issuer
        assert claims["nonce"] == nonce
        assert claims["sub"] == SUBJECT
        assert claims["aud"] == CLIENT_ID or CLIENT_ID in list(claims["aud"])
        assert claims["exp"] >= now - LEEWAY_SECONDS
        assert claims.get("nbf", 0) <= now + LEEWAY_SECONDS
        assert claims.get("iat", 0) <= now + LEEWAY_SECONDS


def _decode(token: bytes) -> dict[str, Any]:
    payload = token.split(b".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    return claims


@contextmanager
def open_oidc(folder: Path) -> Iterator[OidcAnswers]:
    """Start the provider and the console."""
    url, clock = f"sqlite:///{folder}/outbox.db", ManualClock(1_000_000.0)
    migrate(url, 1)
    with start_provider("http://localhost/login/callback", clock) as provider:
        environ = oidc_environ(provider, f"{SUBJECT}=operator")
        with start_console(url, clock, **environ) as app, CapturedLog((CANARY, CLIENT_SECRET)) as log:
            yield OidcAnswers(app, provider, clock, log)
