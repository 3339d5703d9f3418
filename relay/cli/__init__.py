"""The command line: ``relay``, also ``python -m relay``."""

import click

from relay.cli.demo import demo
from relay.cli.run import run
from relay.cli.status import status

DONE, FAILED, USAGE, NOTHING_MATCHED, CHECK_FAILED, PARTLY_DONE = range(6)
"""Exit codes."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxone-outbox-relay")
def main() -> None:
    """Move interactions from the outbox into Kafka, exactly once, and look after them."""


main.add_command(run)
main.add_command(status)
main.add_command(demo)
