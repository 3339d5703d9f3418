"""The file of users: lines ``name:role:hash``, as ``relay console-password`` prints them."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from werkzeug.security import check_password_hash, generate_password_hash

from console.access import Role, User

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
SCRYPT = re.compile(r"scrypt:\d+:\d+:\d+\$[A-Za-z0-9]+\$[0-9a-f]{128}")


class UsersFileError(Exception):
    """The file of users cannot be used. The message names the line, and quotes nothing of it."""


class Line(NamedTuple):
    """A user's line."""

    user: User
    password_hash: str

    @property
    def mark(self) -> str:
        """Changes with the line; says nothing about the password."""
        text = f"{self.user.name}:{self.user.role.word}:{self.password_hash}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class UsersFile:
    """The users and their passwords.

    The file is small, so it is read each time: there is no copy that could be older.

    Args:
        path: the file.

    Raises:
        UsersFileError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._method_of_unknown()  # made now, so that the first unknown name takes as long as the next

    def find(self, name: str) -> Line | None:
        """Return a user's line; None: there is no such user."""
        return self._read().get(name)

    def check(self, name: str, password: str) -> Line | None:
        """Return a user's line if the password is theirs. An unknown name takes as long as a wrong password."""
        line = self.find(name)
        expected = line.password_hash if line else _nobody(self._method_of_unknown())
        return line if check_password_hash(expected, password) and line else None

    def _method_of_unknown(self) -> str:
        method = next(iter(self._read().values())).password_hash.split("$")[0]
        _nobody(method)
        return method

    def _read(self) -> dict[str, Line]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            kind = type(error).__name__
            raise UsersFileError(f"CONSOLE_USERS_FILE={self._path} cannot be read ({kind})") from None
        return _parse(text, self._path)


@cache
def _nobody(method: str) -> str:
    """Return the hash of a password that nobody has."""
    return generate_password_hash("nobody's", method)


def _parse(text: str, path: Path) -> dict[str, Line]:
    """Return the lines by name. Empty ones and comments are skipped."""
    lines: dict[str, Line] = {}
    for number, written in enumerate(text.splitlines(), 1):
        if not written.strip() or written.startswith("#"):
            continue
        try:
            line = _parse_line(written.strip())
        except ValueError:
            expected = "expected name:role:hash as relay console-password prints it"
            raise UsersFileError(f"CONSOLE_USERS_FILE={path}, line {number}: {expected}") from None
        if line.user.name in lines:
            raise UsersFileError(f"CONSOLE_USERS_FILE={path}, line {number}: the name has an earlier line")
        lines[line.user.name] = line
    if not lines:
        raise UsersFileError(f"CONSOLE_USERS_FILE={path} names no user")
    return lines


def _parse_line(text: str) -> Line:
    name, role, password_hash = text.split(":", 2)
    if not NAME.fullmatch(name) or not SCRYPT.fullmatch(password_hash):
        raise ValueError
    return Line(User(name, Role.parse(role)), password_hash)
