"""A relay that gives up an interaction after two failures that count: ``python -m testkit.hasty_relay``."""

import sys

from relay.enrichment.failures import FailurePolicy
from relay.process.main import run_relay

if __name__ == "__main__":
    sys.exit(run_relay(failure_policy=FailurePolicy(max_failures=2, pause_seconds=0.01)))
