"""A small OpenID provider on this machine, made with Authlib's server side, that can misbehave."""

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import requests
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from flask import Flask, Response, jsonify, request
from flask.testing import FlaskClient
from joserfc import jws
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64encode
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response as AnyResponse

CLIENT_ID = "console"
CLIENT_SECRET = "secret of the console: 100 % + more"
"""With characters that have to be encoded in HTTP Basic."""

ASKS = '<!doctype html><link rel="icon" href="data:,"><form method="post"><button>Allow</button></form>'


@dataclass
class _Code:
    """An authorization code that was not exchanged yet."""

    code: str
    user: dict[str, Any]
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce


class _Client(ClientMixin):
    """The console, as it is registered."""

    def __init__(self, provider: "OidcProvider") -> None:
        self._provider = provider

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self._provider.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == self._provider.auth_method

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


def new_key() -> RSAKey:
    """Return a key that nobody else has."""
    return RSAKey.generate_key(2048, auto_kid=True)


@cache
def _first_key() -> RSAKey:
    """Return the key that providers publish at first. Making one takes a tenth of a second."""
    return new_key()


@dataclass
class OidcProvider:
    """What the provider does; tests set it.

    Attributes:
        redirect_uri: of the console.
        clock: seconds since the epoch.
        user: claims of whoever is signed in at the provider; None: they decline.
        claims: put over those of the ID token; a None removes one.
        header: the same over those of its header.
        key: signs ID tokens instead of the published key.
        secret: signs those with ``HS256``.
        discovery: put over the discovery document.
        answers: whole responses by path, instead of the provider's own.
        asks: whether a user has to allow it by a button.
        auth_method: how the console proves that it is itself.
        issuer: its URL.
        requests: paths that were asked for.
        running: while it is clear, no request is answered.
    """

    redirect_uri: str
    clock: Callable[[], float] = time.time
    user: dict[str, Any] | None = field(default_factory=lambda: {"sub": "248289761001"})
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    key: RSAKey | None = None
    secret: bytes = b""
    discovery: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Response] = field(default_factory=dict)
    asks: bool = False
    auth_method: str = "client_secret_basic"
    issuer: str = ""
    requests: list[str] = field(default_factory=list)
    running: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.codes: dict[str, _Code] = {}
        self.published = _first_key()
        self.running.set()

    def rotate_keys(self) -> None:
        """Replace the published key."""
        self.published = new_key()

    def document(self) -> dict[str, Any]:
        """Return the discovery document."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            "token_endpoint_auth_methods_supported": [self.auth_method],
            **self.discovery,
        }

    def id_token(self, user: dict[str, Any], nonce: str | None) -> str:
        """Return an ID token."""
        now = int(self.clock())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce, **user}
        claims = _without_none({**claims, **self.claims})
        header = _without_none({"alg": "RS256", "kid": self.published.kid, **self.header})
        if header["alg"] not in ("none", "HS256"):
            return jws.serialize_compact(header, json.dumps(claims), self.key or self.published, [header["alg"]])
        signed = b".".join(urlsafe_b64encode(json.dumps(part).encode()) for part in (header, claims))
        signature = hmac.digest(self.secret, signed, "sha256") if header["alg"] == "HS256" else b""
        return (signed + b"." + urlsafe_b64encode(signature)).decode()


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _grant(provider: OidcProvider) -> type[AuthorizationCodeGrant]:
    """Return the code grant that keeps codes in memory."""

    class Grant(AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

        def save_authorization_code(self, code: str, request: Any) -> None:
            sent = request.payload.data
            provider.codes[code] = _Code(
                code,
                request.user,
                request.payload.redirect_uri,
                request.scope,
                sent.get("nonce"),
                sent.get("code_challenge"),
                sent.get("code_challenge_method"),
            )

        def query_authorization_code(self, code: str, _client: _Client) -> _Code | None:
            return provider.codes.get(code)

        def delete_authorization_code(self, authorization_code: _Code) -> None:
            del provider.codes[authorization_code.code]

        def authenticate_user(self, authorization_code: _Code) -> dict[str, Any]:
            return authorization_code.user

    return Grant


def _open_id(provider: OidcProvider) -> OpenIDCode:
    """Return the extension that adds an ID token."""

    class OpenId(OpenIDCode):
        def exists_nonce(self, nonce: str, _request: Any) -> bool:
            return any(code.nonce == nonce for code in provider.codes.values())

        def encode_id_token(self, _token: dict[str, Any], request: Any) -> str:
            return provider.id_token(request.user, request.authorization_code.nonce)

    return OpenId(require_nonce=True)


def create_app(provider: OidcProvider) -> Flask:
    """Create the provider's application. Who asks to sign in is approved at once."""
    app = Flask("provider")
    client = _Client(provider)
    server = AuthorizationServer(
        app, lambda client_id: client if client_id == CLIENT_ID else None, lambda *_token_and_request: None
    )
    server.register_grant(_grant(provider), [_open_id(provider), CodeChallenge(required=True)])

    @app.before_request
    def misbehave() -> Response | None:
        provider.requests.append(request.path)
        provider.running.wait()
        return provider.answers.get(request.path)

    @app.get("/.well-known/openid-configuration")
    def discover() -> Response:
        return jsonify(provider.document())

    @app.get("/keys")
    def keys() -> Response:
        return jsonify(keys=[provider.published.as_dict(private=False, use="sig", alg="RS256")])

    @app.route("/authorize", methods=["GET", "POST"])
    def authorize() -> AnyResponse:
        if provider.asks and request.method == "GET":
            return Response(ASKS)
        try:
            grant = server.get_consent_grant(end_user=provider.user)
        except OAuth2Error as error:
            return Response(json.dumps(dict(error.get_body())), 400)
        answer: AnyResponse = server.create_authorization_response(grant_user=provider.user, grant=grant)
        return answer

    @app.post("/token")
    def token() -> AnyResponse:
        answer: AnyResponse = server.create_token_response()
        return answer

    return app


class _Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_arguments: object) -> None:
        """Leave a line out."""


@contextmanager
def start_provider(
    redirect_uri: str, clock: Callable[[], float] = time.time, host: str = "127.0.0.1"
) -> Iterator[OidcProvider]:
    """Serve a provider on a port of this machine.

    Args:
        redirect_uri: of the console.
        clock: seconds since the epoch.
        host: in its URL.
    """
    provider = OidcProvider(redirect_uri, clock)
    with listen(provider, host=host):
        yield provider


@contextmanager
def listen(provider: OidcProvider, port: int = 0, host: str = "127.0.0.1") -> Iterator[None]:
    """Answer requests.

    Args:
        provider: says what.
        port: of this machine; 0: any.
        host: in the issuer's URL.
    """
    server = make_server("127.0.0.1", port, create_app(provider), threaded=True, request_handler=_Quiet)
    provider.issuer = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield
    finally:
        provider.running.set()
        server.shutdown()
        thread.join()
        server.server_close()


def oidc_environ(provider: OidcProvider, roles: str, **environ: str) -> dict[str, str]:
    """Return the settings of a console whose users the provider signs in.

    Args:
        provider: the provider.
        roles: the value of ``CONSOLE_OIDC_ROLES``.
        environ: further settings.
    """
    return {
        "CONSOLE_AUTH": "oidc",
        "CONSOLE_OIDC_ISSUER": provider.issuer,
        "CONSOLE_OIDC_CLIENT_ID": CLIENT_ID,
        "CONSOLE_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "CONSOLE_OIDC_ROLES": roles,
        "CONSOLE_PUBLIC_URL": "http://localhost",
        **environ,
    }


def visit_provider(client: FlaskClient, path: str = "/login/start") -> str:
    """Go to the provider as a browser does; return the address that it leads back to."""
    started = client.get(path)
    assert started.status_code == 303, started.get_data(as_text=True)
    answer = requests.get(started.headers["Location"], allow_redirects=False, timeout=10)
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def come_back(client: FlaskClient, address: str) -> TestResponse:
    """Follow the provider's redirect as a browser does: without the session's cookie, which is ``SameSite=Strict``."""
    session = client.get_cookie("console")
    client.delete_cookie("console")
    response = client.get(address, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    if session is not None and client.get_cookie("console") is None:
        client.set_cookie("console", session.value)
    return response


def sign_in_there(client: FlaskClient) -> TestResponse:
    """Go to the provider and come back."""
    return come_back(client, visit_provider(client))
