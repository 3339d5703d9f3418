"""A relay that dies (-9) in traps at its steps (see ``relay.demo.crash``): ``python -m testkit.trapped_relay``."""

import sys

from relay.process.main import run_relay
from testkit.traps import Traps

if __name__ == "__main__":
    traps = Traps.from_environ()
    sys.exit(run_relay(lambda step, _shard: traps.reach(step)))
