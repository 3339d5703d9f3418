"""A relay that gives an interaction up after two failures of CXone that count: ``python -m tests.impatient``."""

import sys

from relay import enrichment
from relay.cli.run import work
from relay.shard import ignore_steps

if __name__ == "__main__":
    enrichment.MOST_FAILURES, enrichment.REST_SECONDS = 2, 0.01
    sys.exit(work(ignore_steps))
