"""``CONSOLE_AUTH=proxy``: users whom a proxy has authenticated."""

import hmac
from collections.abc import Mapping, Sequence

import structlog
from flask import abort, request
from werkzeug.wrappers import Response

from console.access import Role, User
from console.peers import peer_is_listed
from console.settings import Network

log = structlog.get_logger(__name__)


class ProxyLogin:
    """Believes the header of a proxy that connects from a listed address and knows the secret.

    Args:
        user_header: names the user.
        secret_header: has the secret.
        secret: what the proxy sends.
        roles: the users' roles by name.
        peers: where the proxy connects from.
    """

    def __init__(
        self,
        user_header: str,
        secret_header: str,
        secret: bytes,
        roles: Mapping[str, Role],
        peers: Sequence[Network],
    ) -> None:
        self._user_header, self._secret_header, self._secret = user_header, secret_header, secret
        self._roles, self._peers = roles, peers

    def user(self) -> User | None:
        """Return the proxy's user if they have a role."""
        if not self._is_proxy():
            return None
        name = request.headers.get(self._user_header, "")
        role = self._roles.get(name)
        return None if role is None else User(name, role)

    def refuse(self) -> Response:
        """Refuse: only the proxy can let somebody sign in."""
        if not self._is_proxy():
            log.warning("refused: the request does not come from the proxy", action="login_refused")
            abort(403, "The console is reached through its proxy only.")
        log.warning("refused: the proxy's user has no role", action="login_refused")
        abort(403, "You are signed in, but have no role here: ask for a line in CONSOLE_PROXY_ROLES.")

    def _is_proxy(self) -> bool:
        given = request.headers.get(self._secret_header, "").encode("latin-1", "replace")
        return hmac.compare_digest(given, self._secret) and peer_is_listed(self._peers)
