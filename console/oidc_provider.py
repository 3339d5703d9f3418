"""An OpenID provider: where it is, where it lets users sign in, and who signed in there.

Authlib knows the protocol; the product's HTTP client does the requests, which are few, bounded in time and size, and
whose errors quote nothing.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from cachetools import TTLCache
from joserfc import jwt
from joserfc.errors import BadSignatureError, ClaimError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from console.settings import protected_url
from relay.http_client import HttpClient, HttpResult, parse_json

ALGORITHMS = tuple(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512))
"""Asymmetric ones only: with ``HS256``, the key that verifies a token could also sign one."""
CACHE_SECONDS = 60 * 60
"""How long what the provider says about itself is kept; a key that it withdraws is trusted no longer than this."""
LEEWAY_SECONDS = 60
"""How far the provider's clock may be off."""
CONNECT_TIMEOUT_SECONDS, RESPONSE_TIMEOUT_SECONDS = 2.0, 5.0
"""Of each request; signing in takes two of them, or up to four when nothing is cached and keys have changed."""
BASIC = "client_secret_basic"
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
ERROR_CODES = frozenset(
    {
        "access_denied", "account_selection_required", "consent_required", "interaction_required", "invalid_client",
        "invalid_grant", "invalid_request", "invalid_scope", "login_required", "server_error",
        "temporarily_unavailable", "unauthorized_client", "unsupported_grant_type", "unsupported_response_type",
    }
)  # fmt: skip
"""Of RFC 6749 and OpenID Connect Core; nothing else that was sent as one gets into a page or the log."""
T = TypeVar("T")


class ProviderError(Exception):
    """The provider cannot be asked, or what it says cannot be used. The message quotes no token, code or claim."""


class Endpoints(NamedTuple):
    """What the provider says about itself."""

    authorization: str
    token: str
    keys: str
    takes_basic: bool
    """Whether the client's secret goes into a header, otherwise into the form."""


class OidcProvider:
    """Asks a provider. Nothing is fetched before it is needed, so the console starts while the provider is away.

    Safe to use from many threads.

    Args:
        issuer: the provider's URL, exactly as it spells it.
        client: the console's id and secret there.
        scope: what is asked for.
        redirect_uri: the console's address that the provider leads back to.
        clock: seconds since the epoch.
        ca_location: PEM file of authorities that are trusted besides the public ones.
    """

    def __init__(
        self,
        issuer: str,
        client: tuple[str, str],
        scope: str,
        redirect_uri: str,
        clock: Callable[[], float],
        ca_location: str | None = None,
    ) -> None:
        self.issuer, self.client_id = issuer, client[0]
        self._secret, self._scope, self._redirect_uri, self._clock = client[1], scope, redirect_uri, clock
        self._http = HttpClient(
            2,
            {"Accept": "application/json"},
            RESPONSE_TIMEOUT_SECONDS,
            ca_location,
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
        )
        self._cache: TTLCache[str, Any] = TTLCache(2, CACHE_SECONDS, clock)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Its host, by which users know it."""
        return urlsplit(self.issuer).hostname or self.issuer

    def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Return the address at which a user signs in.

        Args:
            state: comes back with the user.
            nonce: comes back in the ID token.
            verifier: proves, when the code is exchanged, that it was asked for here (PKCE).

        Raises:
            ProviderError: it cannot be asked.
        """
        url: str = prepare_grant_uri(
            self._endpoints().authorization,
            self.client_id,
            "code",
            self._redirect_uri,
            self._scope,
            state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return url

    def exchange(self, code: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        """Return the claims about the user whom a code stands for, verified.

        Args:
            code: as it came back with the user.
            nonce: of ``authorization_url``.
            verifier: of ``authorization_url``.

        Raises:
            ProviderError: it cannot be asked, or does not vouch for anybody. What it says about itself is then fetched
                again for the next login: it may be the reason.
        """
        try:
            return self._exchange(code, nonce, verifier)
        except ProviderError:
            with self._lock:
                self._cache.clear()
            raise

    def _exchange(self, code: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        endpoints = self._endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        basic = None
        if endpoints.takes_basic:
            basic = quote(self.client_id, safe=""), quote(self._secret, safe="")  # RFC 6749, 2.3.1
        else:
            form |= {"client_id": self.client_id, "client_secret": self._secret}
        result = self._http.request("POST", endpoints.token, data=form, auth=basic)
        return self._verify(_read_object("the token endpoint", result), nonce)

    def _verify(self, answer: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise ProviderError("the token endpoint gave no ID token")
        try:
            try:
                token = _decode(id_token, self._keys())
            except (InvalidKeyIdError, BadSignatureError):  # the provider may have changed its keys
                self._forget("keys")
                token = _decode(id_token, self._keys())
            options = {
                "iss": {"essential": True, "value": self.issuer},
                "aud": {"essential": True, "value": self.client_id},
            }
            known = {"client_id": self.client_id, "nonce": nonce, "access_token": answer.get("access_token")}
            claims = CodeIDToken(token.claims, token.header, options, known)
            claims.validate(self._clock(), LEEWAY_SECONDS)
        except JoseError as error:
            which = f" ({error.claim})" if isinstance(error, ClaimError) else ""
            raise ProviderError(f"its ID token is refused: {error.error}{which}") from None
        except ProviderError:
            raise
        except Exception as error:  # noqa: BLE001 - the libraries raise errors of many kinds
            raise ProviderError(f"its ID token or keys are malformed ({type(error).__name__})") from None
        return token.claims

    def _endpoints(self) -> Endpoints:
        return self._cached("endpoints", self._fetch_endpoints)

    def _keys(self) -> KeySet:
        return self._cached("keys", self._fetch_keys)

    def _fetch_endpoints(self) -> Endpoints:
        found = self._get("its discovery document", get_well_known_url(self.issuer, external=True))
        if found.get("issuer") != self.issuer:
            raise ProviderError("its discovery document names another issuer than CONSOLE_OIDC_ISSUER")
        try:
            authorization, token, keys = (protected_url(str(found.get(name))) for name in ENDPOINTS)
        except ValueError:
            raise ProviderError("its discovery document lacks an endpoint, or one is not https") from None
        methods = found.get("token_endpoint_auth_methods_supported")
        return Endpoints(authorization, token, keys, not isinstance(methods, list) or BASIC in methods)

    def _fetch_keys(self) -> KeySet:
        return KeySet.import_key_set(self._get("its set of keys", self._endpoints().keys))  # type: ignore[arg-type] # checked by it

    def _get(self, what: str, url: str) -> dict[str, Any]:
        return _read_object(what, self._http.request("GET", url))

    def _cached(self, name: str, fetch: Callable[[], T]) -> T:
        with self._lock:
            found: T | None = self._cache.get(name)
        if found is None:
            found = fetch()
            with self._lock:
                self._cache[name] = found
        return found

    def _forget(self, name: str) -> None:
        with self._lock:
            self._cache.pop(name, None)


def error_code(value: object) -> str:
    """Return an error code of the protocol, or that it is none."""
    return value if isinstance(value, str) and value in ERROR_CODES else "no known error"


def _decode(id_token: str, keys: KeySet) -> jwt.Token:
    """Return an ID token with a valid signature."""
    registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    return jwt.decode(id_token, keys, registry=registry)


def _read_object(what: str, result: HttpResult) -> dict[str, Any]:
    """Return the JSON object of a response."""
    try:
        found = parse_json(result)
    except ValueError:
        found = None
    if result.error is not None:
        code = found.get("error") if isinstance(found, dict) else None
        raise ProviderError(f"{what}: {result.error}" + (f", {error_code(code)}" if code else ""))
    if not isinstance(found, dict):
        raise ProviderError(f"{what} is no JSON object")
    return found
