"""The help of every command: short summaries, help for each option, two examples, nothing cut off."""

import re
from collections.abc import Iterator

import click
import pytest

from relay.cli import COMMANDS, main
from testkit.command_line import command

MAX_SUMMARY_CHARACTERS = 60


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command and group below a group, with the names that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        each = group.get_command(context, name)
        assert each is not None, name
        yield (*path, name), each
        if isinstance(each, click.Group):
            yield from walk(each, (*path, name))


ALL = dict(walk(main))


def summary_of(path: tuple[str, ...]) -> str:
    """Return the first line of a command's help."""
    return (ALL[path].help or "").partition("\n")[0]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_a_summary_is_one_short_imperative_line(path: tuple[str, ...]) -> None:
    """It has at most 60 characters, begins with a capital, ends with a period and stands in a paragraph of its own."""
    summary = summary_of(path)
    assert len(summary) <= MAX_SUMMARY_CHARACTERS, summary
    assert re.fullmatch(r"[A-Z][a-z]+ .*[^.]\.", summary), summary
    assert (ALL[path].help or "").split("\n")[1] == "", ALL[path].help


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_help(path: tuple[str, ...]) -> None:
    """It is a sentence that ends with a period."""
    options = [option for option in ALL[path].params if isinstance(option, click.Option)]
    assert [option.name for option in options if not (option.help or "").endswith(".")] == []


@pytest.mark.parametrize("path", [path for path in ALL if not isinstance(ALL[path], click.Group)], ids=" ".join)
def test_every_command_has_two_examples(path: tuple[str, ...]) -> None:
    """They call the command by its full name."""
    examples = (ALL[path].help or "").partition("Examples:")[2]
    assert examples.count(" ".join(("relay", *path))) >= 2, ALL[path].help


@pytest.mark.parametrize("path", ALL, ids=" ".join)
@pytest.mark.parametrize("columns", ["40", "80"])
def test_the_help_is_not_cut_off(path: tuple[str, ...], columns: str) -> None:
    """Neither summaries nor options are truncated, and no internal range is shown."""
    shown = command({}, *path, "--help", COLUMNS=columns, TERMINAL_WIDTH=columns).stdout.replace("[ARGS]...", "")
    assert not re.search(r"\.\.\.\n|\.\.\.$|…\n|RANGE|<=x|x>=|922337", shown), shown


def test_the_overview_lists_each_command_with_its_summary() -> None:
    """Each takes one line of at most 80 columns."""
    lines = [line.split() for line in command({}, "--help", COLUMNS="80").stdout.splitlines()]
    missing = [name for name in COMMANDS if [name, *summary_of((name,)).split()] not in lines]
    assert missing == []
