"""Every command with its options, from click's objects."""

from collections.abc import Iterator
from inspect import cleandoc

import click

from relay.cli import main
from testkit.documentation.markdown import paragraphs, table

PROGRAM = "relay"
VERBATIM = "\b\n"
"""Begins a paragraph that click does not wrap."""


def commands() -> str:
    """A section for each command, in alphabetical order."""
    context = click.Context(main, info_name=PROGRAM)
    return paragraphs(_section(each) for each in _commands(context))


def _commands(context: click.Context) -> Iterator[click.Context]:
    """A context for each command of a group; those of its groups follow them."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        inner = click.Context(command, info_name=name, parent=context)
        yield inner
        if isinstance(command, click.Group):
            yield from _commands(inner)


def _section(context: click.Context) -> str:
    command = context.command
    usage = f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    return paragraphs(
        [
            f"## `{context.command_path}`",
            f"```\n{usage}\n```",
            *map(_paragraph, cleandoc(command.help or "").split("\n\n")),
            table(["option", "meaning"], _options(context)),
        ]
    )


def _paragraph(text: str) -> str:
    """A paragraph of the help as one line, and its examples as a block of code."""
    if not text.startswith(VERBATIM):
        return " ".join(text.split())
    title, _, lines = text.removeprefix(VERBATIM).partition("\n")
    return f"{title}\n\n```\n{cleandoc(lines)}\n```"


def _options(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1] and "--help" not in parameter.opts:
            yield f"`{record[0]}`", record[1]
