"""What every process shares and neither the door, the ledger nor the carrier owns: settings and logging."""

import os

for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    # With it prometheus-client keeps every metric in a mapped file. Where its folder is missing, the process cannot
    # start, and where its disk is full, it dies. It has to go before that library is imported.
    os.environ.pop(_name, None)
