"""The command line: ``relay``, also ``python -m relay``."""

import sys
from collections.abc import Sequence
from importlib import import_module
from shutil import get_terminal_size
from typing import Any, NoReturn

import click

from relay.cli.command_group import Group
from relay.cli.errors import report

COMMANDS = {
    "migrate": "migrate.migrate",
    "run": "run.run",
    "status": "status.status",
    "list": "list.list_rows",
    "show": "show.show",
    "retry": "retry.retry",
    "discard": "discard.discard",
    "replay": "replay.replay",
    "inference": "inference.inference",
    "pause": "pause.pause",
    "resume": "resume.resume",
    "prune": "prune.prune",
    "erase": "erase.erase",
    "audit": "audit.audit",
    "reshard": "reshard.reshard",
    "reconcile": "reconcile.reconcile",
    "check": "check.check",
    "verify": "verify.verify",
    "console-password": "console_password.console_password",
    "demo": "demo.demo",
}
"""Module and function of each command, in this package."""
NARROW_COLUMNS = 52
"""Below this width click would still wrap its help at 50 columns."""


class LazyGroup(Group):
    """Imports a command when it is used: importing all of them takes longer than most commands run."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> NoReturn:
        """Run a command and exit. Every error ends as one line on stderr and an exit code."""
        options["standalone_mode"] = False
        if (columns := get_terminal_size().columns) < NARROW_COLUMNS:
            options["terminal_width"] = columns
        try:
            code = super().main(args, *positional, **options)
        except Exception as error:  # noqa: BLE001 - operators never see a traceback
            code = report(error)
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return every command name in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command.

        For an unknown name, import all of them, so that click can suggest similar names, and return None.
        """
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            module, function = COMMANDS[name].split(".")
            self.add_command(getattr(import_module(f"relay.cli.{module}"), function))
        return super().get_command(ctx, cmd_name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxone-outbox-relay")
def main() -> None:
    """Relay CXone interactions from the outbox to Kafka exactly once."""
