"""A relay that gives an interaction up after two failures of CXone that count: ``python -m testkit.hasty_relay``."""

import sys

from relay.enrichment import enricher
from relay.process.main import run_relay
from relay.shard.services import ignore_steps

if __name__ == "__main__":
    enricher.MOST_FAILURES, enricher.REST_SECONDS = 2, 0.01
    sys.exit(run_relay(ignore_steps))
