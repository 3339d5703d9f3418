"""``CONSOLE_AUTH=oidc``: users whom an OpenID provider signs in.

The session's cookie is ``SameSite=Strict``: browsers do not send it when the provider leads back to the console. That
request is recognized by a cookie of its own instead, which is ``Lax``, for the callback's path, and for the minutes
that signing in takes. It holds the random ``state`` and nothing else; nonce, verifier and the page to continue at stay
in the console's memory, and are taken from there once. The answer begins the session with a page that leads on, not
with a redirect: only what a page of the console asks for comes with the session's cookie.

The way to the provider is a link: ``form-action 'self'`` would stop a form that is redirected there.
"""

import re
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import structlog
from cachetools import TTLCache
from flask import Blueprint, Response, abort, current_app, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from console.access import Role, User, authentication
from console.login import login_limits, login_page, refuse_for_now
from console.metrics import metrics
from console.oidc_provider import OidcProvider, ProviderError, error_code
from console.sessions import SessionLogin

log = structlog.get_logger(__name__)
blueprint = Blueprint("oidc", __name__)
BEGUN_SECONDS = 10 * 60
"""Within this time a user must come back from the provider."""
MAX_BEGUN = 10_000
USERNAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
SUBJECT = re.compile(r"[!-~]{1,255}")
BEGIN_AGAIN = "This login was not begun in this browser, was used already, or took too long. Begin again."


class Begun(NamedTuple):
    """A user who is at the provider."""

    nonce: str
    verifier: str
    target: str


class OidcLogin(SessionLogin):
    """Knows users by what the provider says about them.

    Args:
        provider: signs them in.
        roles: by subject, or by group if there is a claim with groups.
        groups_claim: lists a user's groups.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        provider: OidcProvider,
        roles: Mapping[str, Role],
        groups_claim: str | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(clock)
        self.provider, self._roles, self._groups_claim = provider, roles, groups_claim
        self._source = f"{provider.issuer} {provider.client_id} {groups_claim or ''}"
        self._begun: TTLCache[str, Begun] = TTLCache(MAX_BEGUN, BEGUN_SECONDS, clock)
        self._begun_lock = threading.Lock()

    def page(self, message: str | None = None) -> str:
        """Return the page with the link to the provider."""
        return render_template("oidc_login.html", message=message, provider=self.provider.name)

    def user_of(self, kept: Mapping[str, Any]) -> User | None:
        """Return the user with the role that the settings give them now."""
        if kept.get("source") != self._source:
            return None  # signed in elsewhere, or in another way: the same name may be somebody else's
        roles = [self._roles[name] for name in kept["known_by"] if name in self._roles]
        return User(kept["name"], max(roles)) if roles else None

    def lead_away(self) -> tuple[str, str]:
        """Return the provider's address to go to, and the state that will come back.

        Raises:
            ProviderError: it cannot be asked.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = self.provider.authorization_url(state, nonce, verifier)
        with self._begun_lock:
            self._begun[state] = Begun(nonce, verifier, self.target())
        return url, state

    def take(self, state: str) -> Begun | None:
        """Return what was begun with this state, once."""
        with self._begun_lock:
            return self._begun.pop(state, None)

    def sign_in(self, claims: Mapping[str, Any]) -> User | None:
        """Begin a session; None: the user has no role.

        Args:
            claims: about the user, verified.

        Raises:
            ProviderError: the subject is none.
        """
        if not SUBJECT.fullmatch(claims["sub"]):
            raise ProviderError("its subject is not printable ASCII without spaces")
        known_by = [name for name in self._names(claims) if name in self._roles]
        kept = {"source": self._source, "name": display_name(claims), "known_by": known_by}
        user = self.user_of(kept)
        if user is not None:
            self.begin(kept)
        return user

    def no_role(self, claims: Mapping[str, Any]) -> str:
        """Return what to tell a user who has no role; they alone see their subject."""
        lacking = (
            "none of your groups has a role" if self._groups_claim else f"your subject {claims['sub']} has no role"
        )
        return f"You are signed in at {self.provider.name}, but {lacking} here: ask for it in CONSOLE_OIDC_ROLES."

    def _names(self, claims: Mapping[str, Any]) -> list[str]:
        if self._groups_claim is None:
            return [claims["sub"]]
        groups = claims.get(self._groups_claim, [])
        groups = groups if isinstance(groups, list) else [groups]
        return [group for group in groups if isinstance(group, str)]


def display_name(claims: Mapping[str, Any]) -> str:
    """Return the name for pages and the audit log: the subject, after the user name if there is a plain one.

    Only the subject is unique and never given to somebody else; at many providers users choose the other names
    themselves. A user name with spaces or brackets is left out, so none can look like another's name with a subject.
    """
    subject, name = claims["sub"], claims.get("preferred_username")
    is_plain = isinstance(name, str) and USERNAME.fullmatch(name) is not None
    return f"{name} [{subject}]" if is_plain and name != subject else str(subject)


def asks_provider(view: Callable[[OidcLogin], AnyResponse]) -> Callable[[], AnyResponse]:
    """Bound how many requests wait for the provider, and say so if it fails."""

    @wraps(view)
    def bounded() -> AnyResponse:
        login, at_once = authentication(), login_limits().at_once
        if not isinstance(login, OidcLogin):
            abort(404)
        if not at_once.acquire(blocking=False):
            return refuse_for_now("busy", 1)
        try:
            return view(login)
        except ProviderError as error:
            return _failed(login, error)
        finally:
            at_once.release()

    return bounded


@blueprint.get("/login/start")
@asks_provider
def start(login: OidcLogin) -> AnyResponse:
    """Lead to the provider."""
    url, state = login.lead_away()
    response = redirect(url, 303)
    _set_state(response, state, BEGUN_SECONDS)
    return response


@blueprint.get("/login/callback")
@asks_provider
def callback(login: OidcLogin) -> AnyResponse:
    """Begin a session for whoever comes back from the provider."""
    state, name = request.cookies.get(_cookie_name(), ""), login.provider.name
    begun = login.take(state) if request.args.get("state") == state else None
    if begun is None:
        return _refused("not begun in this browser, used, or too old", BEGIN_AGAIN, 400)
    if "error" in request.args:
        code = error_code(request.args["error"])
        return _refused(f"the provider says: {code}", f"{name} did not sign you in: {code}.", 403)
    claims = login.provider.exchange(request.args.get("code", ""), begun.nonce, begun.verifier)
    user = login.sign_in(claims)
    if user is None:
        return _refused("the provider's user has no role", login.no_role(claims), 403)
    metrics().logins.labels("accepted").inc()
    log.info("%s has signed in", user.name, action="signed_in", role=user.role.word)
    response = make_response(render_template("come_again.html", address=request.script_root + begun.target))
    _set_state(response, "", 0)
    return response


def _refused(reason: str, message: str, status: int) -> Response:
    metrics().logins.labels("refused").inc()
    log.warning("a login was refused: %s", reason, action="login_refused")
    return login_page(message, status)


def _failed(login: OidcLogin, error: ProviderError) -> Response:
    metrics().logins.labels("failed").inc()
    log.error("nobody is signed in: the OpenID provider fails: %s", error, action="login_failed")
    return login_page(f"{login.provider.name} cannot sign you in now: {error}.", 503)


def _cookie_name() -> str:
    return "__Secure-console-login" if current_app.config["SESSION_COOKIE_SECURE"] else "console-login"


def _set_state(response: AnyResponse, state: str, seconds: int) -> None:
    """Set the cookie by which the callback is recognized, or with 0 seconds remove it."""
    response.set_cookie(
        _cookie_name(),
        state,
        max_age=seconds,
        path=url_for("oidc.callback"),
        secure=current_app.config["SESSION_COOKIE_SECURE"],
        httponly=True,
        samesite="Lax",
    )
