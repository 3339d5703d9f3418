"""Who acts, and what each role may do: checked at the action, not in the menu."""

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from flask import abort, current_app, g
from werkzeug.wrappers import Response

EXTENSION = "console_authentication"
"""Key of the ``Authentication`` in ``app.extensions``."""
P = ParamSpec("P")
R = TypeVar("R", bound=Response)


class Role(IntEnum):
    """What a user may do; each role may also do what those before it may."""

    VIEWER = 1
    OPERATOR = 2
    CUSTODIAN = 3

    @classmethod
    def parse(cls, text: str) -> "Role":
        """Return the role with this name.

        Raises:
            ValueError: there is none.
        """
        for role in cls:
            if role.word == text:
                return role
        raise ValueError(f"expected a role: {', '.join(role.word for role in cls)}")

    @property
    def word(self) -> str:
        """The name as users write it."""
        return self.name.lower()


class User(NamedTuple):
    """Who sent a request."""

    name: str
    role: Role

    @property
    def actor(self) -> str:
        """The name in the audit log."""
        return f"{self.name} (console)"


class Authentication(Protocol):
    """How the console knows its users."""

    def user(self) -> User | None:
        """Return who sent the request; None: nobody known."""

    def refuse(self) -> Response:
        """Answer a request of nobody known."""


def authentication() -> Authentication:
    """Return that of the application that handles the request."""
    found: Authentication = current_app.extensions[EXTENSION]
    return found


def current_user() -> User | None:
    """Return who sent the request, asked once a request."""
    if "user" not in g:
        g.user = authentication().user()
    user: User | None = g.user
    return user


def may(role: Role) -> bool:
    """Return whether whoever sent the request has this role or a higher one."""
    user = current_user()
    return user is not None and user.role >= role


def require_role(role: Role) -> User:
    """Return who sent the request; anybody with a lower role than this is refused."""
    user = current_user()
    if user is None or user.role < role:
        abort(403, f"This needs the role {role.word}; yours is {user.role.word if user else 'none'}.")
    return user


def requires(role: Role) -> Callable[[Callable[P, R]], Callable[P, R | Response]]:
    """Let a view be used with this role or a higher one only."""

    def decorate(view: Callable[P, R]) -> Callable[P, R | Response]:
        @wraps(view)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R | Response:
            if current_user() is None:
                return authentication().refuse()
            require_role(role)
            return view(*args, **kwargs)

        return checked

    return decorate
