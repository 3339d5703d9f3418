"""``relay console-password`` prints lines that the console accepts."""

import subprocess
import sys
from pathlib import Path

import pytest

from console.access import Role
from console.users import UsersFile
from relay.cli.console_password import ROLES
from testkit import ROOT
from testkit.command_line import command, expect

PASSWORD = "correct horse battery"


@pytest.mark.parametrize("role", list(Role))
def test_its_line_lets_the_user_in(tmp_path: Path, role: Role) -> None:
    """With this password only, and in this role. The password is read from stdin."""
    printed = command({}, "console-password", "ann@example.com", role.word, stdin=f"{PASSWORD}\n")
    expect(printed, 0)
    path = tmp_path / "users"
    path.write_text(printed.stdout)
    users = UsersFile(path)
    line = users.check("ann@example.com", PASSWORD)
    assert line is not None
    assert (line.user.name, line.user.role) == ("ann@example.com", role)
    assert users.check("ann@example.com", PASSWORD[:-1]) is None
    assert users.check("bob", PASSWORD) is None


def test_command_and_console_know_the_same_roles() -> None:
    """The relay imports nothing of the console."""
    assert list(ROLES) == [role.word for role in Role]


@pytest.mark.parametrize(
    ("arguments", "password", "message"),
    [
        (("a:b", "viewer"), PASSWORD, "is not a name"),
        (("ann", "boss"), PASSWORD, "boss"),
        (("ann", "viewer"), "short", "12 to 256 characters"),
        (("ann", "viewer"), "", "12 to 256 characters"),
    ],
)
def test_what_the_console_would_refuse_is_refused(arguments: tuple[str, str], password: str, message: str) -> None:
    """Nothing is printed that could be added to the file."""
    refused = command({}, "console-password", *arguments, stdin=f"{password}\n")
    expect(refused, 2, stderr=message)
    assert refused.stdout == ""


def test_it_does_not_load_flask() -> None:
    """Werkzeug alone makes the hash."""
    code = (
        "import sys; from werkzeug.security import generate_password_hash; import relay.cli.console_password; "
        "generate_password_hash('x'); sys.exit('flask' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
