"""Settings and logging, which all processes share."""

import os

for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    # With this variable prometheus-client keeps each metric in a mapped file: the process cannot start if the folder
    # is missing, and dies if the disk is full. Remove the variable before that library is imported.
    os.environ.pop(_name, None)
