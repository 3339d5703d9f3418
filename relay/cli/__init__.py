"""The command line: ``relay``, also ``python -m relay``."""

import sys
from collections.abc import Sequence
from importlib import import_module
from shutil import get_terminal_size
from typing import Any, NoReturn

import click

from relay.cli.failures import report
from relay.cli.groups import Group

VERBS = {
    "migrate": "migrate.migrate",
    "run": "run.run",
    "status": "status.status",
    "list": "list.list_rows",
    "show": "show.show",
    "retry": "repair.retry",
    "discard": "repair.discard",
    "replay": "repair.replay",
    "inference": "inference.inference",
    "pause": "pause.pause",
    "resume": "pause.resume",
    "prune": "prune.prune",
    "erase": "erase.erase",
    "audit": "audit.audit",
    "reshard": "reshard.reshard",
    "reconcile": "reconcile.reconcile",
    "check": "check.check",
    "demo": "demo.demo",
}
"""Where in this package each verb is."""
NARROW_COLUMNS = 52
"""Below, click would fold its help at 50 columns nevertheless."""


class Verbs(Group):
    """Loads a verb when it is asked for: loading all of them takes longer than most need for their answer."""

    def main(self, args: Sequence[str] | None = None, *arguments: Any, **further: Any) -> NoReturn:
        """Run a command and exit; whatever goes wrong ends as a line on stderr and an exit code."""
        further["standalone_mode"] = False
        if (columns := get_terminal_size().columns) < NARROW_COLUMNS:
            further["terminal_width"] = columns
        try:
            code = super().main(args, *arguments, **further)
        except Exception as error:  # noqa: BLE001 - no traceback reaches an operator
            code = report(error)
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """Every verb, in alphabetical order."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, or None; then all are loaded, for click names those that are like what was typed."""
        for name in [cmd_name] if cmd_name in VERBS else VERBS:
            module, verb = VERBS[name].split(".")
            self.add_command(getattr(import_module(f"relay.cli.{module}"), verb))
        return super().get_command(ctx, cmd_name)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxone-outbox-relay")
def main() -> None:
    """Move interactions from the outbox into Kafka, exactly once, and look after them."""
