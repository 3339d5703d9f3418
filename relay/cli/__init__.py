"""The command line: ``relay``, also ``python -m relay``."""

from importlib import import_module

import click

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


class Verbs(click.Group):
    """Loads a verb when it is asked for: loading all of them takes longer than most need for their answer."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """Every verb, as the help tells them."""
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
