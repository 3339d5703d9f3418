"""``CONSOLE_AUTH=file``: names and passwords."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import render_template

from console.access import User
from console.sessions import SessionLogin
from console.users import Line, UsersFile


class FileLogin(SessionLogin):
    """Knows users by the file of users. A session ends when its user's line changes.

    Args:
        users: names and passwords.
        clock: seconds since the epoch.
    """

    def __init__(self, users: UsersFile, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.users = users

    def page(self, message: str | None = None) -> str:
        """Return the form for name and password."""
        return render_template("login.html", message=message)

    def user_of(self, kept: Mapping[str, Any]) -> User | None:
        """Return the user whose line is still what it was when they signed in."""
        line = self.users.find(kept.get("name", ""))
        return line.user if line is not None and kept.get("mark") == line.mark else None

    def sign_in(self, line: Line) -> str:
        """Begin a session; return the path to continue at."""
        target = self.target()
        self.begin({"name": line.user.name, "mark": line.mark})
        return target
