"""The command line, run in this process: the same code as ``relay``, without the start of an interpreter each time."""

from collections.abc import Mapping
from typing import NamedTuple

from click.testing import CliRunner

from relay.cli import main


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def command(environ: Mapping[str, str], *arguments: str, stdin: str = "", **further: str) -> Ended:
    """Run ``relay`` with arguments, without a terminal; keyword arguments are further settings."""
    runner = CliRunner(env={**environ, "RELAY_ACTOR": "ann", **further})
    result = runner.invoke(main, arguments, input=stdin, prog_name="relay")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)
