"""``relay console-password``: a line of the console's file of users."""

import re
import sys

import click

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
ROLES = ("viewer", "operator", "custodian")
MIN_CHARACTERS, MAX_CHARACTERS = 12, 256


@click.command("console-password")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
def console_password(*, name: str, role: str) -> None:
    """Print a line for the console's file of users.

    Asks for the password, or reads it from stdin if that is no terminal. Add the line to CONSOLE_USERS_FILE, in
    place of the user's earlier one, if there is one. A changed line ends the user's sessions.

    \b
    Examples:
      relay console-password ann operator >> users
      relay console-password bob viewer < password.txt >> users
    """
    from werkzeug.security import generate_password_hash

    if not NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is not a name: expected up to 64 letters, digits, dots, hyphens, _ and @")
    password = _read_password()
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        raise click.UsageError(f"expected a password of {MIN_CHARACTERS} to {MAX_CHARACTERS} characters")
    click.echo(f"{name}:{role}:{generate_password_hash(password)}")


def _read_password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")
