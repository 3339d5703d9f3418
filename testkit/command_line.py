"""Run ``relay`` commands in this process, which saves the start of an interpreter each time."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from click.testing import CliRunner

from relay.cli import main


class Ended(Protocol):
    """An ended command, whether it ran here or in a process of its own."""

    @property
    def returncode(self) -> int:
        """Exit code."""

    @property
    def stdout(self) -> str:
        """What it printed."""

    @property
    def stderr(self) -> str:
        """Its messages."""


class CommandResult(NamedTuple):
    """An ended command that ran in this process."""

    returncode: int
    stdout: str
    stderr: str


def command(environ: Mapping[str, str], *arguments: str, stdin: str = "", **settings: str) -> CommandResult:
    """Run ``relay`` with arguments and without a terminal; keyword arguments are further settings."""
    runner = CliRunner(env={**environ, "RELAY_ACTOR": "ann", **settings})
    result = runner.invoke(main, arguments, input=stdin, prog_name="relay")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return CommandResult(result.exit_code, result.stdout, result.stderr)


def expect(ended: Ended, code: int, *, stdout: str = "", stderr: str = "") -> None:
    """Assert how a command ended; a failure shows everything that it printed.

    Args:
        ended: the command.
        code: its exit code.
        stdout: text that stdout contains.
        stderr: text that stderr contains.
    """
    printed = f"exit code {ended.returncode}\nstdout: {ended.stdout}\nstderr: {ended.stderr}"
    assert ended.returncode == code, f"expected exit code {code}\n{printed}"
    assert stdout in ended.stdout, f"{stdout!r} is not in stdout\n{printed}"
    assert stderr in ended.stderr, f"{stderr!r} is not in stderr\n{printed}"
