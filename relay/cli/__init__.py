"""The command line: ``relay``, also ``python -m relay``."""

import click

from relay.cli.audit import audit
from relay.cli.check import check
from relay.cli.demo import demo
from relay.cli.list import list_rows
from relay.cli.repair import discard, replay, retry
from relay.cli.run import run
from relay.cli.show import show
from relay.cli.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxone-outbox-relay")
def main() -> None:
    """Move interactions from the outbox into Kafka, exactly once, and look after them."""


for verb in (run, status, list_rows, show, retry, discard, replay, audit, check, demo):
    main.add_command(verb)
