"""The command line: ``relay``, also ``python -m relay``."""

import click

from relay.cli.audit import audit
from relay.cli.check import check
from relay.cli.demo import demo
from relay.cli.erase import erase
from relay.cli.inference import inference
from relay.cli.list import list_rows
from relay.cli.pause import pause, resume
from relay.cli.prune import prune
from relay.cli.reconcile import reconcile
from relay.cli.repair import discard, replay, retry
from relay.cli.reshard import reshard
from relay.cli.run import run
from relay.cli.show import show
from relay.cli.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cxone-outbox-relay")
def main() -> None:
    """Move interactions from the outbox into Kafka, exactly once, and look after them."""


VERBS = (
    *(run, status, list_rows, show, retry, discard, replay, inference, pause, resume),
    *(prune, erase, audit, reshard, reconcile, check, demo),
)
for verb in VERBS:
    main.add_command(verb)
