"""Command groups whose help shows the whole summary of each command."""

import click


class Group(click.Group):
    """A click group that wraps long summaries; click itself truncates them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with its summary."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(command)) for name, command in commands if command is not None])


def summary_of(command: click.Command) -> str:
    """Return the first paragraph of a command's help as one line."""
    return " ".join((command.help or "").partition("\n\n")[0].split())
